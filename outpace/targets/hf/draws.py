"""Drawing tokens on the device of the model: the tokens that `RequestSampler.draw` gives, or no token where that is not certain.

The noise is integer arithmetic and the same everywhere. Weights are exponentials in float32, whose last bits differ from one library to
another, so a draw is left to the host where a change of the last bits could change the token: two tokens that arrive nearly together, a
cut at the edge of the nucleus, equal logits at an edge, NaN. That happens about once in some thousand draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from outpace.arrays import Array
from outpace.sampling.noise import FACTORS, key_of
from outpace.tree.segment import Drawing

LEAVE, GREEDY, RACE, CUT = range(4)  # what a row asks for: no draw, the best token, a race of all tokens, a race of those that cuts leave
MAX_CUT = 256  # likeliest tokens in a race with cuts; a nucleus that is larger is left to the host
MAX_RACE = 16  # tokens of a race of all whose times are computed
SLACK = 1e-5  # relative difference below which the last bits may decide; those of float32 are 1e-7
UNIT = 2.0**-32
UNDECIDED = -1


@dataclass(frozen=True)
class DrawArrays:
    """How each row [B, T] draws: `whole` [4, B, T] int64 are its kind, the two halves of its key and its top_k, 0 for none; `real`
    [3, B, T] float64 are its 1 / temperature, its top_p and the logarithm of its min_p."""

    whole: Array
    real: Array

    @classmethod
    def of(cls, drawings: Sequence[Drawing | None], positions: Array) -> DrawArrays:
        """`drawings` of the sequences; `positions` [B, T] of the tokens, whose successors are drawn."""
        whole, real = np.zeros((4, *positions.shape), np.int64), np.zeros((3, *positions.shape), np.float64)  # LEAVE for padding
        for b, drawing in enumerate(drawings):
            if drawing is None:
                continue
            params = drawing.params
            if params.is_greedy:
                whole[0, b] = GREEDY
                continue
            whole[0, b] = CUT if params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0 else RACE
            whole[1:3, b] = np.array([key_of(drawing.seed, int(position) + 1) for position in positions[b]]).T
            whole[3, b] = params.top_k
            smallest = math.log(params.min_p) if params.min_p > 0.0 else -math.inf
            real[:, b] = np.array([np.float32(1.0 / params.temperature), params.top_p, smallest])[:, None]
        return cls(whole, real)

    @property
    def kinds(self) -> tuple[bool, bool]:
        """(is there a race of all tokens, is there one with cuts)."""
        return bool((self.whole[0] == RACE).any()), bool((self.whole[0] == CUT).any())


def draw(logits: Any, whole: Any, real: Any, kinds: tuple[bool, bool]) -> Any:
    """The tokens [n] int64 of logits [n, V], or UNDECIDED; `whole` [4, n] and `real` [3, n] as in DrawArrays."""
    kind = whole[0]
    best, tokens = logits.max(dim=1)
    tokens = torch.where((kind == GREEDY) & torch.isfinite(best), tokens, UNDECIDED)
    if any(kinds):
        scaled = (logits - best[:, None]) * real[0].float()[:, None]
        can = torch.isfinite(best)
        for is_used, wanted, race in zip(kinds, (RACE, CUT), (_race, _cut), strict=True):
            if is_used:
                tokens = torch.where((kind == wanted) & can, race(scaled, whole, real), tokens)
    return tokens


def _race(scaled: Any, whole: Any, real: Any) -> Any:
    """The winner of a race of all tokens. Times are computed for those that may win: -log1p(-u) is at least u, so weight / u is a bound."""
    token_ids = torch.arange(scaled.shape[1], device=scaled.device, dtype=torch.int32)
    bits = _bits(token_ids, whole)
    bounds = scaled.exp() / (torch.where(bits < 0, bits.float() + 2.0**32, bits.float()) + 0.5)
    most = min(MAX_RACE, scaled.shape[1])
    likely, places = bounds.topk(most, dim=1)
    winner, is_certain = _first(scaled.gather(1, places), places, whole)
    if most < scaled.shape[1]:  # the tokens left out cannot have won
        time = _times(_bits(places.to(torch.int32), whole))
        scores = scaled.gather(1, places).exp().double() / time
        is_certain = is_certain & (likely[:, -1].double() < scores.amax(dim=1) * UNIT * (1 - SLACK))
    return torch.where(is_certain, winner, UNDECIDED)


def _cut(scaled: Any, whole: Any, real: Any) -> Any:
    """The winner among the tokens that top_k, top_p and min_p leave, if they are among the MAX_CUT likeliest."""
    top_k, (_, top_p, smallest) = whole[3], real
    size = scaled.shape[1]
    most = min(MAX_CUT + 1, size)
    rows, token_ids = scaled.topk(most, dim=1)
    rank = torch.arange(most, device=scaled.device)
    weights = rows.exp().double()
    has_top_k = (top_k > 0) & (top_k < size)
    in_top = (rank < top_k[:, None]) | ~has_top_k[:, None]
    total = torch.where(has_top_k, (weights * in_top).sum(dim=1), scaled.exp().sum(dim=1, dtype=torch.float64))
    reached = (weights * in_top).cumsum(dim=1)
    goal = (top_p * total)[:, None]
    is_nucleus = (top_p < 1.0)[:, None]
    before = reached - weights * in_top  # what the tokens in front of each one reach
    kept = in_top & (~is_nucleus | (before < goal))
    kept = kept & (rows.double() >= smallest[:, None])
    count = kept.sum(dim=1)
    # certain: the nucleus ends clearly, no equal logits stand at an edge, and the tokens kept end before the list does
    near = is_nucleus & in_top & ((before - goal).abs() < SLACK * total[:, None])
    last = rows.gather(1, (count - 1).clamp(min=0)[:, None])
    following = rows.gather(1, count.clamp(max=most - 1)[:, None])
    is_tied = ((last == following) & (count < most)[:, None])[:, 0]
    ends = ((count < most) | (most == size)) & ~(has_top_k & (top_k > most))
    winner, is_certain = _first(torch.where(kept, rows, -torch.inf), token_ids, whole)
    return torch.where(is_certain & ~near.any(dim=1) & ~is_tied & ends & (count > 0), winner, UNDECIDED)


def _first(rows: Any, token_ids: Any, whole: Any) -> tuple[Any, Any]:
    """(the token [n] of largest weight / arrival time, does it win clearly [n]) for scaled logits [n, k] of tokens [n, k]."""
    scores = rows.exp().double() / _times(_bits(token_ids.to(torch.int32), whole))
    best, places = scores.topk(min(2, scores.shape[1]), dim=1)
    is_clear = torch.ones_like(best[:, 0], dtype=torch.bool) if best.shape[1] == 1 else best[:, 1] < best[:, 0] * (1 - SLACK)
    return token_ids.gather(1, places[:, :1])[:, 0], is_clear & (best[:, 0] > 0)


def _bits(token_ids: Any, whole: Any) -> Any:
    """The random bits of tokens [k] or [n, k] for the keys of n rows: [n, k] int32, whose bits are those of noise.py."""
    multiplier, offset = (_signed(half)[:, None] for half in whole[1:3])
    x = token_ids * multiplier + offset
    for shift, factor in zip((16, 15), FACTORS, strict=True):
        x = (x ^ ((x >> shift) & ((1 << (32 - shift)) - 1))) * _wrapped(factor)
    return x ^ ((x >> 16) & 0xFFFF)


def _wrapped(number: int) -> int:
    """The number as a signed one of 32 bits."""
    return number - (1 << 32) if number >= 1 << 31 else number


def _signed(half: Any) -> Any:
    return torch.where(half >= 1 << 31, half - (1 << 32), half).to(torch.int32)


def _unsigned(bits: Any) -> Any:
    return bits.to(torch.int64) & 0xFFFFFFFF


def _times(bits: Any) -> Any:
    """Arrival times in float64, as noise.py computes them."""
    return -torch.log1p(-(_unsigned(bits).double() + 0.5) * UNIT)
