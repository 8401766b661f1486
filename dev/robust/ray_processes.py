"""The processes that a Ray instance has started for this one, so that one of them can be killed."""

from __future__ import annotations

from pathlib import Path


def processes_named(name: bytes, above: int) -> list[int]:
    """Processes below the process `above` that have this name in their command line."""
    folders = [folder for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    return sorted(int(folder.name) for folder in folders if name in _read(folder / "cmdline") and above in _ancestors(folder))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _ancestors(folder: Path) -> set[int]:
    """Processes above one."""
    found = set[int]()
    while folder.name != "0" and (facts := _read(folder / "stat")):
        parent = int(facts.rpartition(b")")[2].split()[1])
        found.add(parent)
        folder = folder.parent / str(parent)
    return found
