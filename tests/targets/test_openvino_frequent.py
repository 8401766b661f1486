"""The logits of the first tokens of the vocabulary alone: those of all, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import prompt

from outpace.models.find import converted
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.tree.segment import Segment

NUM_FREQUENT = 40


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("precision", ["f32", "int8", "int4"])
def test_frequent_logits_have_the_bits_of_all(tiny_home, tiny_models, precision, hidden):
    found = converted(str(tiny_models["llama"]), precision)
    facts = {"vocab_size": found.vocab_size, "max_len": found.max_len, "precision": precision, "kv_cache_tokens": 1024}
    target = OpenVINOTarget(found.folder / "model.xml", **facts, hidden=hidden, num_frequent=NUM_FREQUENT)
    assert target.capabilities.num_frequent == NUM_FREQUENT
    text, other = prompt(9), prompt(6, seed=1)
    slots = [target.allocate(64) for _ in range(2)]
    for tokens, parents in ((text, None), (text[:1], None), (text[:4], [-1, 0, 0, 1])):
        batch = [Segment(slots[0], tokens, parents), Segment(slots[1], other, wants_output=False), Segment(slots[1], other[:3])]
        whole = target.forward(batch).logits.copy()
        part = target.forward_frequent(batch)
        assert part.logits.shape == (len(whole), NUM_FREQUENT)
        np.testing.assert_array_equal(part.logits, whole[:, :NUM_FREQUENT])
        assert (part.hidden is not None) == hidden
        np.testing.assert_array_equal(target.forward(batch).logits, whole)


def test_a_vocabulary_that_is_not_larger_stays_whole(tiny_home, tiny_models):
    found = converted(str(tiny_models["llama"]), "f32")
    target = OpenVINOTarget(found.folder / "model.xml", vocab_size=found.vocab_size, max_len=found.max_len, num_frequent=found.vocab_size)
    assert target.capabilities.num_frequent == 0
    slot = target.allocate(64)
    assert target.forward_frequent([Segment(slot, prompt(5))]).logits.shape == (5, found.vocab_size)
