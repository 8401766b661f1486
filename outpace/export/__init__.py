"""Trained helpers in the layouts of other engines: one exporter an engine, all with the same face."""

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
    """Writes the helper in folder `source`, made for `model` (None: the one it names), into the new folder `out`; returns the command
    that serves it. Raises BadInputError for a helper that the engine cannot run as it is, and leaves no folder then."""

    def __call__(self, source: Path, out: Path, model: str | None) -> str: ...


def exporter(engine: str) -> Exporter:
    """The exporter for an engine. Raises BadInputError for an engine that is not known."""
    if engine not in EXPORTERS:
        raise BadInputError(f"there is no export to {engine!r}; known: {', '.join(EXPORTERS)}")
    module, _, name = EXPORTERS[engine].partition(":")
    found: Exporter = getattr(import_module(module), name)
    return found
