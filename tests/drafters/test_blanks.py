"""Blanks: what they say is used at the right positions, whatever was accepted, and never reaches the text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_parts import Clock

from outpace.drafters.base import DrafterContext
from outpace.drafters.blanks.drafter import BlanksDrafter, likeliest
from outpace.drafters.blanks.kinds import Blanks, text_blanks
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, check_drafter, generate, make_request, run
from outpace.tree.builder import TreeBuilder, by_level, grow_best_first

SPECS = ["blanks", "blanks:count=1", "blanks:blank=3:branches=3", "blanks:after=end", "blanks:after=every:branches=2:count=4"]
MODES = pytest.mark.parametrize("temperature", [0.0, 0.8])


@pytest.mark.parametrize("spec", [*SPECS, "blanks+prompt_lookup", "prompt_lookup+blanks:after=every", "lookahead+blanks:after=end"])
def test_blanks_keep_the_rules(spec):
    check_drafter(lambda context: create_drafter(spec, context))


@pytest.mark.parametrize(("after", "gains"), [("root", [1, 4]), ("end", [1, 4, 4, 4]), ("every", [1, 4, 4, 4])])
def test_predictions_stand_at_their_positions(after, gains):
    """All right: with blanks behind the last token only, every other step has used them up; behind the draft, none has."""
    target, drafts = Clock(vocab_size=50), []

    class Noted(BlanksDrafter):
        def observe(self, request, verdict, output):
            drafts.append(len(verdict.path) + 1)
            super().observe(request, verdict, output)

    drafter = Noted(DrafterContext(target), count=3, after=after)
    (request,) = run(target, [make_request(target, [0, 1, 2], SamplingParams(max_tokens=40), drafter)])
    assert request.output_token_ids == list(range(3, 43))
    assert drafts[: len(gains)] == gains
    assert drafts[: 2 * len(gains)][len(gains) :] == (gains if after == "root" else [4] * 4)


class Checked(BlanksDrafter):
    """Recomputes by hand what the model says at the blanks that are valid after the step."""

    def observe(self, request, verdict, output):
        asked = self.states[request.id].asked
        super().observe(request, verdict, output)
        if asked is None:
            return
        grown = request.context[len(self.text) : -1]
        draft, found = asked.draft, {}
        for anchor in asked.anchors:
            path, node = [], anchor.node
            while node >= 0:
                path, node = [draft.token_ids[node], *path], draft.parents[node]
            if path == grown[: len(path)]:
                text = [*self.text, *path]
                found[len(path)] = {}
                for node in anchor.blanks:
                    text.append(draft.token_ids[node])
                    found[len(path)][len(text)] = int(np.argmax(self.target.logits_after(text)))
        want = found[max(found)] if found else {}
        assert {position: level[0][0] for position, level in self.states[request.id].levels.items()} == want
        self.depths.add(max(found, default=0))

    def propose(self, request, budget):
        self.text = list(request.context)
        return super().propose(request, budget)


@MODES
@pytest.mark.parametrize("period", [None, 10**9])
@pytest.mark.parametrize("after", ["root", "end", "every"])
def test_the_blanks_behind_the_deepest_accepted_guess_count(after, period, temperature):
    target = ToyTarget(vocab_size=4) if period is None else InexactTarget(period, vocab_size=4)
    drafter = Checked(DrafterContext(target), count=1 if after == "end" else 3, blank="3", branches=3, after=after)
    drafter.target, drafter.depths = target, set()
    params = SamplingParams(temperature=temperature, max_tokens=200)
    (request,) = run(target, [make_request(target, [1, 2, 3], params, drafter, num_draft_tokens=9)])
    assert request.output_token_ids == generate(target, [[1, 2, 3]], params)[0]
    assert drafter.depths == {0} if after == "root" else len(drafter.depths) > 1


@pytest.mark.parametrize("after", ["root", "every"])
def test_half_of_a_wrong_draft_is_used_again(after):
    """A guess of the middle was wrong: what the blanks said of later positions still counts."""
    drafter = BlanksDrafter(DrafterContext(Clock(vocab_size=50)), after=after)
    request = make_request(Clock(vocab_size=50), [0, 1, 2], drafter=drafter)
    drafter.begin(request)
    drafter.states[request.id].levels = {3: [(3, 0.9)], 4: [(4, 0.8)], 5: [(5, 0.7)], 7: [(7, 0.6)]}
    request.token_ids.append(30)
    draft = drafter.propose(request, 8)
    assert list(draft.token_ids[: len(draft) - draft.num_lookahead]) == [4, 5]  # 3 is known now, 7 has a gap before it
    assert list(draft.confidences[:2]) == [0.8, 0.7]
    assert draft.num_lookahead == (3 if after == "root" else 9)


def test_many_guesses_leave_room_for_blanks():
    target = Clock(vocab_size=50)
    drafter = BlanksDrafter(DrafterContext(target), count=30, after="every")
    (request,) = run(target, [make_request(target, [0], SamplingParams(max_tokens=200), drafter, num_draft_tokens=64)])
    assert request.output_token_ids == [i % 50 for i in range(1, 201)]
    assert request.stats.num_steps < 20


# ---- what stands at a blank


def test_names_texts_and_ids(toy_llm):
    context = DrafterContext(toy_llm.target, toy_llm.tokenizer)
    assert text_blanks(context, "last").token_ids(7, 3) == [7, 7, 7]
    assert text_blanks(context, "auto").token_ids(7, 4) == toy_llm.tokenizer.encode(" the")
    assert text_blanks(DrafterContext(toy_llm.target), "auto").token_ids(7, 2) == [7, 7]
    assert text_blanks(context, "abc").token_ids(7, 5) == [0, 1, 2, 0, 1]
    assert text_blanks(context, "newline").token_ids(7, 2) == toy_llm.tokenizer.encode("\n") * 2
    assert text_blanks(context, "eos").token_ids(7, 2) == [34, 34]
    assert text_blanks(DrafterContext(toy_llm.target), "5").token_ids(7, 2) == [5, 5]


def test_the_llm_hands_its_tokenizer_to_drafters(make_toy):
    llm = make_toy("blanks:blank=b")
    assert llm.strategy(None).drafter.blanks.token_ids(0, 2) == [1, 1]
    params = SamplingParams(max_tokens=40)
    assert llm.generate("hello", params)[0].text == llm.generate("hello", params, speculative_config="none")[0].text


@pytest.mark.parametrize("options", ["count=-1", "branches=-1", "after=all", "blank=-", "blank=12", "count=33", "blank=eos"])
def test_bad_options_are_refused(options):
    with pytest.raises(BadInputError, match="blanks: "):
        create_drafter(f"blanks:{options}", DrafterContext(ToyTarget()))


def test_a_name_the_model_lacks_is_refused(toy_llm):
    with pytest.raises(BadInputError, match="'pad' is no token"):
        text_blanks(DrafterContext(toy_llm.target, toy_llm.tokenizer), "pad")


# ---- trees of independent guesses


@settings(deadline=None, derandomize=True, max_examples=25)
@given(shares=st.lists(st.lists(st.floats(0.05, 0.9), min_size=1, max_size=3), max_size=4), budget=st.integers(0, 12))
def test_the_tree_holds_the_likeliest_paths(shares, budget):
    levels = [[(10 * depth + i, share) for i, share in enumerate(sorted(level, reverse=True))] for depth, level in enumerate(shares)]
    paths = {(): 1.0}
    front = {(): 1.0}
    for level in levels:
        front = {(*path, token): confidence * share for path, confidence in front.items() for token, share in level}
        paths |= front
    builder = grow_best_first(TreeBuilder(budget), by_level(levels))
    draft = builder.build()
    got = []
    for node in range(len(draft)):
        path, confidence, at = [], 1.0, node
        while at >= 0:
            path, confidence, at = [draft.token_ids[at], *path], confidence * draft.confidences[at], draft.parents[at]
        got.append(confidence)
        assert confidence == pytest.approx(paths[tuple(path)])
        assert builder.path(node) == tuple(path)
    best = sorted((confidence for path, confidence in paths.items() if path), reverse=True)[:budget]
    assert got == pytest.approx(best)


def test_likeliest_are_the_largest_logits():
    rows = np.random.default_rng(0).normal(0, 2, (5, 300)).astype(np.float32)
    for row, level in zip(rows, likeliest(rows, 4, Blanks(trust=1.0)), strict=True):
        assert [token for token, _ in level] == np.argsort(-row, kind="stable")[:4].tolist()
        assert [confidence for _, confidence in level] == pytest.approx(
            (np.exp(row) / np.exp(row).sum())[[t for t, _ in level]].tolist(), rel=1e-4
        )
