"""The trained heads that come with outpace, under `outpace/assets/KIND-NAME/`."""

from __future__ import annotations

from pathlib import Path

from outpace.errors import BadInputError
from outpace.heads.format import CONFIG, read_config
from outpace.targets.identity import Base

ASSETS = Path(__file__).parents[1] / "assets"


def _folders(kind: str) -> list[Path]:
    """The folders of all shipped heads of a kind."""
    return [config.parent for config in sorted(ASSETS.glob(f"{kind}-*/{CONFIG}"))]


def shipped(kind: str, base: Base | None) -> Path | None:
    """The folder of the shipped heads of this kind for this model; None if there are none."""
    if base is None:
        return None
    return next((folder for folder in _folders(kind) if read_config(folder)["base"]["fingerprint"] == base.fingerprint), None)


def shipped_table(vocab_size: int, vocabulary: str) -> Path | None:
    """The folder of the shipped successor table of a model with the same tokens; None if there is none."""
    return next((folder for folder in _folders("recycling") if has_tokens(folder, vocab_size, vocabulary)), None)


def has_tokens(folder: Path, vocab_size: int, vocabulary: str) -> bool:
    """Whether a successor table was made for a model with these tokens. What usually follows a token differs little between such models."""
    config = read_config(folder)
    base, settings = config.get("base"), config.get("settings")
    if not vocabulary or not isinstance(base, dict) or not isinstance(settings, dict):
        return False
    return (base.get("vocab_size"), settings.get("vocabulary")) == (vocab_size, vocabulary)


def heads_folder(base: Base | None, kind: str, path: str) -> tuple[Path, Base]:
    """The folder of trained heads, `path` or else the one that ships with outpace, and the model that they must fit. Raises BadInputError
    if there are none for this model."""
    if base is None:
        raise BadInputError(f"{kind}: this target does not say which model it runs, so no heads can be known to fit")
    folder = Path(path).expanduser() if path else shipped(kind, base)
    if folder is None:
        raise BadInputError(f"{kind}: no heads for {base.name} come with outpace; train some and give their folder: {kind}:PATH")
    return folder, base
