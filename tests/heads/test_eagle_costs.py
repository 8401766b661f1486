"""What the drafter eagle costs, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
from eagle_tools import GREEDY, PROMPTS

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.combined import CombinedDrafter
from outpace.drafters.eagle import EagleDrafter
from outpace.drafters.spec import create_drafter, ready_drafters, usage
from outpace.errors import BadInputError
from outpace.heads import shipped
from outpace.heads.format import DraftHeads
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import generate, make_request, run


def test_the_head_runs_only_if_asked_and_for_all_requests_at_once(random):
    target = ToyTarget(sharpness=3.0)
    part = create_drafter(f"eagle:{random}:max_depth=3:threshold=0.0001", DrafterContext(target))
    calls, head = [], part.head
    part.head = lambda rows: calls.append(rows.token_ids.shape) or head(rows)
    drafter = CombinedDrafter([part], ["eagle"], is_ordered=False)
    requests = [make_request(target, [i, i], SamplingParams(max_tokens=12), drafter, num_draft_tokens=8) for i in range(5)]
    run(target, requests)
    assert len(calls) == 3 * max(request.stats.num_drafts for request in requests)
    assert calls[0] == (5, 4)
    calls.clear()
    run(target, [make_request(target, [3, 4], SamplingParams(max_tokens=5), drafter, num_draft_tokens=0)])
    assert calls == []
    run(target, [make_request(target, [i, i], SamplingParams(max_tokens=12), drafter, num_draft_tokens=8 * (i < 3)) for i in range(5)])
    assert max(num_texts for num_texts, _ in calls) == 3  # those that draft


def test_long_prompts_do_not_wait(random, monkeypatch):
    monkeypatch.setattr("outpace.drafters.eagle.FILL", 4)
    target = ToyTarget(sharpness=3.0)
    drafter, waiting = create_drafter(f"eagle:{random}", DrafterContext(target)), []
    observe_prompt = drafter.observe_prompt

    def note(request, start, hidden):
        observe_prompt(request, start, hidden)
        waiting.append(len(drafter.texts[request.id].cache.waiting))

    drafter.observe_prompt = note
    run(target, [make_request(target, [1] * 9, GREEDY, drafter)], EngineConfig(max_num_batched_tokens=3, min_prefill_chunk=3))
    assert waiting == [3, 1, 3]


def test_long_prompts_are_read_in_few_widths(random):
    target = ToyTarget(sharpness=3.0)
    drafter = create_drafter(f"eagle:{random}:max_depth=1", DrafterContext(target))
    widths, head = set(), drafter.head
    drafter.head = lambda rows: widths.add(rows.token_ids.shape[1]) or head(rows)
    for length in range(40, 300, 7):
        text = [1 + i * length % 9 for i in range(length)]
        run(target, [make_request(target, text, SamplingParams(max_tokens=4), drafter)], EngineConfig(enable_prefix_caching=False))
    assert max(widths) > 200
    assert len(widths) <= 10 + 16  # of prompts, and of drafts


@pytest.mark.parametrize("failing", [3, 4, 5])  # in the first call of a step, and at later levels
def test_a_head_that_fails_once_is_asked_again(random, failing):
    """The trees are those of a head that never failed: the rows that it was to run are not lost."""
    target, stats = ToyTarget(sharpness=3.0), []
    for number in (failing, -1):
        drafter = create_drafter(f"eagle:{random}:threshold=0.0001:max_depth=3", DrafterContext(target))
        calls, head = itertools.count(), drafter.head
        drafter.head = lambda rows, head=head, calls=calls, number=number: head(rows) if next(calls) != number else 1 / 0
        requests = [make_request(target, prompt, GREEDY, drafter) for prompt in PROMPTS]
        run(target, requests, EngineConfig(on_drafter_error="continue"))
        assert [r.output_token_ids for r in requests] == generate(target, PROMPTS, GREEDY)
        stats.append([(r.stats.drafter_error, r.stats.num_draft_tokens, r.stats.num_accepted_tokens) for r in requests])
    assert stats[0] == stats[1]
    assert all(error is None and num_draft_tokens > 5 for error, num_draft_tokens, _ in stats[0])


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (":max_depth=0", "max_depth and branches must be from 1 to 32"),
        (":branches=33", "max_depth and branches must be from 1 to 32"),
        (":threshold=0", "threshold must be"),
        (":threshold=1", "threshold must be"),
    ],
)
def test_wrong_options_are_refused(fitted, options, message):
    with pytest.raises(BadInputError, match=message):
        create_drafter(f"eagle:{fitted}{options}", DrafterContext(ToyTarget(sharpness=3.0)))


def test_heads_that_do_not_fit_are_refused(fitted, tmp_path, monkeypatch):
    with pytest.raises(BadInputError, match="eagle: no heads for toy come with outpace; train some and give their folder: eagle:PATH"):
        create_drafter("eagle", DrafterContext(ToyTarget()))
    with pytest.raises(BadInputError, match=r"do not fit: they were made for toy \(toy-3-0\), but this model is toy with other weights"):
        create_drafter(f"eagle:{fitted}", DrafterContext(ToyTarget()))
    with pytest.raises(BadInputError, match="there are no heads in"):
        create_drafter(f"eagle:{tmp_path}", DrafterContext(ToyTarget()))
    DraftHeads("medusa", ToyTarget().base, {}, {}).save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match="these heads are of kind 'medusa', not eagle"):
        create_drafter(f"eagle:{tmp_path}", DrafterContext(ToyTarget()))
    monkeypatch.delattr(ToyTarget, "embeddings")
    with pytest.raises(BadInputError, match="does not share its embeddings"):
        create_drafter(f"eagle:{fitted}", DrafterContext(ToyTarget(sharpness=3.0)))


def test_it_is_ready_where_a_head_comes_with_outpace(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    target = ToyTarget(sharpness=3.0)
    assert usage("eagle") == "eagle[:PATH]"
    assert "eagle" not in ready_drafters(target.base)
    DraftHeads.from_pretrained(fitted).save_pretrained(tmp_path / "eagle-toy")
    assert "eagle" in ready_drafters(target.base)
    drafter = create_drafter("eagle", DrafterContext(target))
    assert isinstance(drafter, EagleDrafter)
    assert generate(target, PROMPTS, GREEDY, drafter) == generate(target, PROMPTS, GREEDY)
