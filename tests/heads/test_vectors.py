"""Rows whose input is a vector: on every target the same as a token with that embedding, and no other row notices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import prompt

from outpace.errors import BadInputError, OutpaceError
from outpace.targets.hf.target import HFTarget
from outpace.targets.toy import ToyTarget
from outpace.targets.vectors import NUM_VECTORS, VectorTable
from outpace.tree.draft import Draft, check
from outpace.tree.segment import Segment

PARENTS = [-1, 0, 1, 2, 1, 4, 2]  # rows 4 and 5 are the vectors: a chain behind row 1


def logits_of(target, tokens, vectors):
    """The logits of a small tree with two rows of vectors, or of tokens, behind a cached prefix."""
    slot = target.allocate(64)
    target.forward([Segment(slot, tokens[:9], wants_output=False)])
    target.accept(slot, tokens[:9], range(9))
    logits = target.forward([Segment(slot, [*tokens[9:13], *vectors, tokens[13]], PARENTS)]).logits.copy()
    target.free(slot)
    return logits


@pytest.mark.parametrize("kind", ["openvino", "hf"])
def test_a_vector_is_what_a_token_with_that_embedding_is(tiny, kind):
    _, target, model = tiny
    target = target if kind == "openvino" else HFTarget(model)
    tokens, table = prompt(20), model.get_input_embeddings().weight.detach().numpy()
    plain = logits_of(target, tokens, [7, 30])
    first = target.add_vectors(table[[7, 30]])
    assert first >= 96
    again = logits_of(target, tokens, [first, first + 1])
    np.testing.assert_allclose(again, plain, atol=1e-3 * np.abs(plain).max())  # a converted model's embeddings may be rounded
    others = target.add_vectors(table[[7, 30]] + 1.0)
    changed = logits_of(target, tokens, [others, others + 1])
    assert np.abs(changed[[4, 5]] - plain[[4, 5]]).max() > 0.1 * np.abs(plain).max()
    unseen = [0, 1, 2, 3, 6]
    np.testing.assert_array_equal(changed[unseen], plain[unseen])


def test_the_table_keeps_what_it_has_and_refuses_what_it_cannot_take():
    table = VectorTable(96, 4)
    assert (table.add(np.ones((3, 4))), table.add(np.zeros((2, 4))), table.add(np.ones((3, 4)))) == (96, 99, 96)
    np.testing.assert_array_equal(table.rows[:3], np.ones((3, 4)))
    for vectors in (np.ones((2, 5)), np.ones(4), np.ones((0, 4))):
        with pytest.raises(BadInputError, match="must be"):
            table.add(vectors)
    with pytest.raises(BadInputError, match="room for 32 vectors of trained heads; 5 are taken"):
        table.add(np.full((NUM_VECTORS, 4), 2.0))
    assert table.add(np.zeros((2, 4))) == 99


def test_only_probes_may_be_vectors():
    check(Draft([3, 12, 13], [-1, 0, 1], num_lookahead=2), 12, 1, num_vectors=2)
    for draft in (Draft([12], [-1]), Draft([3, 12, 13], [-1, 0, 1], num_lookahead=1), Draft([3, 14], [-1, 0], num_lookahead=1)):
        with pytest.raises(OutpaceError, match="outside the vocabulary"):
            check(draft, 12, 9, num_vectors=2)


def test_the_toy_reads_a_vector_as_the_token_it_names():
    target = ToyTarget()
    first = target.add_vectors(np.eye(12, dtype=np.float32)[[5, 9]])
    tokens = prompt(20, vocab_size=12)
    np.testing.assert_array_equal(logits_of(target, tokens, [first, first + 1]), logits_of(target, tokens, [5, 9]))


def test_a_live_model_without_embeddings_as_input_takes_no_vectors(tiny):
    class Plain(type(tiny[2])):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
            return super().forward(input_ids, attention_mask, position_ids, past_key_values, use_cache=use_cache)

    model = Plain(tiny[2].config)
    target = HFTarget(model.to(torch.float32))
    assert target.capabilities.num_vectors == 0
    with pytest.raises(BadInputError, match="takes no vectors"):
        target.add_vectors(np.ones((1, 64)))
