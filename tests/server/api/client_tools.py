"""Environments of other people's clients, each below the folder that OUTPACE_CLIENTS names; what is missing there is installed once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "clients"
HOME = os.environ.get("OUTPACE_CLIENTS")
PATIENCE = 150  # seconds
needs_clients = pytest.mark.skipif(HOME is None, reason="OUTPACE_CLIENTS names no folder for the clients' environments")


@dataclass(frozen=True)
class Client:
    """A script, the name of its environment, and the packages in there."""

    script: str
    environment: str
    packages: tuple[str, ...]
    is_node: bool = False

    def command(self, folder: Path) -> list[str]:
        """What runs the script. Scripts of Node find their packages from where they lie."""
        if self.is_node:
            return ["node", shutil.copy(HERE / self.script, folder)]
        return [str(folder / "bin" / "python"), str(HERE / self.script)]

    def install(self, folder: Path) -> None:
        """Make the environment, unless it is there."""
        done = folder / "done"
        if done.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_node:
            commands = [["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder), *self.packages]]
        else:
            commands = [[sys.executable, "-m", "venv", str(folder)], [str(folder / "bin" / "pip"), "install", "-q", *self.packages]]
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, timeout=900)
        done.touch()


def installed(client: Client) -> Path:
    """The folder of the client's environment."""
    folder = Path(HOME or "") / client.environment
    try:
        client.install(folder)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"cannot install {client.packages}: {error}")
    return folder


def output_of(command: list[str], cwd: Path | None = None, **variables: str) -> str:
    """What a program prints that knows nothing of this checkout, started in the folder `cwd`."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **variables}  # else litellm waits for a download
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=cwd, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
