"""Drafts under a grammar: forbidden nodes go, forced tokens come, and whole answers are the plain ones."""

from __future__ import annotations

import json
import re

import jsonschema
import numpy as np
import pytest
from grammar_tools import END, FAST, FORMS, PERSON, VOCAB, encode, processor

from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import DrafterContext
from outpace.params import SamplingParams, StructuredOutput
from outpace.targets.toy import ToyTarget
from outpace.testing import SampledDrafter, make_request
from outpace.tree.draft import Draft
from outpace.tree.unconfirmed import Unconfirmed
from outpace.verifiers import create_verifier

DRAFTERS = ["prompt_lookup", "suffix+recycling", "blind", "recycling"]


# ---- the shape of drafts


def shape(form: StructuredOutput, draft: Draft, budget: int = 8, limit: int = 40, unconfirmed=(), committed: str = "") -> Draft:
    request = make_request(ToyTarget(vocab_size=len(VOCAB)), [1])
    request.unconfirmed = Unconfirmed(list(unconfirmed))
    found = processor(form)
    found.commit(encode(committed))
    return found.shape(draft, request, budget, limit)


def tree(draft: Draft) -> set[str]:
    """The paths of the draft as texts."""
    paths = {-1: ""}
    for node, (token, parent) in enumerate(zip(draft.token_ids, draft.parents, strict=True)):
        paths[node] = paths[parent] + FAST.decode([token], skip_special_tokens=False)
    return set(paths.values()) - {""}


def test_forbidden_nodes_go_with_their_subtrees():
    form = StructuredOutput("regex", "[ab][cd][ef].*")
    tokens = encode("aqbcdqeaz")
    shaped = shape(form, Draft(tokens, [-1, -1, -1, 0, 0, 2, 3, 1, 8 - 1], confidences=[0.9, *[0.1] * 8], sources=list("123456789")))
    assert tree(shaped) == {"a", "b", "ac", "ad", "ace"}
    assert sorted(shaped.sources) == ["1", "3", "4", "5", "7"]
    assert shaped.confidences[0] == 0.9


def test_forced_tokens_come_first_and_cost_no_budget():
    shaped = shape(FORMS["schema"], Draft.chain(encode('{"name": "Al')), budget=3)
    assert FAST.decode(shaped.token_ids) == '{"name": "Al'
    assert shaped.sources == ["grammar"] * 10 + ["NoDrafter"] * 2
    assert shaped.confidences[:10] == [1.0] * 10
    assert len(shape(FORMS["schema"], Draft(), limit=4)) == 4


def test_forced_tokens_follow_the_leaves_while_the_budget_lasts():
    draft = Draft(encode("AB"), [-1, -1])
    form = StructuredOutput("regex", "(A12|B34)x+")
    assert tree(shape(form, draft, budget=8)) == {"A", "A1", "A12", "A12x", "B", "B3", "B34", "B34x"}
    assert tree(shape(form, draft, budget=3)) == {"A", "A1", "B"}


def test_the_end_is_forced_too_and_nothing_follows_it():
    shaped = shape(FORMS["choice"], Draft.chain([*encode("yes"), END, END, 5]))
    assert (FAST.decode(shaped.token_ids), shaped.token_ids[-1], len(shaped)) == ("yes", END, 4)


def test_pending_tokens_and_committed_ones_lead_the_draft():
    assert (
        FAST.decode(shape(FORMS["choice"], Draft(), unconfirmed=encode("es"), committed="y").token_ids, skip_special_tokens=False)
        == "<end>"
    )
    assert FAST.decode(shape(FORMS["choice"], Draft.chain(encode("ttx")), unconfirmed=encode("o"), committed="n").token_ids) == "t at all"


def test_probes_stay_behind_the_nodes_that_stay():
    form = StructuredOutput("regex", "[ab][cd].*")
    shaped = shape(form, Draft([*encode("aqc"), 7, 8, 9], [-1, -1, 0, 2, 1, -1], num_lookahead=3))
    assert (shaped.num_lookahead, shaped.token_ids[-2:], len(shaped)) == (2, [7, 9], 4)
    assert shaped.parents[-2:] == [1, -1]


def test_plain_decoding_stays_plain(toy):
    answer = toy.generate("ab", SamplingParams(structured=FORMS["schema"], max_tokens=60), speculative_config=False)[0]
    assert answer.stats.num_steps == len(answer.token_ids)
    assert "grammar" not in answer.sources


# ---- whole answers on the toy model


def is_valid(name: str, text: str) -> bool:
    if name == "schema":
        jsonschema.validate(json.loads(text), PERSON)
        return True
    return text in FORMS[name].value if name == "choice" else re.fullmatch(FORMS[name].value, text, re.ASCII) is not None


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("form", FORMS)
def test_every_drafter_gives_the_plain_text(toy, form, temperature):
    num_complete = 0
    for seed in range(4):
        params = SamplingParams(temperature=temperature, seed=seed, max_tokens=90, structured=FORMS[form], logprobs=1)
        plain = toy.generate("[]ab", params, speculative_config=False)[0]
        assert plain.error is None
        for drafter in DRAFTERS:
            answer = toy.generate("[]ab", params, speculative_config=drafter)[0]
            assert (answer.token_ids, answer.text, answer.finish_reason, answer.logprobs) == (
                plain.token_ids,
                plain.text,
                plain.finish_reason,
                plain.logprobs,
            )
            assert "grammar" in answer.sources
        if plain.finish_reason == "stop":
            num_complete += is_valid(form, plain.text)
            assert plain.token_ids[-1] == END
        else:
            assert (plain.finish_reason, len(plain.token_ids)) == ("length", 90)
    assert num_complete


def test_forced_tokens_are_accepted(toy):
    """Whole choices come in one step; every token the grammar drafted first is kept."""
    form = StructuredOutput("choice", ["a long text without any choice", "b the other"])
    answer = toy.generate("ab", SamplingParams(structured=form, max_tokens=60))[0]
    assert answer.text in form.value
    assert answer.finish_reason == "stop"
    assert answer.stats.num_steps <= 2
    assert answer.sources.count("grammar") >= len(answer.text) - 1


@pytest.mark.parametrize("drafter", ["lookahead", "blanks:after=every", "lookahead+suffix"])
def test_a_long_forced_run_leaves_no_room_for_lookahead_tokens(toy, drafter):
    """The limit of a draft holds for forced tokens and lookahead tokens together."""
    form = StructuredOutput("regex", "[ab]{4}" + "x" * 62 + "[ab]{4}" + "y" * 80)
    params = SamplingParams(structured=form, max_tokens=200)
    plain, answer = (toy.generate("ab", params, speculative_config=spec)[0] for spec in ("none", drafter))
    assert (answer.text, answer.finish_reason) == (plain.text, "stop")
    assert answer.stats.drafter_error is None


def test_the_typical_verifier_keeps_the_form_with_sampled_trees(toy):
    context = DrafterContext(toy.target)
    drafter = SampledDrafter(context, width=3)
    strategy = Strategy("sampled", drafter, create_verifier("typical"), FixedController(12))
    for seed in range(4):
        params = SamplingParams(temperature=1.0, seed=seed, max_tokens=80, structured=FORMS["regex"])
        answer = toy.generate("ab", params, speculative_config=strategy)[0]
        assert answer.error is None
        assert answer.finish_reason == "length" or is_valid("regex", answer.text)


def test_max_tokens_and_stop_strings_cut_at_every_offset(toy):
    params = SamplingParams(seed=2, temperature=0.8, max_tokens=90, structured=FORMS["regex"])
    whole = toy.generate("ab", params, speculative_config=False)[0]
    assert whole.finish_reason == "stop"
    for length in range(1, len(whole.token_ids) + 1):
        cut = toy.generate("ab", SamplingParams(seed=2, temperature=0.8, max_tokens=length, structured=FORMS["regex"]))[0]
        assert cut.token_ids == whole.token_ids[:length]
        assert cut.finish_reason == ("stop" if length == len(whole.token_ids) else "length")
    for start in range(len(whole.text)):
        stop = whole.text[start : start + 3]
        cut = toy.generate("ab", SamplingParams(seed=2, temperature=0.8, max_tokens=90, stop=stop, structured=FORMS["regex"]))[0]
        assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.find(stop)], "stop")


def test_a_failure_ends_its_own_request_only(toy):
    """A bias that forbids what the grammar needs, beside an ordinary request."""
    bad = SamplingParams(structured=FORMS["schema"], logit_bias={encode("{")[0]: -np.inf}, max_tokens=20)
    good = SamplingParams(structured=FORMS["choice"], max_tokens=20)
    jobs = [toy.submit("ab", bad), toy.submit("ab", good)]
    while any(job.request.finish_reason is None for job in jobs):
        toy.step()
    failed, fine = [job.output() for job in jobs]
    for job in jobs:
        toy.abort(job)
    assert failed.finish_reason == "error"
    assert "leaves no token" in str(failed.error)
    assert is_valid("choice", fine.text)
    assert toy.generate("ab", SamplingParams(structured=FORMS["schema"], max_tokens=8))[0].text.startswith('{"name":')
