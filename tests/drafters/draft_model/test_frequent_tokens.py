"""A draft model that computes the logits of the frequent tokens only, while the text has no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from draft_model_tools import OURS, THEIRS, context, helper

from outpace import SamplingParams
from outpace.drafters.base import DraftModel
from outpace.drafters.draft_model.drafter import MAX_RARE
from outpace.drafters.draft_model.vocab_mapping import translation
from outpace.drafters.spec import create_drafter
from outpace.targets.toy import ToyTarget
from outpace.testing import check_drafter, make_request


def short(num_frequent: int, **options) -> DraftModel:
    """A draft model that offers the logits of its first tokens."""
    model = helper(**options)
    model.target.capabilities = replace(model.target.capabilities, num_frequent=num_frequent)
    return model


@pytest.mark.parametrize("options", ["", ":branches=2", ":min_confidence=0.5"])
def test_the_rules_hold(options):
    check_drafter(lambda given: create_drafter(f"draft_model:x{options}", context(given.target, short(9))))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_rare_tokens_are_drafted_where_the_text_has_many(temperature):
    target = ToyTarget(sharpness=3.0)
    drafter = create_drafter("draft_model:x:min_confidence=0", context(target, short(4)))

    def drafted(prompt: list[int]) -> set[int]:
        request = make_request(target, prompt, SamplingParams(max_tokens=30, temperature=temperature, seed=1))
        drafter.begin(request)
        return set(drafter.propose(request, 7).token_ids)

    rare = [4 + i % 5 for i in range(MAX_RARE)]
    assert drafted([1, 2, *rare]) <= {0, 1, 2, 3}
    assert not drafted([1, 2, *rare, 5]) <= {0, 1, 2, 3}
    assert drafted([*rare, 5, *[1, 2, 3, 0] * 8]) <= {0, 1, 2, 3}  # long ago


@pytest.mark.parametrize("tokenizers", [(None, None), (OURS, THEIRS)])
def test_logits_of_the_first_tokens_stand_at_the_places_of_the_same_tokens(tokenizers):
    mapping = translation(*tokenizers, 12, 11, True)
    row = np.arange(11, dtype=np.float32)
    whole, part = mapping.to_target_row(row), mapping.to_target_row(row[:5])
    assert np.isfinite(part).any()
    np.testing.assert_array_equal(part, np.where(whole < 5, whole, -np.inf))
