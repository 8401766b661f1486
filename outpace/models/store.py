"""The cache folder: entries appear whole or not at all, are checked by checksum, and are built by one process at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from outpace.errors import OutpaceError
from outpace.files import write_whole
from outpace.progress import note

MANIFEST = "manifest.json"
FULL_CHECK_BYTES = 512 << 20  # larger files are checked by size alone
UNSETTLED_NS = 50_000_000  # a file this much older than its manifest cannot have changed since without another time
LOCK_SECONDS = 4 * 3600.0  # a large model over a slow line
MEASURING_SECONDS = 300.0


def home() -> Path:
    """The cache folder: OUTPACE_HOME, or `outpace` in the user's cache folder."""
    if given := os.environ.get("OUTPACE_HOME"):
        return Path(given).expanduser()
    from platformdirs import user_cache_path  # not needed where the folder is given

    return Path(user_cache_path("outpace"))


def partial(name: str) -> Path:
    """The folder in which an interrupted download is kept."""
    return home() / "partial" / name


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(folder: Path) -> bool:
    """Does the entry exist with every file as it was written? A start must not read the whole model once more, so checksums are computed
    only for files that have another time than the manifest says, which then gets their time."""
    try:
        files = json.loads((folder / MANIFEST).read_text("utf-8"))
        settled = (folder / MANIFEST).stat().st_mtime_ns - UNSETTLED_NS
        if not all(_matches(folder / name, fact, settled) for name, fact in files.items()):
            return False
        times = {name: (folder / name).stat().st_mtime_ns for name in files}
        if any(fact.get("mtime_ns") != times[name] for name, fact in files.items()):
            with suppress(OSError):  # a folder that cannot be written to is checked again
                write_whole(folder / MANIFEST, json.dumps({n: {**fact, "mtime_ns": times[n]} for n, fact in files.items()}, indent=2))
        return True
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _matches(path: Path, fact: dict[str, object], settled: int) -> bool:
    found = path.stat()
    if found.st_size != fact["size"] or not path.is_file():
        return False
    is_known = fact.get("mtime_ns") == found.st_mtime_ns < settled
    return is_known or found.st_size > FULL_CHECK_BYTES or sha256(path) == fact["sha256"]


def _facts(path: Path) -> dict[str, object]:
    """What the manifest says about a file."""
    found = path.stat()
    return {"size": found.st_size, "sha256": sha256(path), "mtime_ns": found.st_mtime_ns}


def entry(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, built by `build(empty folder)` when it is missing or damaged.

    Built beside its final place and renamed when complete: a crash, Ctrl-C or a full disk leaves nothing half-made.
    """
    folder = home() / name
    if is_whole(folder):
        return folder
    with _writing(folder.parent), _locked(folder):
        if is_whole(folder):  # another process built it while this one waited
            return folder
        for stale in folder.parent.glob(f".{folder.name}+*.tmp"):  # of a killed process; the lock says nobody is building now
            shutil.rmtree(stale, ignore_errors=True)
        temporary = folder.parent / f".{folder.name}+{os.getpid()}.tmp"
        temporary.mkdir()
        try:
            build(temporary)
            files = {path.name: _facts(path) for path in sorted(temporary.iterdir()) if path.is_file()}
            (temporary / MANIFEST).write_text(json.dumps(files, indent=2), "utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def _locked(folder: Path, seconds: float = LOCK_SECONDS, doing: str = "") -> Iterator[None]:
    """Hold the lock of an entry; a process that has to wait for it says what the other one is `doing`. Raises OutpaceError, and OSError
    where no lock can be made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        try:
            lock.acquire(timeout=min(1.0, seconds))
        except Timeout:
            if not seconds:
                raise
            note(f"another process is {doing or f'making {folder.name}'}; waiting for it")
            lock.acquire(timeout=seconds)
    except Timeout as error:
        raise OutpaceError(f"another process is making {folder}; stop it and try again") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def measuring(seconds: float = MEASURING_SECONDS) -> Iterator[None]:
    """Hold the lock for measurements of this machine: two at once would see each other. Whoever has waited for `seconds`, or cannot make a
    lock, goes on without it."""
    with ExitStack() as stack:
        with suppress(OSError, OutpaceError):
            stack.enter_context(_locked(home() / "measurement", seconds, "measuring this machine"))
        yield


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Create the folder; say in one line what a full or read-only disk did."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise OutpaceError(f"cannot write to {folder}: {reason} (OUTPACE_HOME chooses another folder)") from error


def num_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def entries() -> list[str]:
    """Name of every entry of the cache."""
    return sorted(str(path.parent.relative_to(home())) for path in home().glob(f"*/*/{MANIFEST}"))


def remove(name: str, lock: str = "") -> int:
    """Delete a folder of the cache, whole or not; returns the bytes that were freed.

    `lock` is the entry whose lock a process holds that writes there, if it is another one. Raises OutpaceError while one does.
    """
    folder = home() / name
    with _writing(folder.parent), _locked(home() / (lock or name), seconds=0.0):
        freed = num_bytes(folder)
        shutil.rmtree(folder)
    return freed


def listing() -> list[dict[str, object]]:
    """Name and size of every entry of the cache."""
    return [{"name": name, "megabytes": round(num_bytes(home() / name) / 1e6, 1)} for name in entries()]
