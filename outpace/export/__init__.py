"""Export of trained heads and draft models to the layouts of other engines: one exporter per engine, all with the same interface."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

from outpace.errors import BadInputError

EXPORTERS = {
    "tgi": "outpace.export.tgi:export_tgi",
    "vllm": "outpace.export.vllm:export_vllm",
}


class Exporter(Protocol):
    """Writes the heads or the draft model in folder `source`, made for `model` (None: the one named in the folder), to the new folder
    `out`, and returns the command that serves them. Raises BadInputError, and leaves no folder, if the engine cannot run them."""

    def __call__(self, source: Path, out: Path, model: str | None) -> str: ...


def exporter(engine: str) -> Exporter:
    """The exporter for an engine. Raises BadInputError for an unknown engine."""
    if engine not in EXPORTERS:
        raise BadInputError(f"there is no export to {engine!r}; known: {', '.join(EXPORTERS)}")
    module, _, name = EXPORTERS[engine].partition(":")
    found: Exporter = getattr(import_module(module), name)
    return found
