"""A peer's way to decode as one side of a benchmark: named by a spec, with its answers and, if it fails, the reason."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from outpace.bench.peers.environment import peer_module, python_of
from outpace.bench.peers.process import PeerProcess
from outpace.errors import BadInputError, OutpaceError
from outpace.models.find import converted, locate, source_of
from outpace.models.precision import auto_precision
from outpace.progress import note, track

WARM_UP_PROMPT, WARM_UP_TOKENS = 32, 8


@dataclass(frozen=True)
class PeerSpec:
    """`peer:way`, `peer:draft:MODEL`, each with `:key=value` options, such as `llama.cpp:ngram-simple:size_n=3:size_m=8`."""

    text: str
    peer: str
    way: str
    draft_model: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def module(self) -> ModuleType:
        return peer_module(self.peer)


def parse_peers(text: str) -> list[PeerSpec]:
    """The specs of a comma-separated list. A peer's name alone means all its ways without a draft model; plain always comes first.

    Raises BadInputError for an unknown peer or way.
    """
    found: dict[str, PeerSpec] = {}
    for word in (word.strip() for word in text.split(",") if word.strip()):
        peer, _, way = word.partition(":")
        ways = [way] if way else peer_module(peer).WAYS
        for spec in (_parse(f"{peer}:{each}") for each in ("plain", *ways)):
            found.setdefault(spec.text, spec)
    if not found:
        raise BadInputError("--peers names no peer")
    return sorted(found.values(), key=lambda spec: list(dict.fromkeys(each.peer for each in found.values())).index(spec.peer))


def _parse(text: str) -> PeerSpec:
    peer, way, *rest = text.split(":")
    known = dict.fromkeys(each.partition(":")[0] for each in (*peer_module(peer).WAYS, "draft"))
    if way not in known:
        raise BadInputError(f"unknown peer {text!r}; the ways of {peer}: {', '.join(known)}")
    names = [part for part in rest if "=" not in part]
    if (way == "draft") != (len(names) == 1):
        raise BadInputError(f"peer {text!r}: expected {peer}:draft:MODEL" if way == "draft" else f"peer {text!r}: unexpected {rest[0]!r}")
    options = dict(part.split("=", 1) for part in rest if "=" in part)
    return PeerSpec(text, peer, way, names[0] if names else None, options)


@dataclass
class PeerSide:
    """One peer in a benchmark. A failure at any time ends it: `error` says why, and `answers` stops there."""

    spec: PeerSpec
    about: dict[str, Any] = field(default_factory=dict)
    answers: list[list[dict[str, Any]]] = field(default_factory=list)  # of every prompt, by repeat
    error: str | None = None
    process: PeerProcess | None = None

    @property
    def name(self) -> str:
        return self.spec.text

    def start(self, model: str, precision: str, threads: int | None, prompt: list[int]) -> None:
        """Load the model and answer one prompt as a warm-up."""
        try:
            python = python_of(self.spec.peer)
            module = self.spec.module
            helper = None if self.spec.draft_model is None else _file_of(self.spec.draft_model, module.MODEL, precision)
            arguments = {
                "model": _file_of(model, module.MODEL, precision),
                "draft_model": helper,
                "way": self.spec.way,
                "options": self.spec.options,
                "threads": threads or os.cpu_count() or 1,
            }
            self.process = PeerProcess(python, Path(str(module.__file__)), arguments)
            self.about = self.process.about
            self.process.answer(prompt[:WARM_UP_PROMPT], WARM_UP_TOKENS)
        except OutpaceError as error:
            self.fail(str(error))

    def answer(self, prompt: list[int], max_tokens: int, repeat: int) -> None:
        """Answer the next prompt, or once more the same one in a later repeat; does nothing after a failure."""
        if self.process is None:
            return
        try:
            found = self.process.answer(prompt, max_tokens)
        except OutpaceError as error:
            self.fail(str(error))
            return
        if repeat == 0:
            self.answers.append([])
        self.answers[-1].append(found)

    def fail(self, reason: str) -> None:
        """Give up: keep the reason, and free the memory."""
        self.error = reason
        self.close()

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.close()
            self.process = None


def start_all(sides: Sequence[PeerSide], model: str, precision: str, threads: int | None, prompt: list[int]) -> None:
    """Start every peer; those that cannot start have an `error` afterwards, which is noted."""
    for side in track(sides, len(sides), "starting peers") if sides else ():
        side.start(model, precision, threads, prompt)
    for side in sides:
        if side.error is not None:
            note(f"{side.name} failed: {side.error}")


def close_all(sides: Sequence[PeerSide]) -> None:
    """End all processes."""
    for side in sides:
        side.close()


def _file_of(model: str, kind: str, precision: str) -> str:
    """Path of what a peer of this kind reads: the .gguf file, the folder of our converted model, or a folder of transformers."""
    if kind == "openvino":
        source = source_of(model)
        return str(converted(source, auto_precision(source) if precision == "auto" else precision).folder)
    path = locate(model).path
    if kind == "gguf" and path.suffix != ".gguf":
        raise BadInputError(f"it reads .gguf files, and {model} is none")
    return str(path)
