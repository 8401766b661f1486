"""HFTarget against plain forward passes of tiny random models: rows, slots and buffers."""

from __future__ import annotations

import numpy as np
import pytest

from outpace.targets.base import OutOfSlots
from outpace.targets.identity import base_of
from outpace.tree.segment import Segment

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("outpace.targets.hf.target")
from hf_tools import KINDS, V, close, model_of, observe_prompt, plain, random_tokens


def plain_tree(model, prefix, token_ids, parents):
    """Logits [n, V] of each node: the last row of a plain pass over prefix and path."""
    rows, paths = [], []
    for token, parent in zip(token_ids, parents, strict=True):
        paths.append([*(paths[parent] if parent >= 0 else ()), token])
        rows.append(plain(model, [*prefix, *paths[-1]])[-1])
    return np.array(rows)


# ---- rows against plain forward passes


def test_chain_and_tree(model):
    target, text = hf.HFTarget(model), random_tokens(1, 26)
    slot = observe_prompt(target, text[:20])
    close(target.forward([Segment(slot, text[20:])]).logits, plain(model, text)[20:])
    tree = [text[20], 5, 6, text[21], 7, text[22]], [-1, 0, 1, 0, 0, 3]
    output = target.forward([Segment(slot, *tree)])
    assert output.logits.dtype == np.float32
    bare = hf.HFTarget(model, hidden=False)
    assert bare.forward([Segment(bare.allocate(8), text[:8])]).hidden is None
    close(output.logits, plain_tree(model, text[:20], *tree))


def test_rollback_keeps_a_path_that_is_no_prefix(model):
    target, text = hf.HFTarget(model), random_tokens(2, 24)
    slot = observe_prompt(target, text[:16])
    target.forward([Segment(slot, [text[16], 5, 6, text[17], 7, text[18]], [-1, 0, 1, 0, 3, 3])])
    target.accept(slot, text[16:19], [0, 3, 5])
    assert slot.token_ids == text[:19]
    close(target.forward([Segment(slot, text[19:])]).logits, plain(model, text)[19:])
    target.accept(slot, [text[19]], [0])  # everything after the first row is rolled back
    close(target.forward([Segment(slot, [9, 10, 11])]).logits, plain(model, [*text[:20], 9, 10, 11])[20:])


def test_prefill_and_decode_share_a_pass(model):
    target, a, b, c = hf.HFTarget(model), random_tokens(3, 40), random_tokens(4, 12), random_tokens(5, 30)
    first, second, third = observe_prompt(target, a[:36]), target.allocate(64), observe_prompt(target, c[:3])
    tree = [b[9], 1, 2, 3], [-1, 0, 0, 2]
    segments = [Segment(third, c[3:25], wants_output=False), Segment(first, a[36:]), Segment(second, b[:9], wants_output=False)]
    close(target.forward(segments).logits, plain(model, a)[36:])
    for segment in (segments[2], segments[0]):
        target.accept(segment.slot, segment.token_ids, range(len(segment)))
    logits = target.forward([Segment(third, c[25:]), Segment(first, a[36:38]), Segment(second, *tree)]).logits
    close(logits[:5], plain(model, c)[25:])
    close(logits[5:7], plain(model, a)[36:38])
    close(logits[7:], plain_tree(model, b[:9], *tree))


def test_random_sessions(model):
    """Three sequences of random trees, each keeping a random path, in passes of changing company."""
    target, rng = hf.HFTarget(model), np.random.default_rng(6)
    slots = [observe_prompt(target, random_tokens(seed, 3 + 5 * seed)) for seed in range(3)]
    for _ in range(5):
        batch = []
        for i in rng.permutation(3)[: rng.integers(1, 4)]:
            n = int(rng.integers(1, 9))
            batch.append(Segment(slots[i], rng.integers(0, V, n).tolist(), [-1, *(int(rng.integers(0, node)) for node in range(1, n))]))
        logits = target.forward(batch).logits
        close(logits, np.concatenate([plain_tree(model, s.slot.token_ids, s.token_ids, s.parents) for s in batch]))
        for segment in batch:
            node, path = int(rng.integers(len(segment))), []
            while node >= 0:
                path.insert(0, node)
                node = segment.parents[node]
            target.accept(segment.slot, [segment.token_ids[n] for n in path], path)


def test_probes_past_the_end_harm_nobody(device):
    model = model_of("gpt2", device)
    text = random_tokens(7, 512)
    target = hf.HFTarget(model)
    slot = observe_prompt(target, text[:510])
    close(target.forward([Segment(slot, [*text[510:], 1, 2, 3])]).logits[:2], plain(model, text)[510:])


# ---- slots and buffers


def test_buffers_grow_and_keep_their_content(device):
    model = model_of("llama", device)
    target, short, long = hf.HFTarget(model), random_tokens(8, 20), random_tokens(9, 300)
    layer = target.kv_cache.layers[0]
    slot = observe_prompt(target, short[:16])
    assert layer.keys.shape == (1, 2, 256, 16)
    other = observe_prompt(target, long[:290])
    assert layer.keys.shape == layer.values.shape == (2, 2, 512, 16)
    close(target.forward([Segment(slot, short[16:])]).logits, plain(model, short)[16:])
    close(target.forward([Segment(other, long[290:])]).logits, plain(model, long)[290:])


def test_slots_run_out_and_are_reused(device):
    model = model_of("qwen3", device)
    target, text = hf.HFTarget(model, max_slots=3), random_tokens(10, 20)
    slots = [observe_prompt(target, random_tokens(seed, 30)) for seed in range(3)]
    with pytest.raises(OutOfSlots):
        target.allocate(8)
    target.free(slots[1])
    hole = [Segment(slots[2], text[:2]), Segment(slots[0], text[:2])]  # slots that are no neighbours
    expected = [plain(model, [*segment.slot.token_ids, *text[:2]])[-2:] for segment in hole]
    close(target.forward(hole).logits, np.concatenate(expected))
    again = observe_prompt(target, text[:12])
    assert (again.index, again.num_cached) == (1, 12)
    close(target.forward([Segment(again, text[12:])]).logits, plain(model, text)[12:])


def test_long_prefill_does_not_pad_decoding_and_has_no_logits(device):
    model = model_of("llama", device)
    target = hf.HFTarget(model)
    first, second, third = observe_prompt(target, [1, 2, 3]), observe_prompt(target, [4, 5]), target.allocate(300)
    batch = [Segment(first, [6, 7]), Segment(third, random_tokens(11, 200), wants_output=False), Segment(second, [8])]
    widths, rows, masks = [], [], []
    with (
        model.register_forward_pre_hook(lambda _, inputs, named: masks.append(named["attention_mask"]), with_kwargs=True),
        model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: widths.append(tuple(inputs[0].shape))),
        model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: rows.append(tuple(inputs[0].shape[:2]))),
    ):
        logits = target.forward(batch).logits
    assert (widths, rows) == ([(1, 200), (2, 2)], [(1, 1), (2, 2)])
    assert all((mask == 0).any(-1).all() for mask in masks)  # padding sees something: in float16 it would be NaN
    close(logits, [*plain(model, [1, 2, 3, 6, 7])[3:], *plain(model, [4, 5, 8])[2:]])
    assert target.forward([Segment(third, [1], wants_output=False)]).logits.shape == (0, V)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_is_what_the_head_reads(kind, device):
    model = model_of(kind, device)
    target = hf.HFTarget(model, hidden=True)
    assert target.capabilities.hidden
    slots, seen = [observe_prompt(target, random_tokens(seed, 9)) for seed in range(2)], []
    with model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].cpu().numpy())):
        output = target.forward([Segment(slots[0], [1, 2, 3]), Segment(slots[1], [4])])
    assert output.hidden.shape == (4, 64)
    np.testing.assert_array_equal(output.hidden, np.concatenate([seen[0][0, :3], seen[0][1, :1]]))


def test_the_model_says_what_it_is_and_lends_its_head(model):
    target = hf.HFTarget(model)
    assert target.base == base_of(model, target.base.name)
    output = target.forward([Segment(target.allocate(8), [1, 2, 3])])
    lm_head = target.lm_head()
    assert (lm_head.backend, lm_head.vocab_size) == ("torch", V)
    with torch.inference_mode():
        logits = lm_head.module(torch.from_numpy(output.hidden).to(target.device)).cpu().numpy()
    close(output.logits, logits)
