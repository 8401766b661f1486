"""The environment of a peer: a folder in the cache with a Python of its own, so that its packages never meet ours."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from outpace.bench.peers import PEERS
from outpace.errors import BadInputError, OutpaceError
from outpace.models.store import entry, home, is_whole
from outpace.progress import stages

RECORD = "packages.txt"


def peer_module(name: str) -> ModuleType:
    """The file of a peer, without its library. Raises BadInputError for an unknown one."""
    if name not in PEERS:
        raise BadInputError(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
    return import_module(f"outpace.bench.peers.{PEERS[name]}")


def python_of(name: str) -> Path | None:
    """The Python of a peer's environment; None if it is not installed."""
    folder = home() / _entry_name(name)
    return _python(folder) if is_whole(folder) else None


def install(name: str) -> Path:
    """Create the environment of a peer, unless it is there. Raises OutpaceError with pip's last line."""
    packages = peer_module(name).PACKAGES

    def build(folder: Path) -> None:
        with stages(f"installing {name} (once)") as show:
            show(", ".join(packages))
            _run(sys.executable, "-m", "venv", str(folder))
            _run(str(_python(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        (folder / RECORD).write_text("\n".join(packages), "utf-8")

    return _python(entry(_entry_name(name), build))


def _entry_name(name: str) -> str:
    mark = hashlib.sha256("\n".join(peer_module(name).PACKAGES).encode()).hexdigest()[:8]
    return f"peers/{name}-{mark}"


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise OutpaceError(f"{' '.join(command[1:4])} failed: {lines[-1] if lines else done.returncode}")
