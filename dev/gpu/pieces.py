"""The small model in pieces that travel one by one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

PIECE_BYTES = 48 << 20


def split(folder: Path, source: Path | None = None) -> list[Path]:
    """Write the pieces of `source`, by default the file of the model `tiny`, to a folder; returns their paths."""
    if source is None:
        from outpace.models.find import locate

        source = locate("tiny").path
    folder.mkdir(parents=True, exist_ok=True)
    pieces = []
    with source.open("rb") as file:
        while content := file.read(PIECE_BYTES):
            pieces.append(folder / f"{source.name}.piece{len(pieces):02}")
            pieces[-1].write_bytes(content)
    return pieces


def joined(model: Path) -> Path:
    """The file that the pieces in this folder make up; any other path as it is. Raises FileNotFoundError if a piece is missing."""
    pieces = sorted(model.glob("*.piece[0-9][0-9]")) if model.is_dir() else []
    if not pieces:
        return model
    if [piece.suffix for piece in pieces] != [f".piece{i:02}" for i in range(len(pieces))]:
        raise FileNotFoundError(f"a piece is missing in {model}")
    whole = Path(tempfile.mkdtemp()) / pieces[0].stem
    with whole.open("wb") as file:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, file)
    return whole
