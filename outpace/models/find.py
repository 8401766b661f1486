"""Find a model and make it ready: a name of the catalog, a hub id, a local folder or a .gguf file.

Converted models are cached by content, precision and versions; a warm start imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError, OutpaceError
from outpace.models.catalog import DEFAULT_MODEL as DEFAULT_MODEL
from outpace.models.catalog import NAMES, CatalogModel, default_name, lookup
from outpace.models.channel import listen
from outpace.models.fetch import fetch
from outpace.models.refusal import refuse_folder
from outpace.models.store import entry, home, is_whole
from outpace.progress import note, stages
from outpace.targets.identity import Base

PRECISIONS = ("int8", "int4", "bf16", "f32")
CONVERTER_VERSION = 6  # raise it when a conversion would give another model
FILES = (".safetensors", ".json", ".model", ".jinja", ".txt")  # what a model folder is made of
RECORDS = ("outpace.json", "run.json")  # in the folder of a model trained here: how it was made, which changes nothing about it


@dataclass(frozen=True)
class Source:
    """Where a model's weights are: a folder that transformers can read, or a .gguf file. `num_layers`: only its first layers are wanted.

    `known` is the model of the catalog that it is.
    """

    name: str
    path: Path
    num_layers: int | None = None
    known: CatalogModel | None = None


@dataclass(frozen=True)
class Converted:
    """A converted model in the cache: `model.xml`, tokenizer files and these facts."""

    folder: Path
    base: Base
    max_len: int
    eos_token_ids: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def vocab_size(self) -> int:
        return self.base.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.base.hidden_size


def locate(model: str = DEFAULT_MODEL) -> Source:
    """Find a model by name, path or hub id; downloads what is missing. Raises BadInputError when there is no such model."""
    source = source_of(model)
    return replace(source, path=fetch(source.known)) if source.known else source


def source_of(model: str) -> Source:
    """The same, but a model of the catalog is not downloaded, and its `path` means nothing."""
    if not model.strip():
        raise BadInputError("the name of the model is empty")
    if known := catalog_model(model):
        return Source(known.title, home(), known=known)
    model = default_name() if model == DEFAULT_MODEL else model
    try:
        path = Path(model).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInputError(f"no model {model[:80]!r}: {error}"[:200]) from error
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BadInputError(f"there is no file {path}")
        return Source(path.stem, path.resolve())
    if path.is_dir():
        refuse_folder(path)
        return Source(path.resolve().name, path.resolve())
    if path.exists() or path.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise BadInputError(
            f"no model {model!r}: not one of {', '.join(NAMES)}, not a folder or .gguf file, and not a hub id such as org/name"
        )
    folder = _from_hub(model)
    refuse_folder(folder)
    return Source(model, folder)


def catalog_model(model: str) -> CatalogModel | None:
    """The model of the catalog that is meant; a folder of the same name goes first, except for the name `default`."""
    known = lookup(model)
    return None if known and model != DEFAULT_MODEL and (Path(model) / "config.json").is_file() else known


def _from_hub(model: str) -> Path:
    """The snapshot folder of a hub id: the local copy if there is one, else a download with the hub's own progress bars."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        try:
            found = Path(snapshot_download(model, local_files_only=True))
            if (found / "config.json").exists() and any(found.glob("*.safetensors")):  # else an interrupted download
                return found
        except LocalEntryNotFoundError:
            pass
        note(f"fetching {model} from the hub")
        found = Path(snapshot_download(model, allow_patterns=[f"*{ending}" for ending in FILES]))
        if not any(found.glob("*.safetensors")):
            raise OSError("it has no safetensors weights here")
        return found
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BadInputError(f"no model {model!r} here, and the hub could not give it: {str(error).strip().splitlines()[0]}") from error


def fingerprint(path: Path) -> str:
    """Identifies the weights without reading them all: names, sizes, times and, of small files, the content."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (*FILES, ".bin"))
    for file in (file for file in files if file.name not in RECORDS):
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size}".encode())
        digest.update(file.read_bytes() if stat.st_size < 1 << 20 else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()[:16]


def _entry_name(source: Source, precision: str) -> str:
    mark = source.known.mark if source.known else fingerprint(source.path)
    versions = f"{CONVERTER_VERSION}-{version('openvino').split('-')[0]}"
    part = f"first{source.num_layers}-" if source.num_layers else ""
    return f"converted/{safe_name(source.name)}-{mark}-{part}{precision}-{versions}"


def safe_name(name: str) -> str:
    """A model's name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in name)


def converted(model: str | Source = DEFAULT_MODEL, precision: str = "int8", num_layers: int | None = None) -> Converted:
    """The model, or its first layers with its head, in OpenVINO form; converted on first use.

    Raises BadInputError for a model that cannot be had or converted.
    """
    if precision not in PRECISIONS:
        raise BadInputError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    source = replace(model if isinstance(model, Source) else source_of(model), num_layers=num_layers)
    if source.known and not is_whole(home() / _entry_name(source, precision)):  # a warm start needs no look at the original
        source = replace(source, path=fetch(source.known))
    folder = entry(_entry_name(source, precision), lambda out: _convert(source, out, precision))
    facts: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    base = Base(source.name, facts["fingerprint"], facts["hidden_size"], facts["vocab_size"])
    return Converted(folder, base, facts["max_len"], tuple(facts["eos_token_ids"]))


def _converter(source: Source) -> str:
    """The module that converts: GGUF files of the Llama family need neither torch nor transformers, everything else does."""
    if source.path.suffix == ".gguf":
        from outpace.models.gguf.support import reason_against

        reason = reason_against(source.path)
        if not reason:
            return "outpace.models.gguf"
        note(f"{source.name} is read by transformers, which takes longer: {reason}")
    missing = [name for name in ("torch", "transformers", "nncf", "gguf") if find_spec(name) is None]
    if missing:
        raise OutpaceError(f"converting a model needs {', '.join(missing)}: pip install 'outpace[convert]'")
    return "outpace.models.convert"


def _convert(source: Source, out: Path, precision: str) -> None:
    """Run the converter in a process of its own. Its stages are shown; its warnings are kept for the error message."""
    command = [sys.executable, "-m", _converter(source), str(source.path), str(out), precision]
    command += [str(source.num_layers)] if source.num_layers else []
    part = f"the first {source.num_layers} layers of " if source.num_layers else ""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    with stages(f"converting {part}{source.name} to {precision} (once)") as show, (out / "log").open("w+", encoding="utf-8") as log:
        with subprocess.Popen(command, stderr=log, encoding="utf-8", errors="replace", **pipes) as process:
            try:
                error = listen(process.stdout or (), show)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            log.seek(0)
            last = [text.strip() for text in log.read().splitlines() if text.strip()][-1:]
            error = error or BadInputError("".join(last) or f"exit code {process.returncode}")
            raise type(error)(f"cannot convert {source.name}: {error}")
    (out / "log").unlink()
