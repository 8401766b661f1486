"""EAGLE heads: what is read from disk is checked, and every backend gives the same guesses as the formulas, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helper_tools import lent_forms, random_eagle

from outpace.errors import BadInputError
from outpace.heads.eagle.weights import EagleWeights, eagle_weights
from outpace.heads.format import DraftHeads
from outpace.heads.runtime import EagleRows, build_eagle
from outpace.targets.base import Embeddings
from outpace.targets.identity import Base

BASE = Base("tiny", "0123456789abcdef", 32, 300)


@pytest.mark.parametrize("reduced", [None, 50])
def test_what_is_written_is_read(tmp_path, reduced):
    random_eagle(BASE, reduced=reduced).save_pretrained(tmp_path)
    weights = eagle_weights(DraftHeads.from_pretrained(tmp_path))
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
        ({"head_dim": 7}, {}, "even"),
        ({"intermediate_size": True}, {}, "intermediate_size"),
        ({"rope_theta": 0}, {}, "rope_theta must be a number from 1"),
        ({"rope_theta": None}, {}, "rope_theta must be a number"),
        ({"rms_norm_eps": float("nan")}, {}, "rms_norm_eps"),
        ({"temperatures": []}, {}, "temperatures must be 1 to 32 numbers"),
        ({"temperatures": [0]}, {}, "temperatures"),
        ({"num_draft_vocab": 5}, {}, "vocab_ids must be 5 token ids"),
        ({}, {"fc.weight": np.zeros((32, 32))}, r"fc\.weight must be \[32, 64\], not \[32, 32\]"),
        ({}, {"fc.bias": np.zeros(32)}, "not use: fc.bias"),
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
        eagle_weights(DraftHeads("medusa", BASE, {}, {}))


# ---- one answer on every backend


def rows_of(weights: EagleWeights, texts: int = 2, new: int = 5, guessing: int = 2, past: int = 7) -> EagleRows:
    """Rows that see whatever parts of a random past, and the new rows up to their own."""
    rng = np.random.default_rng(3)
    kv_shape = (texts, weights.num_kv_heads, past, weights.head_dim)
    places = np.sort(np.array([rng.choice(new, guessing, replace=False) for _ in range(texts)]), axis=1)
    visible = np.concatenate([rng.random((texts, guessing, past)) < 0.6, np.arange(new) <= places[..., None]], axis=2)
    return EagleRows(
        rng.integers(0, 300, (texts, new)),
        rng.normal(size=(texts, new, weights.hidden_size)).astype(np.float32),
        (past + np.tile(np.arange(new), (texts, 1))).astype(np.float32),
        (places + new * np.arange(texts)[:, None]).astype(np.int32),
        rng.normal(size=kv_shape).astype(np.float32),
        rng.normal(size=kv_shape).astype(np.float32),
        visible,
        rng.uniform(0.5, 2.0, (texts, guessing)).astype(np.float32),
    )


def literal(weights: EagleWeights, embeddings: np.ndarray, lm_head: np.ndarray, rows: EagleRows, text: int, guess: int):
    """(output [H], chances [V]) of one guessing row of one text, one attention head after the other."""
    size, groups = weights.head_dim, weights.num_heads // weights.num_kv_heads

    def turned(x, position):
        out = np.empty(size)
        for i in range(size // 2):
            angle = position * weights.rope_theta ** (-2 * i / size)
            out[i] = x[i] * np.cos(angle) - x[i + size // 2] * np.sin(angle)
            out[i + size // 2] = x[i + size // 2] * np.cos(angle) + x[i] * np.sin(angle)
        return out

    pairs = zip(rows.token_ids[text], rows.features[text], strict=True)
    inputs = [weights.fc @ np.concatenate([embeddings[token], feature]).astype(float) for token, feature in pairs]
    place = int(rows.queries[text, guess]) - text * len(inputs)
    x, gathered = inputs[place], []
    for head in range(weights.num_heads):
        part, kv_part = slice(head * size, head * size + size), slice(head // groups * size, head // groups * size + size)
        query = turned((weights.q_proj @ x)[part], rows.positions[text, place])
        keys = [turned((weights.k_proj @ y)[kv_part], at) for y, at in zip(inputs, rows.positions[text], strict=True)]
        keys = [*rows.past_keys[text, head // groups], *keys]
        values = [*rows.past_values[text, head // groups], *((weights.v_proj @ y)[kv_part] for y in inputs)]
        seen = np.flatnonzero(rows.visible[text, guess])
        shares = np.exp([query @ keys[i] / size**0.5 for i in seen])
        gathered += list(sum(share * values[i] for share, i in zip(shares / shares.sum(), seen, strict=True)))
    x = x + weights.o_proj @ np.array(gathered)
    normed = x / np.sqrt(np.mean(x**2) + weights.norm_eps) * weights.norm
    gate = weights.gate_proj @ normed
    x = x + weights.down_proj @ (gate / (1 + np.exp(-gate)) * (weights.up_proj @ normed))
    confidences = np.exp(lm_head @ x / rows.temperatures[text, guess])
    return x, confidences / confidences.sum()


@pytest.mark.parametrize("reduced", [None, 50])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 8), (3, 1, 10), (2, 2, 16)])
def test_backends_do_what_the_formulas_say(heads, kv_heads, head_dim, reduced):
    weights = eagle_weights(random_eagle(BASE, heads, kv_heads, head_dim, reduced))
    vocab_ids = np.arange(300) if weights.vocab_ids is None else weights.vocab_ids
    rows, forms = rows_of(weights), lent_forms(32, 300)
    embeddings, lm_head = (lent.module for lent in forms["numpy"])
    expected = {place: literal(weights, embeddings, lm_head[vocab_ids], rows, *place) for place in np.ndindex(2, 2)}
    for backend, tolerance in (("numpy", 1e-4), ("torch", 1e-3), ("openvino", 0.08)):  # 8 bits are few in a head as narrow as this one
        found = build_eagle(weights, *lent_forms(32, 300)[backend], 6)(rows)
        assert found.keys.shape == found.values.shape == (2, kv_heads, 5, head_dim)
        for place, (output, confidences) in expected.items():
            known = dict(zip(vocab_ids.tolist(), confidences.tolist(), strict=True))
            np.testing.assert_allclose(found.features[place], output, atol=tolerance * np.abs(output).max(), err_msg=backend)
            np.testing.assert_allclose(found.confidences[place], [known[t] for t in found.token_ids[place].tolist()], rtol=5 * tolerance)
            np.testing.assert_allclose(found.confidences[place], np.sort(confidences)[::-1][:6], rtol=5 * tolerance)


def test_keys_and_values_can_be_put_into_the_past():
    """Rows run one after the other, each with those before it as its past, give what one call gives."""
    weights = eagle_weights(random_eagle(BASE))
    rows = rows_of(weights, texts=1, new=4, guessing=4, past=3)
    for lent in lent_forms(32, 300).values():
        head = build_eagle(weights, *lent, 6)
        whole, past_keys, past_values = head(rows), rows.past_keys, rows.past_values
        for i in range(4):
            one = slice(i, i + 1)
            parts = rows.token_ids[:, one], rows.features[:, one], rows.positions[:, one], np.zeros((1, 1), np.int32)
            got = head(EagleRows(*parts, past_keys, past_values, rows.visible[:, one, : 4 + i], rows.temperatures[:, one]))
            past_keys, past_values = (np.concatenate(pair, axis=2) for pair in ((past_keys, got.keys), (past_values, got.values)))
            np.testing.assert_allclose(got.features[0, 0], whole.features[0, i], atol=2e-2 * np.abs(whole.features).max())
        np.testing.assert_allclose(past_keys[:, :, 3:], whole.keys, atol=1e-4)


def test_no_more_tokens_than_there_are():
    weights = eagle_weights(random_eagle(BASE, reduced=5))
    for lent in lent_forms(32, 300).values():
        assert build_eagle(weights, *lent, 10)(rows_of(weights)).token_ids.shape == (2, 2, 5)


def test_a_bias_of_the_lm_head_counts():
    weights = eagle_weights(random_eagle(BASE, reduced=6))
    embeddings, lm_head = lent_forms(32, 300)["torch"]
    lm_head.module.bias = torch.nn.Parameter(torch.arange(300.0) * 50)
    found = build_eagle(weights, Embeddings(embeddings.module), lm_head, 1)(rows_of(weights))
    assert set(found.token_ids.reshape(-1).tolist()) == {int(weights.vocab_ids.max())}
