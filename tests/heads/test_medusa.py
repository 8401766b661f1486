"""The drafter medusa: its guesses stand at the right places, its heads give the same on every backend, and no text ever changes."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from helper_tools import fitted_medusa, lent_forms, random_medusa

from outpace.cli.options.loading import drafter_settings
from outpace.drafters import DRAFTERS
from outpace.drafters.base import DrafterContext
from outpace.drafters.combined import CombinedDrafter
from outpace.drafters.medusa import MedusaDrafter, fixed
from outpace.drafters.spec import create_drafter, ready_drafters, usage
from outpace.errors import BadInputError
from outpace.heads import shipped
from outpace.heads.format import DraftHeads
from outpace.heads.medusa.weights import medusa_weights
from outpace.heads.runtime import build_heads
from outpace.params import SamplingParams
from outpace.targets.base import LMHead, TargetOutput
from outpace.targets.identity import Base
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, check_drafter, generate, make_request, run
from outpace.tree.draft import Verdict

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [4], [5, 6, 5, 6, 5, 6, 7, 8, 5, 6]]
GREEDY, SAMPLED = SamplingParams(max_tokens=40), SamplingParams(temperature=0.8, max_tokens=40)
TREE = [[0], [0, 0], [1], [0, 0, 0], [0, 1], [1, 0]]
SPECS = ["medusa:{}", "medusa:{}:shape=fixed", "prompt_lookup+medusa:{}", "medusa:{}+recycling", "auto:suffix+recycling+medusa:{}"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Heads that are right now and then on the toy model of sharpness 3."""
    folder = tmp_path_factory.mktemp("fitted")
    fitted_medusa(ToyTarget(sharpness=3.0), PROMPTS, tree=TREE).save_pretrained(folder)
    return folder


# ---- the text never changes


@pytest.mark.parametrize("spec", SPECS)
def test_it_keeps_the_rules(fitted, spec):
    check_drafter(lambda context: create_drafter(spec.format(fitted), context))


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("period", [None, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_the_text_never_changes(fitted, tmp_path, spec, period, params):
    target = ToyTarget(sharpness=3.0) if period is None else InexactTarget(period, sharpness=3.0)
    random_medusa(target.base, 4, 2, own=True, reduced=7, tree=TREE).save_pretrained(tmp_path)
    for folder, batch in itertools.product((fitted, tmp_path), (PROMPTS[:1], PROMPTS)):
        plain = generate(target, batch, params)
        drafter = create_drafter(spec.format(folder), DrafterContext(target))
        for count in (1, 4, 9):
            assert generate(target, batch, params, drafter, "exact", count) == plain


def accepted(target, folder, params=GREEDY, spec="medusa:{}") -> float:
    """Accepted guesses a step."""
    drafter = create_drafter(spec.format(folder), DrafterContext(target))
    requests = run(target, [make_request(target, prompt, params, drafter, seed=i) for i, prompt in enumerate(PROMPTS)])
    return sum(r.stats.num_accepted_tokens for r in requests) / sum(r.stats.num_steps for r in requests)


def test_heads_that_know_something_help(fitted, tmp_path):
    target = ToyTarget(sharpness=3.0)
    random_medusa(target.base, 3).save_pretrained(tmp_path)
    for spec in SPECS[:2]:
        assert accepted(target, fitted, spec=spec) > accepted(target, tmp_path, spec="medusa:{}:threshold=0.0001") + 0.2


# ---- guesses stand at the right places


def counting(period=None) -> ToyTarget:
    """After every token comes the one that is 1 larger."""
    target = ToyTarget() if period is None else InexactTarget(period)
    target.table[:] = 20 * np.roll(np.eye(12), 1, axis=1)
    target.detail[:] = 0
    return target


@pytest.fixture
def counters(tmp_path):
    """Three heads that read what the next token is, and say the one after it, the one after that, and so on."""
    shifts = [np.roll(np.eye(12), 1 + head, axis=0) for head in range(3)]
    tensors = {f"heads.{head}.projection.weight": shift for head, shift in enumerate(shifts)}
    settings = {"num_heads": 3, "num_layers": 0, "num_draft_vocab": None}
    DraftHeads("medusa", counting().base, settings, tensors, [[0], [0, 0], [0, 0, 0]]).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shape", ["best", "fixed"])
@pytest.mark.parametrize("budget", [1, 2, 3, 8])
def test_right_heads_are_always_right(counters, budget, shape):
    target = counting()
    drafter = create_drafter(f"medusa:{counters}:shape={shape}", DrafterContext(target))
    (request,) = run(target, [make_request(target, [3, 4], SamplingParams(max_tokens=41), drafter, num_draft_tokens=budget)])
    assert request.output_token_ids == [(5 + i) % 12 for i in range(41)]
    gained = 1 + min(budget, 3)
    assert request.stats.num_steps == 1 + -(-40 // gained)  # the first step is plain: no pass has given a hidden state yet


def test_right_heads_are_right_behind_pending_tokens_too(counters):
    """Tokens that are checked once more stand between the last committed one and the guesses."""
    target = counting(period=1000)
    wrong_first = create_drafter(f"medusa:{counters}:shape=fixed", DrafterContext(target))
    wrong_first.tree = [[1], [0], [0, 0], [0, 0, 0]]  # so that the accepted chain never stands first
    (request,) = run(target, [make_request(target, [3, 4], SamplingParams(max_tokens=41), wrong_first, num_draft_tokens=4)])
    assert request.output_token_ids == [(5 + i) % 12 for i in range(41)]
    assert request.stats.num_steps == 12  # one plain step, ten with 4 tokens each, and one that confirms the last of them


def test_the_row_of_the_last_accepted_node_is_read(counters):
    target = counting()
    drafter = create_drafter(f"medusa:{counters}", DrafterContext(target))
    request = make_request(target, [0, 1])
    drafter.begin(request)
    assert len(drafter.propose(request, 8)) == 0
    request.token_ids += [2, 3, 4]
    hidden = 20 * np.eye(12, dtype=np.float32)[[2, 3, 9, 4]]  # rows of the last token, of 2, of a wrong guess and of 3
    verdict = Verdict(replace(fixed([[0], [1], [0, 0]], [[(2, 0.9), (8, 0.1)], [(3, 1.0)]], 9)), [0, 2], 4)
    drafter.observe(request, verdict, TargetOutput(hidden, hidden, [1, 2, 8, 3]))
    assert list(drafter.propose(request, 8).token_ids) == [5, 6, 7]
    assert [drafter.successors(request, path)[0][0] for path in ((), (9,), (9, 9))] == [5, 6, 7]
    assert list(drafter.successors(request, (1, 2, 3))) == []
    hidden[:] = 0  # outputs are valid until the next pass only
    assert list(drafter.propose(request, 8).token_ids) == [5, 6, 7]


def test_a_step_it_was_not_shown_leaves_nothing_to_say(counters):
    target = counting()
    drafter = create_drafter(f"medusa:{counters}", DrafterContext(target))
    request = make_request(target, [0, 1])
    drafter.begin(request)
    request.token_ids.append(2)
    hidden = 20 * np.eye(12, dtype=np.float32)[[2]]
    drafter.observe(request, Verdict(fixed([], [], 0), [], 2), TargetOutput(hidden, hidden, [1]))
    assert len(drafter.propose(request, 8)) == 3
    request.token_ids.append(3)  # a resting drafter sees one step in a few
    assert len(drafter.propose(request, 8)) == 0
    assert list(drafter.successors(request, ())) == []


def test_it_runs_the_heads_once_a_step_and_only_if_asked(counters):
    target = counting()
    part = create_drafter(f"medusa:{counters}", DrafterContext(target))
    calls, heads = Counter(), part.heads
    part.heads = lambda hidden: calls.update(run=1, rows=len(hidden)) or heads(hidden)
    drafter = CombinedDrafter([part], ["medusa"], is_ordered=False)
    (request,) = run(target, [make_request(target, [3, 4], SamplingParams(max_tokens=41), drafter, num_draft_tokens=8)])
    assert calls["run"] == request.stats.num_drafts == 10
    run(target, [make_request(target, [3, 4], SamplingParams(max_tokens=5), drafter, num_draft_tokens=0)])
    assert calls["run"] == 10
    run(target, [make_request(target, [i, i], SamplingParams(max_tokens=41), drafter, num_draft_tokens=8) for i in range(5)])
    assert calls["run"] == 20  # together
    assert calls["rows"] == 60
    run(target, [make_request(target, [i, i], SamplingParams(max_tokens=41), drafter, num_draft_tokens=8 * (i < 3)) for i in range(5)])
    assert calls["run"] == 30
    assert calls["rows"] == 90  # of those that draft


# ---- the shape of a draft


LEVELS = [[(7, 0.6), (8, 0.3)], [(5, 0.5), (6, 0.25)]]


@pytest.mark.parametrize("budget", range(7))
def test_a_fixed_tree_is_cut_at_the_budget(budget):
    draft = fixed([[0], [1], [0, 1], [0, 0], [1, 0], [2], [0, 0, 0]], LEVELS, budget)
    assert draft.token_ids == [7, 8, 6, 5, 5][:budget]
    assert draft.parents == [-1, -1, 0, 0, 1][:budget]
    assert draft.confidences == [0.6, 0.3, 0.25, 0.5, 0.5][:budget]


def test_the_likeliest_paths_are_drafted(counters):
    drafter = create_drafter(f"medusa:{counters}:threshold=0.1", DrafterContext(counting()))
    drafter.heads = lambda hidden: (np.array([[[7, 8], [5, 6]]]), np.array([[[0.6, 0.3], [0.5, 0.25]]]))
    request = make_request(counting(), [0, 1])
    drafter.begin(request)
    hidden = np.zeros((1, 12), np.float32)
    drafter.observe(request, Verdict(fixed([], [], 0), [], 1), TargetOutput(hidden, hidden, [0]))
    draft = drafter.propose(request, 9)
    assert (draft.token_ids, draft.parents) == ([7, 8, 5, 6, 5], [-1, -1, 0, 0, 1])  # 8, 6 is 0.075
    assert draft.confidences == [0.6, 0.3, 0.5, 0.25, 0.5]


# ---- one answer on every backend


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("reduced", [None, 50])
def test_backends_agree(layers, own, reduced):
    base = Base("tiny", "f" * 16, 32, 300)
    more = {"settings": {"temperatures": [1.0, 0.5, 2.0]}}
    weights = medusa_weights(random_medusa(base, 3, layers, own, reduced, **more))
    hidden = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    forms = {backend: lm_head for backend, (_, lm_head) in lent_forms(32, 300).items()}
    all_tokens, all_chances = build_heads(weights, forms["numpy"], 300)(hidden)
    assert all_tokens.shape[:2] == all_chances.shape[:2] == (4, 3)
    for backend, tolerance in (("torch", 1e-3), ("openvino", 0.25)):  # 8 bits are few in a model as narrow as this one
        heads = build_heads(weights, forms[backend], 6)
        for count in (4, 1):
            tokens, confidences = heads(hidden[:count])
            assert tokens.shape == confidences.shape == (count, 3, 6)
            assert (np.diff(confidences, axis=2) <= 0).all()
            for place in np.ndindex(count, 3):
                known = dict(zip(all_tokens[place].tolist(), all_chances[place].tolist(), strict=True))
                np.testing.assert_allclose(confidences[place], [known[token] for token in tokens[place].tolist()], rtol=tolerance)
                np.testing.assert_allclose(confidences[place], all_chances[place][:6], rtol=tolerance)


def test_no_more_tokens_than_there_are():
    weights = medusa_weights(random_medusa(Base("tiny", "f" * 16, 32, 300), 2, reduced=5))
    for _, lm_head in lent_forms(32, 300).values():
        assert build_heads(weights, lm_head, 10)(np.ones((3, 32), np.float32))[0].shape == (3, 2, 5)


def test_a_bias_of_the_lm_head_counts():
    linear = torch.nn.Linear(8, 20)
    linear.bias.data = torch.arange(20.0) * 5
    for reduced, best in ((None, 19), (6, None)):
        weights = medusa_weights(random_medusa(Base("tiny", "f" * 16, 8, 20), 2, reduced=reduced))
        best = int(weights.vocab_ids.max()) if best is None else best
        assert build_heads(weights, LMHead("torch", linear, 20), 1)(np.zeros((1, 8), np.float32))[0].tolist() == [[[best], [best]]]


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (":shape=round", "shape must be one of best, fixed"),
        (":threshold=0", "threshold must be"),
        (":threshold=1", "threshold must be"),
        (":shape=fixed", "bring no tree"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    random_medusa(ToyTarget().base).save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=message):
        create_drafter(f"medusa:{tmp_path}{options}", DrafterContext(ToyTarget()))


def test_heads_that_are_not_there_are_refused(tmp_path):
    context = DrafterContext(ToyTarget())
    with pytest.raises(BadInputError, match="no heads for toy come with outpace; train some"):
        create_drafter("medusa", context)
    with pytest.raises(BadInputError, match="there are no heads in"):
        create_drafter(f"medusa:{tmp_path}", context)
    with pytest.raises(BadInputError, match=r"needs a target with 'tree'"):
        create_drafter("medusa", DrafterContext(ToyTarget(tree=False)))
    context.target.base = None
    with pytest.raises(BadInputError, match="does not say which model"):
        create_drafter("medusa", context)


def test_heads_of_another_model_are_refused(fitted):
    with pytest.raises(
        BadInputError, match=r"do not fit: they were made for toy \(toy-3-0\), but this model is toy with other weights \(toy-2-0\)"
    ):
        create_drafter(f"medusa:{fitted}", DrafterContext(ToyTarget()))


def test_a_target_that_lends_no_lm_head_is_refused(fitted, monkeypatch):
    monkeypatch.delattr(ToyTarget, "lm_head")
    with pytest.raises(BadInputError, match="does not share its LM head"):
        create_drafter(f"medusa:{fitted}", DrafterContext(ToyTarget(sharpness=3.0)))


def test_heads_of_other_tools_run(tmp_path):
    """In the original layout: one block that adds nothing, and an LM head of its own for each head."""
    state = {f"{head}.0.linear.{kind}": torch.zeros(*size) for head in range(3) for kind, size in (("weight", (12, 12)), ("bias", (12,)))}
    state |= {f"{head}.1.weight": torch.eye(12).roll(1 + head, 0) for head in range(3)}
    torch.save(state, tmp_path / "medusa_lm_head.pt")
    (tmp_path / "config.json").write_text('{"medusa_num_heads": 3, "medusa_num_layers": 1}')
    assert accepted(counting(), tmp_path) > 2.5


# ---- heads that come with outpace


def test_it_is_ready_where_heads_come_with_outpace(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    target = ToyTarget(sharpness=3.0)
    assert usage("medusa") == "medusa[:PATH]"
    assert "medusa" in DRAFTERS
    assert "medusa" not in {*ready_drafters(), *ready_drafters(target.base)}
    DraftHeads.from_pretrained(fitted).save_pretrained(tmp_path / "medusa-toy")
    assert "medusa" in ready_drafters(target.base)
    assert "medusa" not in {*ready_drafters(), *ready_drafters(ToyTarget().base)}
    drafter = create_drafter("medusa", DrafterContext(target))
    assert isinstance(drafter, MedusaDrafter)
    assert drafter.num_draft_tokens == 10
    assert generate(target, PROMPTS, GREEDY, drafter) == generate(target, PROMPTS, GREEDY)
    assert "medusa" in drafter_settings(None, None, target.base)  # what bench and verify take, when no drafters are named
    assert "medusa" not in drafter_settings(None, None)
