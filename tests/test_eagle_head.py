"""EAGLE heads: what is read from disk is checked, and every backend gives the same guesses as the formulas, written out."""

from __future__ import annotations

import numpy as np
import pytest
from helper_tools import random_eagle

from outpace.errors import BadInputError
from outpace.helpers.eagle import eagle_weights
from outpace.helpers.format import Base, Helper

BASE = Base("tiny", "0123456789abcdef", 32, 300)


@pytest.mark.parametrize("reduced", [None, 50])
def test_what_is_written_is_read(tmp_path, reduced):
    random_eagle(BASE, reduced=reduced).save(tmp_path)
    weights = eagle_weights(Helper.load(tmp_path))
    assert (weights.hidden_size, weights.num_heads, weights.num_kv_heads, weights.head_dim) == (32, 4, 2, 8)
    assert weights.fc.shape == (32, 64)
    assert weights.fc.dtype == np.float32
    assert weights.temperatures.tolist() == [1.0, 2.0]
    assert (weights.vocab_ids is None) == (reduced is None)


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({"num_attention_heads": 0}, {}, "num_attention_heads must be an integer from 1"),
        ({"num_attention_heads": 8}, {}, r"q_proj\.weight must be \[64, 32\], not \[32, 32\]"),
        ({"num_key_value_heads": 3}, {}, "must be a multiple of 3 key heads"),
        ({"num_key_value_heads": 5}, {}, "num_key_value_heads must be an integer from 1 to 4"),
        ({"head_dim": 7}, {}, "of an even size"),
        ({"intermediate_size": True}, {}, "intermediate_size"),
        ({"rope_theta": 0}, {}, "rope_theta must be a number from 1"),
        ({"rope_theta": None}, {}, "rope_theta must be a number"),
        ({"rms_norm_eps": float("nan")}, {}, "rms_norm_eps"),
        ({"temperatures": []}, {}, "temperatures must be 1 to 32 numbers"),
        ({"temperatures": [0]}, {}, "temperatures"),
        ({"num_draft_vocab": 5}, {}, "vocab_ids must be 5 token ids"),
        ({}, {"fc.weight": np.zeros((32, 32))}, r"fc\.weight must be \[32, 64\], not \[32, 32\]"),
        ({}, {"fc.bias": np.zeros(32)}, "no use for: fc.bias"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(settings, tensors, message):
    helper = random_eagle(BASE)
    helper.settings.update(settings)
    helper.tensors.update(tensors)
    with pytest.raises(BadInputError, match=message) as caught:
        eagle_weights(helper)
    assert "\n" not in str(caught.value)


def test_a_helper_of_another_kind_is_refused():
    with pytest.raises(BadInputError, match="of kind 'medusa', not eagle"):
        eagle_weights(Helper("medusa", BASE, {}, {}))
