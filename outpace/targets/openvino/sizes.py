"""Sizes of forward passes that keep the bits of the logits, and how much padding pays. Measured once per processor and model.

The measured sizes are kept in a file beside the model, because they take seconds with a large one.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from outpace.files import write_whole
from outpace.targets.base import TargetModel
from outpace.tree.segment import Segment

logger = logging.getLogger("outpace")

MIN_TOKENS = 2  # least number of tokens of a sequence in a forward pass, and of rows of the logits
UNLIMITED = 1 << 30  # no limit on the tokens of a forward pass
LARGE = (64, 128, 256, 512)  # numbers of tokens tried; the largest with the bits of a small pass is the limit (AVX2: about 90)
EXACT_SIZES = (MIN_TOKENS, 8, 16, 33)  # the smallest that has the bits of the largest is the minimum
NARROW, WIDE, REPEATS = 4, 8, 8  # sizes of the passes that padding is measured with, and how often each is run


@dataclass(frozen=True)
class Sizes:
    """Tokens of forward passes. min_tokens: the smallest pass that has the bits of large ones (2 in f32; with bf16 on AMX, up to 4 tokens
    take another kernel). pass_tokens: the largest; larger batches are split. max_padding: the most dummy tokens that cost less than running
    a pass of another size than the one before. is_exact: there is such a smallest pass."""

    min_tokens: int = MIN_TOKENS
    pass_tokens: int = UNLIMITED
    max_padding: int = 0
    is_exact: bool = True


def kept(file: Path, key: str, measure: Callable[[], Sizes]) -> Sizes:
    """The sizes that `file` holds under this key; else measured, and kept there if the file can be written."""
    known = _read(file)
    if key not in known:
        known[key] = measure()
        with suppress(OSError):  # beside a model that cannot be written to, they are measured every time
            write_whole(file, json.dumps({name: asdict(sizes) for name, sizes in known.items()}, indent=1))
    return known[key]


def _read(file: Path) -> dict[str, Sizes]:
    """The contents of the file; empty if there is none or it cannot be used."""
    try:
        return {key: Sizes(**sizes) for key, sizes in json.loads(file.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def measured(target: TargetModel) -> Sizes:
    """Measure all sizes with forward passes of this target, whose own limits must be MIN_TOKENS, UNLIMITED and no padding."""
    least = _min_tokens(target)
    return Sizes(least or MIN_TOKENS, _pass_tokens(target), _max_padding(target), least is not None)


def _min_tokens(target: TargetModel) -> int | None:
    tokens = _tokens(target, max(EXACT_SIZES))
    slot = target.allocate(len(tokens))
    *rows, largest = (target.forward([Segment(slot, tokens[:size])], size).logits[:MIN_TOKENS].copy() for size in EXACT_SIZES)
    target.free(slot)
    found = [size for size, logits in zip(EXACT_SIZES, rows, strict=False) if np.array_equal(logits, largest)]
    if not found:
        logger.warning("on this CPU logits depend on the number of tokens in a forward pass: texts may differ; try --precision f32")
    return min(found, default=None)


def _pass_tokens(target: TargetModel) -> int:
    sizes = [size for size in LARGE if size <= min(target.max_cached_tokens // 2, target.capabilities.max_len)]
    tokens = _tokens(target, max([MIN_TOKENS, *sizes]))
    slot, other = target.allocate(MIN_TOKENS), target.allocate(len(tokens))
    small = target.forward([Segment(slot, tokens[:MIN_TOKENS])], MIN_TOKENS).logits.copy()

    def is_exact(size: int) -> bool:
        beside = Segment(other, tokens[: size - MIN_TOKENS], wants_output=False)
        return np.array_equal(target.forward([Segment(slot, tokens[:MIN_TOKENS]), beside]).logits, small)

    exact = list(itertools.takewhile(is_exact, sizes))
    target.free(slot)
    target.free(other)
    return UNLIMITED if exact == sizes else max([LARGE[0], *exact])


def _max_padding(target: TargetModel) -> int:
    """The cost of a change of size, in dummy tokens."""
    target.settle()
    tokens = _tokens(target, NARROW)
    slot = target.allocate(WIDE)

    def milliseconds(num_tokens: int) -> float:
        started = time.perf_counter()
        target.forward([Segment(slot, tokens)], num_tokens)
        return 1e3 * (time.perf_counter() - started)

    alternating = [milliseconds(size) for _ in range(REPEATS) for size in (NARROW, WIDE)]
    narrow, wide = (float(np.median([milliseconds(size) for _ in range(REPEATS)][2:])) for size in (NARROW, WIDE))
    target.free(slot)
    switch = float(np.median(alternating[2:])) - (narrow + wide) / 2
    return max(0, int(switch * (WIDE - NARROW) / max(wide - narrow, 1e-3)))


def _tokens(target: TargetModel, count: int) -> list[int]:
    return [i % target.capabilities.vocab_size for i in range(7, 7 + count)]
