"""The OpenVINO target: bit for bit the same answer, however the work is cut. Tiny models converted here, and the real default model."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import openvino as ov
import pytest
from helper_tools import random_eagle, random_medusa
from tiny_models import FAMILIES, prompt, tiny_folder

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter, ready_drafters
from outpace.errors import OutpaceError
from outpace.models.find import converted
from outpace.params import SamplingParams
from outpace.targets.identity import base_of
from outpace.targets.openvino.split_batch import split
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.testing import AcceptEverythingVerifier, OracleDrafter, check_target, generate, make_request, run
from outpace.tree.segment import Segment, Slot


def test_logits_agree_with_torch(tiny):
    import torch

    _, target, model = tiny
    tokens = prompt(40)
    slot = target.allocate(64)
    ours = target.forward([Segment(slot, tokens)]).logits
    with torch.inference_mode():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    target.free(slot)
    assert not ours.flags.writeable  # it is the model's own memory
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())


@pytest.mark.parametrize(("text", "reason"), [("<net/>", "it is damaged, or no model of OpenVINO"), (None, "Could not open the file")])
def test_a_model_that_cannot_be_loaded_says_why(tmp_path, text, reason):
    """Not the frame that OpenVINO puts around it."""
    if text is not None:
        (tmp_path / "model.xml").write_text(text)
    with pytest.raises(OutpaceError) as caught:
        OpenVINOTarget(tmp_path / "model.xml", vocab_size=5, max_len=8)
    assert str(caught.value).startswith(f"OpenVINO cannot load {tmp_path / 'model.xml'}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_pass_reads_most_of_the_file_of_weights(tiny):
    _, target, model = tiny
    size, num_bytes = target.path.with_suffix(".bin").stat().st_size, target.weight_bytes()
    looked_up = model.get_input_embeddings().weight.nbytes
    assert size - looked_up - 4096 <= num_bytes <= size + 4096


def test_target_passes_the_conformance_suite(tiny):
    check_target(tiny[1], prompt(70), tolerance=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_drafter_gives_the_plain_text(tiny, batch, temperature):
    _, target, _ = tiny
    prompts = [prompt(length, seed=length) * 2 for length in (5, 17, 33)][:batch]
    params = SamplingParams(max_tokens=40, temperature=temperature, repetition_penalty=1.1)
    plain = generate(target, prompts, params)
    specs = [*ready_drafters(), "blind:tokens=frequent", "prompt_lookup:branches=1"]
    for spec in specs:
        drafter = create_drafter(spec, DrafterContext(target))
        assert generate(target, prompts, params, drafter) == plain, spec
    answers = {tuple(p): a for p, a in zip(prompts, plain, strict=True)}
    for width in (1, 3):
        oracle = OracleDrafter(DrafterContext(target), answers, lie=0.3, width=width)
        assert generate(target, prompts, params, oracle, num_draft_tokens=9) == plain, f"{width} siblings"
        cheat = generate(target, prompts, params, oracle, AcceptEverythingVerifier(), num_draft_tokens=9)
        assert cheat != plain, "the negative control was not caught"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_medusa_gives_the_plain_text(tiny, temperature, tmp_path):
    _, target, _ = tiny
    prompts = [prompt(length, seed=length) for length in (5, 17, 33)]
    params = SamplingParams(max_tokens=40, temperature=temperature)
    plain = generate(target, prompts, params)
    random_medusa(target.base, reduced=40).save_pretrained(tmp_path)
    for spec in ("medusa:{}:threshold=0.001", "prompt_lookup+medusa:{}", "auto:suffix+recycling+medusa:{}"):
        assert generate(target, prompts, params, create_drafter(spec.format(tmp_path), DrafterContext(target))) == plain, spec


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_eagle_gives_the_plain_text(tiny, temperature, tmp_path):
    _, target, _ = tiny
    prompts = [prompt(length, seed=length) for length in (5, 17, 33)]
    params = SamplingParams(max_tokens=40, temperature=temperature)
    plain = generate(target, prompts, params)
    random_eagle(target.base, reduced=40).save_pretrained(tmp_path)
    for spec in ("eagle:{}:threshold=0.001", "prompt_lookup+eagle:{}", "auto:suffix+recycling+eagle:{}"):
        assert generate(target, prompts, params, create_drafter(spec.format(tmp_path), DrafterContext(target))) == plain, spec


def test_eagle_sees_the_same_on_both_targets(tiny, tmp_path):
    """Hidden states of prompt and answer, embeddings and places: what the head keeps of a text is the same, but for 8-bit weights."""
    from outpace.drafters.eagle import EagleDrafter
    from outpace.targets.hf.target import HFTarget

    _, target, model = tiny
    random_eagle(target.base).save_pretrained(tmp_path)
    kept = []

    class Noted(EagleDrafter):
        def end(self, request):
            kept.append(self.texts[request.id].cache)
            super().end(request)

    config = EngineConfig(max_num_batched_tokens=16, min_prefill_chunk=5, enable_prefix_caching=False)
    for one in (target, HFTarget(model)):
        generate(one, [prompt(40)], SamplingParams(max_tokens=12), Noted(DrafterContext(one), str(tmp_path)), config=config)
    ours, theirs = kept
    assert ours.positions == theirs.positions == list(range(ours.num_rows))
    assert ours.num_rows > 45
    for name in ("keys", "values"):
        mine, other = (getattr(cache, name)[:, : ours.num_rows] for cache in kept)
        assert np.abs(mine - other).max() < 0.05 * np.abs(other).max()


def test_requests_of_different_salts_share_no_prefix(tiny):
    """Else the number of cached tokens would tell a tenant what another one has sent."""
    _, target, _ = tiny
    found, texts = [], []
    for salt in ("one", "two", "one", "", ""):
        request = make_request(target, prompt(70, seed=99), SamplingParams(max_tokens=4))
        request.cache_salt = salt
        run(target, [request])
        found.append(request.stats.num_cached_prompt_tokens)
        texts.append(request.output_token_ids)
    assert found == [0, 0, 64, 0, 64]
    assert texts == texts[:1] * 5


def test_a_converted_model_is_the_model_it_was_made_of(tiny):
    _, target, model = tiny
    assert target.base == base_of(model, target.base.name)


def test_hidden_states_are_what_the_lm_head_reads(tiny):
    """With them the logits keep their bits; the LM head that is lent makes the same logits of them."""
    _, target, _ = tiny
    bare = OpenVINOTarget(target.path, vocab_size=96, max_len=256, precision="f32", kv_cache_tokens=4096, hidden=False)
    tokens = prompt(40)
    slots = [t.allocate(64) for t in (target, bare)]
    outputs = [t.forward([Segment(slot, tokens, [-1, 0, *[1] * 38])]) for t, slot in zip((target, bare), slots, strict=True)]
    target.free(slots[0])
    assert outputs[1].hidden is None
    assert np.array_equal(outputs[0].logits, outputs[1].logits)
    lm_head = target.lm_head()
    compiled = ov.Core().compile_model(lm_head.module, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (logits,) = compiled(outputs[0].hidden[None]).values()
    np.testing.assert_allclose(logits[0], outputs[0].logits, atol=1e-3 * np.abs(logits).max())


def test_hidden_states_of_a_prompt_leave_the_logits_their_bits(tiny):
    _, target, _ = tiny
    text, guest = prompt(30), prompt(9, seed=1)
    slots = [target.allocate(64) for _ in range(2)]
    outputs = []
    for wants_hidden in (False, True):
        output = target.forward([Segment(slots[0], text), Segment(slots[1], guest, wants_output=False, wants_hidden=wants_hidden)])
        outputs.append((output.logits.copy(), output.hidden.copy(), output.prompt_hidden))
    for plain, asked in zip(*outputs, strict=True):
        assert plain is None or np.array_equal(plain, asked)
    assert outputs[1][2].shape == (9, 64)
    for slot in slots:
        target.free(slot)


def test_embeddings_are_those_of_the_model(tiny):
    import torch

    _, target, model = tiny
    compiled = ov.Core().compile_model(target.embeddings().module, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    token_ids = np.array([prompt(7), prompt(7, seed=1)])
    (found,) = compiled(token_ids).values()
    np.testing.assert_allclose(found, model.get_input_embeddings()(torch.from_numpy(token_ids)).detach(), atol=1e-6)


# ---- the real default model


@pytest.mark.parametrize("family", FAMILIES)
def test_four_bits_have_the_same_bits_whatever_the_width(family, tmp_path, monkeypatch):
    """A folder of transformers, compressed by nncf; rows that are no whole groups stay in 8 bits."""
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path / "home"))
    found = converted(str(tiny_folder(family, tmp_path / family)), "int4")
    kinds = {op.get_element_type().get_type_name() for op in ov.Core().read_model(found.folder / "model.xml").get_ops() if not op.inputs()}
    assert {"u4", "i8"} <= kinds
    target = OpenVINOTarget(found.folder / "model.xml", vocab_size=96, max_len=256, precision="int4", kv_cache_tokens=4096)
    tokens = prompt(40)
    slot = fresh(target, tokens[:20])
    reference = target.forward([Segment(slot, tokens[20:])]).logits.copy()
    for width in range(1, 17):
        assert np.array_equal(target.forward([Segment(slot, tokens[20 : 20 + width])]).logits, reference[:width]), f"{width} rows"


@pytest.fixture(scope="module", params=["int8", "int4"])
def target(request):
    """The default model, with room for several sequences."""
    found = converted(precision=request.param)
    return OpenVINOTarget(found.folder / "model.xml", vocab_size=found.vocab_size, max_len=found.max_len, kv_cache_tokens=8192)


def fresh(target, tokens, chunk=512):
    """A slot with these tokens cached, prefilled in chunks."""
    slot = target.allocate(len(tokens) + 64)
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        target.forward([Segment(slot, part, wants_output=False)])
        target.accept(slot, part, range(len(part)))
    return slot


def test_pieces_of_a_batch_are_the_batch():
    """Chains are cut and stand on what ran before; trees are whole, and what does not fit behind them comes after."""
    chain, tree = Segment(Slot(0, 99, [5], []), list(range(20))), Segment(Slot(1, 99, [], []), [7, 8, 9], [-1, 0, 0])
    found = list(split([chain, tree, chain], 8))
    assert [[len(segment) for segment in piece] for piece in found] == [[8], [8], [4, 3, 1], [8], [8], [3]]
    assert [token for piece in found for segment in piece for token in segment.token_ids] == [*range(20), 7, 8, 9, *range(20)]
    assert [piece[0].slot.num_cached for piece in found[:3]] == [1, 9, 17]
    assert [[len(segment) for segment in piece] for piece in split([tree, tree, chain], 2)][:3] == [[3], [3], [2]]


def test_a_batch_in_pieces_gives_what_one_pass_gives(tiny):
    _, target, _ = tiny
    first, second, third = fresh(target, prompt(20)), target.allocate(90), fresh(target, prompt(9, seed=3))
    tree = Segment(first, prompt(4, seed=1), [-1, 0, 0, 2])
    batch = [tree, Segment(second, prompt(30, seed=2), wants_output=False, wants_hidden=True), Segment(third, prompt(3, seed=4))]
    whole = [array.copy() for array in (lambda out: (out.logits, out.hidden, out.prompt_hidden))(target.forward(batch))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "sizes", replace(target.sizes, pass_tokens=8))
        cut = target.forward(batch)
    for one, other in zip(whole, (cut.logits, cut.hidden, cut.prompt_hidden), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())
    for slot in (first, second, third):
        target.free(slot)


@pytest.mark.real
@pytest.mark.parametrize("context", [3, 31, 140, 333])
def test_default_model_has_the_same_bits_whatever_the_width(target, context):
    tokens = prompt(context + 16, seed=context, vocab_size=40000)
    slot = fresh(target, tokens[:context])
    reference = target.forward([Segment(slot, tokens[context:])]).logits.copy()
    assert np.isfinite(reference).all()
    for width in range(1, 17):
        got = target.forward([Segment(slot, tokens[context : context + width])]).logits
        assert np.array_equal(got, reference[:width]), f"{width} rows"
    for chunk in (1, 7, 32, 100) if context < 200 else (7, 100):
        other = fresh(target, tokens[:context], chunk)
        assert np.array_equal(target.forward([Segment(other, tokens[context:])]).logits, reference), f"prefilled in chunks of {chunk}"
        target.free(other)
    target.free(slot)


@pytest.mark.real
def test_default_model_has_the_same_bits_in_any_company(target):
    tokens = prompt(120, seed=1, vocab_size=40000)
    slot = fresh(target, tokens[:110])
    reference = target.forward([Segment(slot, tokens[110:])]).logits.copy()
    others = [fresh(target, prompt(20 + 13 * i, seed=i, vocab_size=40000)) for i in range(6)]
    for width, count, rows in [(1, 1, 1), (1, 6, 1), (4, 2, 3), (2, 6, 5), (10, 3, 1)]:
        company = [Segment(other, prompt(rows, seed=9, vocab_size=40000)) for other in others[:count]]
        got = target.forward([*company, Segment(slot, tokens[110 : 110 + width])]).logits[-width:]
        assert np.array_equal(got, reference[:width]), f"{width} rows after {count} sequences of {rows}"
    long = target.allocate(500)
    got = target.forward([Segment(slot, tokens[110:]), Segment(long, prompt(400, vocab_size=40000), wants_output=False)]).logits
    assert np.array_equal(got, reference), "beside a prefill"
    for other in [slot, long, *others]:
        target.free(other)


@pytest.mark.real
def test_main_chain_of_a_tree_has_the_bits_of_a_chain(target):
    tokens = prompt(90, seed=3, vocab_size=40000)
    slot = fresh(target, tokens[:80])
    reference = target.forward([Segment(slot, tokens[80:86])]).logits.copy()
    branches = prompt(5, seed=4, vocab_size=40000)
    got = target.forward([Segment(slot, [*tokens[80:86], *branches], [-1, 0, 1, 2, 3, 4, 0, 6, 1, 0, 9])]).logits
    assert np.array_equal(got[:6], reference)
    target.free(slot)


@pytest.mark.real
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_default_model_gives_one_text(target, temperature):
    """Drafters, trees with every branch accepted somewhere, batches, chunks and shared prefixes: always the plain text."""
    prompts = [prompt(length, seed=length, vocab_size=40000) for length in (9, 40, 70)]
    prompts.append([*prompts[2][:64], *prompt(5, seed=5, vocab_size=40000)])
    params = SamplingParams(max_tokens=20, temperature=temperature)
    alone = [generate(target, [one], params, seed=i)[0] for i, one in enumerate(prompts)]
    assert generate(target, prompts, params) == alone, "in a batch"
    small = EngineConfig(max_num_batched_tokens=16, min_prefill_chunk=5, enable_prefix_caching=False)
    assert generate(target, prompts, params, config=small) == alone, "in small chunks"
    answers = {tuple(p): a for p, a in zip(prompts, alone, strict=True)}
    context = DrafterContext(target)
    assert generate(target, prompts, params, OracleDrafter(context, answers, lie=0.3, width=3), num_draft_tokens=12) == alone, "trees"
    assert generate(target, prompts, params, create_drafter("prompt_lookup", context)) == alone, "prompt lookup"


FORK = """
import os, sys
from pathlib import Path
from outpace.targets.openvino.target import OpenVINOTarget
facts = {"vocab_size": 96, "max_len": 256, "precision": "f32", "kv_cache_tokens": 256}
OpenVINOTarget(Path(sys.argv[1]), **facts)
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
OpenVINOTarget(Path(sys.argv[1]), **facts)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_is_told_that_openvino_does_not_work_in_it(tiny):
    """It would wait for ever for threads that are its parent's."""
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(tiny[1].path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "OutpaceError: OpenVINO does not work in a process forked from one that has used it" in done.stderr
