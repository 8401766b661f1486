"""The environment of a peer: a folder in the cache with a Python of its own, so that its packages never meet ours.

A peer's file names its packages: PACKAGES; BARE, installed without their requirements and then with those that LEFT_OUT does not name; and
OPTIONAL, without which it works. A peer without packages has `program()`, which finds the user's program or raises RuntimeError; it runs in
our Python.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from outpace.bench.peers import PEERS
from outpace.errors import BadInputError, OutpaceError
from outpace.models.store import entry, home, is_whole
from outpace.progress import stages

RECORD = "packages.txt"
REQUIREMENTS = """
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
left_out, packages = sys.argv[1].split(","), sys.argv[2:]
for line in [line for package in packages for line in requires(package.partition("==")[0]) or ()]:
    found = Requirement(line)
    if found.name not in left_out and (found.marker is None or found.marker.evaluate({"extra": ""})):
        extras = f"[{','.join(sorted(found.extras))}]" if found.extras else ""
        print(f"{found.name}{extras}{found.specifier}")
"""


def peer_module(name: str) -> ModuleType:
    """The file of a peer, without its library. Raises BadInputError for an unknown one."""
    if name not in PEERS:
        raise BadInputError(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
    return import_module(f"outpace.bench.peers.{PEERS[name]}")


def python_of(name: str) -> Path:
    """The Python of a peer. Raises OutpaceError with what to do if the peer is not installed."""
    module = peer_module(name)
    if not packages_of(module):
        try:
            module.program()
        except RuntimeError as error:
            raise OutpaceError(str(error)) from error
        return Path(sys.executable)
    folder = home() / _entry_name(name)
    if not is_whole(folder):
        raise OutpaceError(f"not installed; run: python -m outpace.bench.peers {name}")
    return _python(folder)


def is_installed(name: str) -> bool:
    """Whether a peer can run."""
    try:
        python_of(name)
    except OutpaceError:
        return False
    return True


def install(name: str) -> Path:
    """Create the environment of a peer, unless it is there or not needed. Raises OutpaceError with pip's last line, or
    without a program that is needed."""
    module = peer_module(name)
    if not packages_of(module):
        return python_of(name)

    def build(folder: Path) -> None:
        with stages(f"installing {name} (once)") as show:
            show(", ".join(packages_of(module)))
            _run(sys.executable, "-m", "venv", str(folder))
            pip = [str(_python(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run(*pip, *module.PACKAGES)
            if bare := getattr(module, "BARE", ()):
                _run(*pip, "--no-deps", *bare)
                _run(*pip, *_run(str(_python(folder)), "-c", REQUIREMENTS, ",".join(module.LEFT_OUT), *bare).split("\n"))
            for package in getattr(module, "OPTIONAL", ()):
                with suppress(OutpaceError):
                    _run(*pip, package)
        (folder / RECORD).write_text("\n".join(packages_of(module)), "utf-8")

    return _python(entry(_entry_name(name), build))


def packages_of(module: ModuleType) -> list[str]:
    """All that pip installs for a peer; nothing for one that is the user's program."""
    return [package for kind in ("PACKAGES", "BARE", "OPTIONAL") for package in getattr(module, kind, ())]


def _entry_name(name: str) -> str:
    mark = hashlib.sha256("\n".join(packages_of(peer_module(name))).encode()).hexdigest()[:8]
    return f"peers/{name}-{mark}"


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _run(*command: str) -> str:
    """What a command prints. Raises OutpaceError with the last line of its errors."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise OutpaceError(f"{' '.join(command[1:4])} failed: {lines[-1] if lines else done.returncode}")
    return done.stdout.strip()
