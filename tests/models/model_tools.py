"""A model folder of no weights, and what a cache folder holds."""

import json
from pathlib import Path


def left(folder: Path) -> list[str]:
    """Everything below a folder but locks."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def model_folder(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder
