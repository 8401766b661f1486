"""What the drafter eagle sees of prompts, and what the target and the head remember."""

from __future__ import annotations

import itertools

import pytest
from eagle_tools import GREEDY, PROMPTS, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.eagle import EagleDrafter
from outpace.drafters.spec import create_drafter
from outpace.heads.eagle import draft_tree as eagle_tree
from outpace.heads.eagle import prefix_cache as eagle_memory
from outpace.heads.eagle.cache import EagleCache
from outpace.heads.eagle.prefix_cache import EagleMemory
from outpace.heads.eagle.weights import eagle_weights
from outpace.heads.format import DraftHeads
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import generate, make_request, run


class Noted(EagleDrafter):
    """Tells its drafts, and what of the prompt it was shown."""

    def begin(self, request):
        super().begin(request)
        self.drafts, self.shown = [], []

    def observe_prompt(self, request, start, hidden):
        super().observe_prompt(request, start, hidden)
        self.shown.append((start, len(hidden)))

    def propose(self, request, budget):
        draft = super().propose(request, budget)
        self.drafts.append((list(draft.token_ids), list(draft.parents)))
        return draft


def noted(target, folder, prompt, drafter=None, config=None):
    """A request with this prompt, and the drafter that guessed for it."""
    drafter = drafter or Noted(DrafterContext(target), str(folder), threshold=0.001)
    (request,) = run(target, [make_request(target, prompt, GREEDY, drafter)], config)
    return request, drafter


@pytest.mark.parametrize("chunk", [1, 2, 3, 512])
def test_chunks_of_a_prompt_make_no_difference(random, chunk, monkeypatch):
    monkeypatch.setattr(eagle_tree, "FILL", 5)
    target, prompt = ToyTarget(sharpness=3.0), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    configs = [EngineConfig(max_num_batched_tokens=size, min_prefill_chunk=size) for size in (chunk, 512)]
    one, other = (noted(target, random, prompt, config=config)[1].drafts for config in configs)
    assert one == other
    assert all(token_ids for token_ids, _ in one)  # the first too: of the prompt's tokens but the last the features are known


def test_it_sees_the_prompt_and_others_do_not_pay(random):
    target = ToyTarget(sharpness=3.0)
    seen, forward = [], target.forward
    target.forward = lambda batch, width=0: seen.append([s.wants_hidden for s in batch]) or forward(batch, width)
    for spec, wants in (("recycling", False), (f"eagle:{random}", True), (f"recycling+eagle:{random}", True)):
        seen.clear()
        drafter = create_drafter(spec, DrafterContext(target))
        run(target, [make_request(target, [1, 2, 3, 4], SamplingParams(max_tokens=3), drafter)])
        assert seen[0] == [wants]
        assert not any(any(segments) for segments in seen[1:])


# ---- what the target and the head remember


def num_alike(one, other):
    """Tokens until two texts part."""
    return len([*itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))])


class Remembering(ToyTarget):
    """Does not run again what begins like a text that it has run."""

    def __init__(self, **options):
        super().__init__(**options)
        self.texts = []

    def allocate(self, num_tokens, prompt_token_ids=(), cache_salt=""):
        slot, prompt = super().allocate(num_tokens), list(prompt_token_ids[:-1])
        known = max((num_alike(text, prompt) for text in self.texts), default=0)
        slot.token_ids.extend(prompt[:known])
        self.cache[slot.index] = [(token, i) for i, token in enumerate(prompt[:known])]
        return slot

    def free(self, slot):
        self.texts.append(list(slot.token_ids))
        super().free(slot)


def test_a_prompt_that_others_have_run_is_run_again_for_the_head(random):
    target = Remembering(sharpness=3.0)
    generate(target, PROMPTS[2:], GREEDY)
    _, drafter = noted(target, random, PROMPTS[2])
    assert drafter.shown == [(0, len(PROMPTS[2]) - 1)]
    assert drafter.drafts == noted(ToyTarget(sharpness=3.0), random, PROMPTS[2])[1].drafts


def test_the_next_turn_is_not_read_again_and_guessed_as_well(random):
    target = Remembering(sharpness=3.0)
    turn, drafter = noted(target, random, PROMPTS[2])
    longer = [*turn.token_ids[:30], 3, 1, 4, 1, 5]
    _, drafter = noted(target, random, longer, drafter)
    ((start, _),) = drafter.shown
    assert 9 < start <= 30
    fresh, other = noted(ToyTarget(sharpness=3.0), random, longer)
    assert other.shown == [(0, 34)]
    assert drafter.drafts == other.drafts
    assert len(fresh.output_token_ids) == 40


def test_together_with_others_it_reads_the_prompt_all_the_same(random):
    target, seen = Remembering(sharpness=3.0), []
    generate(target, PROMPTS[2:], GREEDY)
    accept = target.accept
    target.accept = lambda slot, token_ids, nodes: seen.append(slot.num_cached) or accept(slot, token_ids, nodes)
    for spec in ("recycling", f"recycling+eagle:{random}", f"auto:suffix+recycling+eagle:{random}"):
        seen.clear()
        drafter = create_drafter(spec, DrafterContext(target))
        run(target, [make_request(target, PROMPTS[2], SamplingParams(max_tokens=3), drafter)])
        assert (seen[0] == 0) == ("eagle" in spec)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(texts, st.integers(0, 8)), max_size=8), texts, st.integers(0, 8))
def test_a_memory_knows_what_it_was_given(random, kept, asked, wanted):
    """The keys of a row say which tokens it is of; some texts have a gap."""
    weights, memory = eagle_weights(DraftHeads.from_pretrained(random)), EagleMemory()
    known = [0]
    for text, gap in kept:
        cache = EagleCache(weights)
        cache.positions = [place for place in range(len(text) - 1) if place != gap]
        cache.reserve(len(cache.positions))
        for row, place in enumerate(cache.positions):
            cache.keys[:, row], cache.values[:, row] = [text[place] * 2 + text[place + 1]], [place]
        memory.keep(text, cache)
        known.append(min(num_alike(text, asked) - 1, gap))
    assert memory.num_reusable_prefix(asked) == max(known)
    found = EagleCache(weights)
    memory.recall(asked, wanted, found)
    assert found.positions == list(range(min(wanted, max(known))))
    for row in found.positions:
        assert (found.keys[:, row] == asked[row] * 2 + asked[row + 1]).all()
        assert (found.values[:, row] == row).all()


def test_a_memory_serves_texts_of_the_same_salt_only(random):
    weights, memory = eagle_weights(DraftHeads.from_pretrained(random)), EagleMemory()
    cache = EagleCache(weights)
    cache.positions = [0, 1]
    cache.reserve(2)
    memory.keep([1, 2, 3], cache, "one")
    memory.keep([1, 2, 3], cache, "two")
    assert [memory.num_reusable_prefix([1, 2, 3, 4], salt) for salt in ("", "one", "two")] == [0, 2, 2]
    found = EagleCache(weights)
    memory.recall([1, 2, 3, 4], 2, found)
    assert found.num_rows == 0
    memory.keep([1, 2, 3, 4], cache, "one")  # takes the place of its beginning, but not of the other's text
    assert [memory.num_reusable_prefix([1, 2, 3, 4], salt) for salt in ("", "one", "two")] == [0, 2, 2]


def test_a_memory_has_bounds(random, monkeypatch):
    monkeypatch.setattr(eagle_memory, "MAX_ROWS", 20)
    monkeypatch.setattr(eagle_memory, "MAX_TEXTS", 3)
    weights, memory = eagle_weights(DraftHeads.from_pretrained(random)), EagleMemory()

    def keep(*token_ids):
        cache = EagleCache(weights)
        cache.positions = list(range(len(token_ids) - 1))
        cache.reserve(len(token_ids))
        memory.keep(token_ids, cache)

    for first in range(5):
        keep(first, 1, 2, 3)
    assert [memory.num_reusable_prefix([first, 1, 2, 3]) for first in range(5)] == [0, 0, 3, 3, 3]
    memory.recall([2, 1, 2, 3], 3, EagleCache(weights))  # what is used stays longest
    keep(5, 1, 2, 3)
    assert [memory.num_reusable_prefix([first, 1, 2, 3]) for first in range(6)] == [0, 0, 3, 0, 3, 3]
    keep(5, 1, 2, 3, 4, 5)  # the next turn takes the place of the one before
    assert (len(memory.texts), memory.num_reusable_prefix([5, 1, 2, 3, 4, 5])) == (3, 5)
    keep(*range(6, 22))
    assert [kept.num_rows for kept in memory.texts] == [5, 15]
    keep(7)
    assert [kept.num_rows for kept in memory.texts] == [5, 15]
    keep(*range(8, 38))  # longer than all there is room for: its beginning is kept, and nobody has to read it again
    assert [kept.num_rows for kept in memory.texts] == [20]
    assert (
        memory.num_reusable_prefix([*range(8, 37)]),
        memory.num_reusable_prefix([*range(8, 20)]),
        memory.num_reusable_prefix([8, 9, 1]),
    ) == (29, 11, 1)
