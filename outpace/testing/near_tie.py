"""Where two texts of one request part: at a near tie, where rounding decides, or at a token that no rounding explains."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.llm import LLM
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.tree.segment import Segment

ROUNDING = {"f32": 1e-3}  # most that the logits of a token may differ between forward passes of a target, by precision
COARSE_ROUNDING = 0.5  # with 16 bits
STEPS = 10.0 ** np.arange(-8, 1, 0.25)  # changes of a logit that are tried


@dataclass(frozen=True)
class Parting:
    """The first difference of two texts. `gap`: the least change of the two logits after which either token is drawn, inf if none is as
    small as rounding."""

    index: int
    gap: float
    limit: float

    @property
    def is_near_tie(self) -> bool:
        return self.gap <= self.limit

    def __str__(self) -> str:
        if self.is_near_tie:
            return f"first difference at token {self.index}, a near tie: a change of two logits by {self.gap:.1g} gives either text"
        found = f"first difference at token {self.index}"
        return f"{found}, which no change of the logits by {self.limit:g} explains" if self.limit else found


def rounding_of(llm: LLM) -> float:
    """Most that rounding changes a logit on this LLM's target; 0 if the target promises the same bits."""
    return 0.0 if llm.target.capabilities.exact_logits else ROUNDING.get(llm.precision, COARSE_ROUNDING)


def logprobs_error(one: RequestOutput, other: RequestOutput) -> float:
    """The largest difference of the log-probabilities of two answers of the same tokens and of their prompt; a token that only one lists
    counts as its distance to the nearest one of the other's."""
    error = 0.0
    listed = [[*(output.logprobs or []), *(output.prompt_logprobs or [])] for output in (one, other)]
    for mine, theirs in zip(*listed, strict=False):
        for row, rest in ((mine, theirs), (theirs, mine)):
            error = max([error, *(min(abs(value - near) for near in _alike(rest, token)) for token, value in row.items())])
    return error


def _alike(row: dict[int, float], token: int) -> Collection[float]:
    """The log-probability of a token in a row; all of them if the row does not list it."""
    return (row[token],) if token in row else row.values()


def parting_of(llm: LLM, params: SamplingParams, one: RequestOutput, other: RequestOutput) -> Parting | None:
    """Where the tokens of two answers to one prompt part; None if they do not. Needs a forward pass of the whole text before it."""
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    index = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    limit = rounding_of(llm)
    if index is None:
        shorter = min(len(one.token_ids), len(other.token_ids))
        return None if len(one.token_ids) == len(other.token_ids) else Parting(shorter, float("inf"), limit)
    common = one.token_ids[:index]
    ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else llm.eos_token_ids)
    processors = build_processors(params, one.prompt_token_ids, ends, llm.target.capabilities.vocab_size)
    if params.structured is not None:
        processors.append(llm.grammars.processor(params.structured, ends))
    sampler = RequestSampler(params, one.seed, processors)
    sampler.commit(common)
    row = _logits_after(llm, [*one.prompt_token_ids, *common])
    return Parting(index, _gap(sampler, row, len(one.prompt_token_ids) + index, one.token_ids[index], other.token_ids[index]), limit)


def _gap(sampler: RequestSampler, row: Array, position: int, one: int, other: int) -> float:
    """The least change of both logits after which the sampler draws either token; inf if there is none among STEPS."""

    def drawn_from(token: int, rival: int) -> float:
        for step in (0.0, *STEPS):
            nudged = row.copy()
            nudged[token] += step
            nudged[rival] -= step
            if sampler.draw(nudged, (), position) == token:
                return float(step)
        return float("inf")

    return max(drawn_from(one, other), drawn_from(other, one))


def _logits_after(llm: LLM, token_ids: Sequence[int]) -> Array:
    """The logits [V] of the token after these."""
    target, before = llm.target, list(token_ids[:-1])
    slot = target.allocate(len(token_ids) + 1)
    try:
        if before:
            target.forward([Segment(slot, before, wants_output=False)])
            target.accept(slot, before, range(len(before)))
        row: Array = target.forward([Segment(slot, [token_ids[-1]])]).logits[0].copy()
    finally:
        target.free(slot)
    return row
