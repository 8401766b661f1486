"""Trained blanks in the drafter: found, refused where they do not fit, and never part of the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import prompt
from toy_parts import Clock

from outpace.drafters.base import DrafterContext
from outpace.drafters.blanks.drafter import likeliest
from outpace.drafters.blanks.kinds import Blanks
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.heads import shipped
from outpace.heads.format import DraftHeads
from outpace.heads.mask_tokens import blank_vectors
from outpace.params import SamplingParams
from outpace.targets.hf.target import HFTarget
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, check_drafter, generate, make_request, run

SPECS = [
    "blanks:{}",
    "blanks:{}:after=every:branches=2",
    "blanks:{}:after=root:count=2",
    "prompt_lookup+blanks:{}",
    "auto:suffix+blanks:{}",
]


def random_blanks(base, count=3, seed=0, **settings) -> DraftHeads:
    """Vectors of about the size of embeddings."""
    embeddings = np.random.default_rng(seed).normal(0, 0.3, (count, base.hidden_size)).astype(np.float32)
    return DraftHeads("blanks", base, {"count": count, **settings}, {"embeddings": embeddings})


@pytest.fixture
def toy_blanks(tmp_path):
    """A folder of blanks for the toy of sharpness 3."""
    random_blanks(ToyTarget(sharpness=3.0).base).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spec", SPECS)
def test_it_keeps_the_rules(toy_blanks, spec):
    check_drafter(lambda context: create_drafter(spec.format(toy_blanks), context), ToyTarget(sharpness=3.0))
    check_drafter(lambda context: create_drafter(spec.format(toy_blanks), context), InexactTarget(sharpness=3.0))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ["openvino", "hf"])
def test_the_text_never_changes(tiny, kind, temperature, tmp_path):
    target = tiny[1] if kind == "openvino" else HFTarget(tiny[2])
    helper = random_blanks(target.base, temperatures=[1.5, 1.0, 2.0])
    helper.save_pretrained(tmp_path)
    prompts = [prompt(length, seed=length) for length in (5, 17, 33)]
    params = SamplingParams(max_tokens=40, temperature=temperature)
    plain = generate(target, prompts, params)
    for spec in SPECS:
        drafter = create_drafter(spec.format(tmp_path), DrafterContext(target))
        assert generate(target, prompts, params, drafter) == plain, spec
    assert target.vectors.num_used <= 6  # all of them share the three vectors; the fixture may serve two tests


def test_right_blanks_are_always_right(tmp_path):
    """The clock tells the time behind any token, so every guess holds: 1 token in the first step, then 4."""
    target = Clock(vocab_size=50)
    random_blanks(target.base).save_pretrained(tmp_path)
    drafter = create_drafter(f"blanks:{tmp_path}:after=end", DrafterContext(target))
    (request,) = run(target, [make_request(target, [0, 1, 2], SamplingParams(max_tokens=41), drafter, num_draft_tokens=3)])
    assert request.output_token_ids == [i % 50 for i in range(3, 44)]
    assert request.stats.num_steps == 11


def test_blanks_of_another_model_or_shape_are_refused(toy_blanks, tmp_path):
    target = ToyTarget(sharpness=3.0)
    for other, spec, message in [
        (ToyTarget(), "blanks:{}", "with other weights"),
        (target, "blanks:{}:count=4", "count may be 3 at most, as many as were trained"),
        (target, "blanks:{}:blank=last", "not both"),
        (target, "blanks:{}/nothing", "there are no heads"),
    ]:
        with pytest.raises(BadInputError, match=message):
            create_drafter(spec.format(toy_blanks), DrafterContext(other))
    target.base = None
    with pytest.raises(BadInputError, match="does not say which model it runs"):
        create_drafter(f"blanks:{toy_blanks}", DrafterContext(target))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "medusa"}, "of kind 'medusa', not blanks"),
        ({"settings": {"count": 17}}, "count must be an integer from 1 to 16"),
        ({"settings": {"count": 2}}, r"embeddings must be \[2, 12\], not \[3, 12\]"),
        ({"settings": {"count": 3, "temperatures": [1.0, 0.0, 1.0]}}, "temperatures must be 3 numbers"),
        ({"tensors": {}}, "found: none"),
        ({"tensors": {"embeddings": np.zeros((3, 12), np.int32)}}, "of int32"),
    ],
)
def test_damaged_helpers_are_one_clear_line(change, message):
    helper = random_blanks(ToyTarget().base)
    assert blank_vectors(helper).temperatures == (1.0, 1.0, 1.0)
    with pytest.raises(BadInputError, match=message):
        blank_vectors(replace(helper, **change))


def test_those_that_come_with_outpace_are_used_unless_a_text_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    target = ToyTarget(sharpness=3.0)
    assert create_drafter("blanks", DrafterContext(target)).blanks == Blanks()
    random_blanks(target.base).save_pretrained(tmp_path / "blanks-toy")
    drafter = create_drafter("blanks", DrafterContext(target))
    assert (list(drafter.blanks.tokens), drafter.count, drafter.num_draft_tokens) == ([12, 13, 14], 3, 6)
    assert create_drafter("blanks:blank=last", DrafterContext(target)).blanks == Blanks()
    assert create_drafter("blanks", DrafterContext(ToyTarget())).blanks == Blanks()
    target.capabilities = replace(target.capabilities, num_vectors=0)
    assert create_drafter("blanks", DrafterContext(target)).blanks == Blanks()


def test_temperatures_flatten_chances_and_change_no_order():
    rows = np.random.default_rng(0).normal(0, 2, (3, 300)).astype(np.float32)
    plain, warm = (likeliest(rows, 4, Blanks(trust=1.0, temperatures=t)) for t in ((), (2.0, 1.0)))
    assert [[token for token, _ in level] for level in warm] == [[token for token, _ in level] for level in plain]
    expected = np.exp(rows[0] / 2) / np.exp(rows[0] / 2).sum()
    assert [confidence for _, confidence in warm[0]] == pytest.approx(expected[[token for token, _ in warm[0]]].tolist(), rel=1e-4)
    assert warm[1:] == plain[1:]
