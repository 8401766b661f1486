"""The trained heads that come with outpace, under `outpace/assets/KIND-NAME/`."""

from __future__ import annotations

from pathlib import Path

from outpace.heads.format import CONFIG, read_config
from outpace.targets.identity import Base

ASSETS = Path(__file__).parents[1] / "assets"


def shipped(kind: str, base: Base | None) -> Path | None:
    """The folder of the shipped heads of this kind for this model; None if there are none."""
    if base is None:
        return None
    found = (config.parent for config in sorted(ASSETS.glob(f"{kind}-*/{CONFIG}")))
    return next((folder for folder in found if read_config(folder)["base"]["fingerprint"] == base.fingerprint), None)
