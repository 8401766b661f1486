"""What the lossless tests share: prompts, targets, and an oracle that knows the answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from outpace.drafters.base import DrafterContext
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import (
    InexactTarget,
    OracleDrafter,
    generate,
    make_request,
    run,
)

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [4], [5, 6, 5, 6, 5, 6, 7, 8, 5, 6]]


GREEDY = SamplingParams(max_tokens=40)


SAMPLED = SamplingParams(temperature=0.8, max_tokens=40)


MODES = pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


def toy(period=None, **options) -> ToyTarget:
    """Sharp enough that lookup drafts are partly right. With a period: trees are not exact."""
    return ToyTarget(**{"sharpness": 3.0, **options}) if period is None else InexactTarget(period, **{"sharpness": 3.0, **options})


def oracle(target, params, prompts=PROMPTS, lie=0.3, width=1, seed=0) -> OracleDrafter:
    """Knows what plain decoding gives without any stop; prompt i of the list has seed i."""
    endless = SamplingParams(**{**vars(params), "stop_token_ids": (), "min_tokens": 0, "max_tokens": 80})
    answers = {tuple(p): generate(target, [p], endless, seed=i)[0] for i, p in enumerate(prompts)}
    return OracleDrafter(DrafterContext(target), answers, lie, width, seed)


def everything(request) -> tuple:
    return request.output_token_ids, request.finish_reason, request.logprobs


def compare(params, make_stop=lambda: None, lie=0.0, width=1, period=None):
    """(tokens, finish reason) of all prompts, plain and with the oracle; must be equal."""
    target = toy(period)
    drafter = oracle(target, params, lie=lie, width=width)
    plain = [make_request(target, p, params, seed=i, stop_check=make_stop()) for i, p in enumerate(PROMPTS)]
    fast = [make_request(target, p, params, drafter, "exact", 7 * width, i, make_stop()) for i, p in enumerate(PROMPTS)]
    assert [everything(r) for r in run(target, fast)] == [everything(r) for r in run(target, plain)]
    for request in fast:
        assert len(request.from_draft) == request.num_output_tokens
        if target.capabilities.exact_trees:  # a draft token cut off with the bonus token is not counted as accepted
            assert sum(request.from_draft) - bool(request.sources[-1]) == request.stats.num_accepted_tokens
    return fast


def chi_square_is_fine(counts: np.ndarray, expected: np.ndarray) -> bool:
    """5 standard deviations above the mean of a chi-square variable: false alarms are rarer than 1e-5 at these sizes."""
    freedom = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum()) < freedom + 5 * math.sqrt(2 * freedom) + 10
