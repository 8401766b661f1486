"""The proposer for vLLM, without vLLM: rows that move, join, leave and come back, cut drafts, the limits, and what it learns."""

from unittest.mock import patch

import numpy as np
import pytest
from fake_vllm import END, VOCAB_SIZE, PairModel, Runner, config
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import OneByOne

from outpace.drafters import recycling
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.recycling import likeliest
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.vllm import Proposer
from outpace.vllm.served_model import ServedModel

PROMPTS = [[1, 2, 3], [4, 5], [7], [1, 2, 3, 8, 1, 2, 3]]
EVENTS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "preempt", "swap", "step", "step", "step", "cut"]), st.integers(0, 5), st.integers(0, 5)),
    max_size=60,
)


def expected_draft(text, spec="suffix", num_draft_tokens=4, max_len=200):
    """What a drafter drafts that reads this text alone, from its beginning."""
    drafter = create_drafter(spec, DrafterContext(ServedModel(VOCAB_SIZE, max_len, None)))
    request = Request("1", list(text), SamplingParams(max_tokens=1 << 30), None, None)
    drafter.begin(request)
    return drafter.propose_chains([request], [max(0, min(num_draft_tokens, max_len - len(text) - 1))], 0.1)[0]


def play(runner, events):
    """Let these events happen, with a check after every step; returns the preempted texts that have not come back."""
    waiting = []
    for event, one, other in events:
        row = one % max(1, len(runner.rows))
        if event == "join" and len(runner.rows) < 8:
            runner.join(waiting.pop() if waiting else PROMPTS[one % len(PROMPTS)])
        elif event in ("leave", "preempt") and runner.rows:
            text = runner.leave(row).text
            if event == "preempt":
                waiting.append(text)
        elif event == "swap" and runner.rows:
            runner.swap(row, other % len(runner.rows))
        elif runner.rows and max(len(one.text) for one in runner.rows) < runner.max_len - runner.proposer.num_draft_tokens - 1:
            yield runner.step(other if event == "cut" else None)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, seed=st.integers(0, 3), chunk=st.sampled_from([2, 3, 1000]))
def test_a_draft_depends_on_the_rows_text_alone(events, seed, chunk):
    runner = Runner(Proposer(config()), PairModel(seed, num_tokens=9), chunk)
    for drafts in play(runner, events):
        for one, draft in zip(runner.rows, drafts, strict=True):
            assert one.num_to_run or draft == expected_draft(one.text)
        assert len(runner.proposer.texts.rows) <= len(runner.rows)
        assert not runner.proposer.is_broken


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, seed=st.integers(0, 3), chunk=st.sampled_from([2, 1000]))
def test_what_is_learned_is_what_followed(events, seed, chunk):
    """The model's next tokens depend on two tokens, so every entry of a pair in the table must be exactly theirs."""
    model = PairModel(seed, num_tokens=9)
    proposer = Proposer(config(drafter="suffix+recycling"))
    runner = Runner(proposer, model, chunk)
    for _ in play(runner, events):
        pass
    table = proposer.drafter.parts[1].scopes.get("")
    if table is None:
        return
    for key in table.keys[table.keys >= VOCAB_SIZE]:
        before, token = divmod(int(key), VOCAB_SIZE)
        tokens, confidences = likeliest([model.logits(before - 1, token)[None]], 8)
        known = table.get(int(key))
        assert known[0] == tokens[0].tolist()
        np.testing.assert_allclose(known[1], confidences[0], rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    events=EVENTS,
    seed=st.integers(0, 3),
    chunk=st.sampled_from([2, 1000]),
    num_tokens=st.sampled_from([4, 9]),
    at_once=st.sampled_from([1, 99]),
)
def test_batches_draft_what_requests_would_get_alone(events, seed, chunk, num_tokens, at_once):
    options = config(drafter="suffix+recycling:pairs=16", threshold=0.02)  # few slots for pairs: some are lost
    runners = [Runner(kind(options), PairModel(seed, num_tokens), chunk) for kind in (Proposer, OneByOne)]
    with patch.object(recycling, "AT_ONCE", at_once):
        for together, alone in zip(play(runners[0], events), play(runners[1], events), strict=True):
            assert together == alone
    tables = [runner.proposer.drafter.parts[1].scopes.get("") for runner in runners]
    assert tables[0] is tables[1] is None or all((getattr(tables[0], it) == getattr(tables[1], it)).all() for it in ("keys", "entries"))


def test_learning_goes_on_unless_a_draft_was_cut():
    model, proposer = PairModel(1, num_tokens=6), Proposer(config(drafter="suffix+recycling"))
    runner = Runner(proposer, model)
    runner.join([1, 2])
    runner.step()
    learned = proposer.drafter.parts[1].scopes[""]
    assert learned.get(2)[0][0] == model.next_token([1, 2])
    while not runner.rows[0].draft:
        runner.step()
    before = learned.keys.copy(), learned.entries.copy()
    runner.step(cut=0)
    assert (learned.keys == before[0]).all()
    assert (learned.entries == before[1]).all()


def test_drafting_saves_passes():
    model = PairModel(2, num_tokens=8)

    def passes(spec):
        runner = Runner(Proposer(config(drafter=spec)), model)
        runner.join([1, 2, 3])
        while len(runner.rows[0].text) < 100:
            runner.step()
        return runner.num_passes

    assert passes("none") == 97
    assert passes("suffix") < 60
    assert passes("suffix+recycling:table=none") <= passes("suffix")


def test_answers_are_remembered_up_to_their_end():
    proposer = Proposer(config(drafter="suffix:memory=1000"))
    runner = Runner(proposer, PairModel())
    first = runner.join([1, 2, 3])
    runner.step()
    runner.leave(0)
    first.text += [11, 12, 13, END, 14, 15]
    proposer.texts.rows[0].extend(np.array(first.text, np.int32))
    runner.join([5])
    runner.step()
    answers = [answer for one in next(iter(proposer.drafter.memory.scopes.values())) for answer in one.answers]
    assert answers == [first.text[3:7]], "without the prompt, and without what came after the end"


def test_a_follow_up_in_the_same_row_is_a_new_request():
    proposer = Proposer(config(drafter="suffix:memory=1000"))
    runner = Runner(proposer, PairModel(num_tokens=9))
    first = runner.join([1, 2, 3])
    runner.step()
    runner.leave(0)
    runner.join([*first.text, 4, 5])
    runner.step()
    assert proposer.texts.rows[0].request.num_prompt_tokens == len(first.text) + 2
    assert len(proposer.drafter.sources) == 1


def test_the_drafter_forgets_who_has_left():
    proposer = Proposer(config())
    runner = Runner(proposer, PairModel())
    for prompt in PROMPTS:
        runner.join(prompt)
    runner.step()
    assert len(proposer.drafter.sources) == 4
    for _ in range(3):
        runner.leave(0)
    runner.step()
    assert len(proposer.drafter.sources) == 1


def test_equal_texts_are_kept_apart():
    runner = Runner(Proposer(config()), PairModel())
    for _ in range(4):
        runner.join([1, 2, 3])
    for _ in range(20):
        drafts = runner.step()
    assert len({id(text) for text in runner.proposer.texts.rows.values()}) == 4
    assert drafts == [drafts[0]] * 4


def test_steps_without_the_proposer_do_not_confuse_it():
    """vLLM asks for no drafts while any text is nearly as long as it may be."""
    proposer = Proposer(config(max_len=40))
    runner = Runner(proposer, PairModel(num_tokens=3))
    runner.join([1, 2, 0] * 10)
    runner.join([1, 2, 0])
    asked = []
    while len(runner.rows[0].text) < 39:
        asked.append(any(runner.step()))
    assert asked[0]
    assert not asked[-1]
    runner.leave(0)
    drafts = runner.step()
    assert drafts == [expected_draft(runner.rows[0].text, max_len=40)] != [[]]
    assert len(proposer.drafter.sources) == 1


def test_a_draft_leaves_room_for_the_models_own_token():
    proposer = Proposer(config(max_len=12, num_draft_tokens=4))
    text = np.array([[1, 2, 3] * 4], np.int32)
    lengths = [len(proposer.propose([[1]], np.array([n], np.int32), text)[0]) for n in (7, 8, 9, 10, 11, 12)]
    assert lengths == [4, 3, 2, 1, 0, 0]


def test_more_requests_than_max_requests(capsys):
    proposer = Proposer(config(max_requests=2))
    runner = Runner(proposer, PairModel(num_tokens=3))
    for _ in range(4):
        runner.join([1, 2, 0])
    for _ in range(8):
        drafts = runner.step()
    assert [bool(draft) for draft in drafts] == [True, True, False, False]
    assert capsys.readouterr().err.count("drafts are made for 2") == 1
    runner.leave(0)
    runner.leave(0)
    assert all(runner.step()), "the others were read all the time"


class Failing(Drafter):
    def __init__(self, context):
        pass

    def propose(self, request, budget):
        raise ZeroDivisionError


def test_a_drafter_that_fails_ends_drafting_and_not_the_engine(capsys):
    proposer = Proposer(config(drafter=f"{__name__}:Failing"))
    runner = Runner(proposer, PairModel())
    runner.join([1, 2])
    assert [runner.step(), runner.step()] == [[[]], [[]]]
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"draftr": "suffix"}, "draftr"),
        ({"drafter": 3}, "str"),
        ({"threshold": 1}, "float"),
        ({"threshold": 0.0}, "threshold"),
        ({"max_requests": 0}, "max_requests"),
        ({"drafter": "sufix"}, "sufix"),
        ({"drafter": "medusa"}, "medusa"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    with pytest.raises(BadInputError, match=word):
        Proposer(config(**options))


def test_the_end_tokens_may_be_one_several_or_none():
    found = config()
    for given_, expected in ((5, {5}), ([5, 6], {5, 6}), (None, set())):
        found.model_config.hf_config.eos_token_id = given_
        assert Proposer(found).end_tokens == expected
