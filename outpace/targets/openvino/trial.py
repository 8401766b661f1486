"""A converted model is tried before it is stored: against the logits of its original, or against itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.reason import reason_of
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.targets.self_check import NUM_TOKENS, chunks_have_the_bits, plain_logits, tree_error


def compare(path: Path, expected: Array, tolerance: float) -> None:
    """Raise BadInputError if the converted model cannot run, or its logits are off by more than this share of the spread of the logits
    `expected` [NUM_TOKENS, V] that the original gave."""
    with _target(path, expected.shape[1], "f32") as target:
        error = tree_error(target, expected)
    _refuse("its", error, tolerance)


def try_alone(path: Path, vocab_size: int, precision: str, tolerance: float) -> None:
    """Raise BadInputError if the converted model cannot run, or its logits of a text in two chunks, or as a tree, are not those of the
    text at once: in chunks the same bits, in the tree off by less than `tolerance`."""
    with _target(path, vocab_size, precision) as target:
        whole = plain_logits(target)
        error = tree_error(target, whole)
        has_bits = chunks_have_the_bits(target, whole) or not target.capabilities.exact_logits
    _refuse("in a tree its", error, tolerance)
    if not has_bits:
        raise BadInputError("the converted model is wrong (a text in two chunks has other logits); use --target hf")


def _refuse(whose: str, error: float, tolerance: float) -> None:
    """Raise BadInputError for logits that are off by more than the tolerance, or are no numbers."""
    if not error < tolerance:
        fault = f"{whose} logits are {error:.0%} off" if math.isfinite(error) else "its logits are no numbers"
        raise BadInputError(f"the converted model is wrong ({fault}); use --target hf")


@contextmanager
def _target(path: Path, vocab_size: int, precision: str) -> Iterator[OpenVINOTarget]:
    """The model as a target. Errors of OpenVINO become a BadInputError; sizes measured here are not kept, as the model has no name yet."""
    try:
        yield OpenVINOTarget(path, vocab_size=vocab_size, max_len=NUM_TOKENS, precision=precision, kv_cache_tokens=64)
    except (OutpaceError, RuntimeError) as error:
        raise BadInputError(f"OpenVINO cannot run the converted model: {reason_of(error.__cause__ or error)}; use --target hf") from None
    finally:
        path.with_name("sizes.json").unlink(missing_ok=True)
