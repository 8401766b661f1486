"""The drafter eagle: no text ever changes, and a head that knows something helps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from eagle_tools import GREEDY, PROMPTS, SAMPLED
from helper_tools import fitted_eagle

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, check_drafter, generate, make_request, run

SPECS = ["eagle:{}", "eagle:{}:max_depth=2:branches=1:threshold=0.001", "prompt_lookup+eagle:{}", "auto:suffix+recycling+eagle:{}"]


# ---- the text never changes


@pytest.mark.parametrize("spec", SPECS)
def test_it_keeps_the_rules(fitted, spec):
    check_drafter(lambda context: create_drafter(spec.format(fitted), context))


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("period", [None, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_the_text_never_changes(fitted, random, spec, period, params):
    target = ToyTarget(sharpness=3.0) if period is None else InexactTarget(period, sharpness=3.0)
    for folder, batch in itertools.product((fitted, random), (PROMPTS[:1], PROMPTS)):
        plain = generate(target, batch, params)
        drafter = create_drafter(spec.format(folder), DrafterContext(target))
        for count in (1, 9):
            assert generate(target, batch, params, drafter, "exact", count) == plain


def accepted(target, folder, spec="eagle:{}", **config) -> float:
    """Accepted guesses a step."""
    drafter = create_drafter(spec.format(folder), DrafterContext(target))
    requests = [make_request(target, prompt, GREEDY, drafter, seed=i) for i, prompt in enumerate(PROMPTS)]
    run(target, requests, EngineConfig(max_num_seqs=8, **config))
    return sum(r.stats.num_accepted_tokens for r in requests) / sum(r.stats.num_steps for r in requests)


def test_a_head_that_knows_something_helps(fitted, random):
    target = ToyTarget(sharpness=3.0)
    assert accepted(target, fitted) > accepted(target, random, "eagle:{}:threshold=0.0001") + 0.5


def test_deeper_guesses_know_the_ones_before_them(tmp_path):
    """Where the next token is known from the last one, every guess is right, to the last level."""
    target = ToyTarget()
    target.table[:] = 20 * np.roll(np.eye(12), 1, axis=1)
    target.detail[:] = 0
    fitted_eagle(target, [[3, 4]]).save_pretrained(tmp_path)
    drafter = create_drafter(f"eagle:{tmp_path}:max_depth=4", DrafterContext(target))
    (request,) = run(target, [make_request(target, [3, 4], SamplingParams(max_tokens=41), drafter)])
    assert request.output_token_ids == [(5 + i) % 12 for i in range(41)]
    assert request.stats.num_steps == -(-41 // 5)  # the first step has a draft too
