"""Negative controls: one broken piece at a time is caught by the comparison that the lossless tests rest on."""

from __future__ import annotations

import numpy as np
import pytest
from hooks import hook
from lossless_tools import GREEDY, PROMPTS, SAMPLED, oracle, toy

from outpace.config import EngineConfig
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.sampling.processors import Hook, Penalties
from outpace.sampling.sampler import RequestSampler
from outpace.targets.toy import ToyTarget
from outpace.testing import (
    AcceptEverythingVerifier,
    check_target,
    generate,
    make_request,
    run,
)
from outpace.tree.segment import Slot
from outpace.tree.unconfirmed import NONE_UNCONFIRMED, Unconfirmed


def test_the_toy_target_keeps_the_rules():
    check_target(toy(), PROMPTS[2])
    check_target(toy(tree=False), PROMPTS[0])
    check_target(toy(exact_trees=False), PROMPTS[0], tree_tolerance=100)
    with pytest.raises(AssertionError, match="row of node 2 against its path"):  # displaced rows are looked at, too
        check_target(toy(exact_trees=False), PROMPTS[0])


class ForgetsToMove(ToyTarget):
    """keep() leaves the first rows where they are instead of the accepted ones."""

    def accept(self, slot, token_ids, nodes):
        super().accept(slot, token_ids, range(len(nodes)))


class KeepsAll(ToyTarget):
    """keep() lets rejected rows live on."""

    def accept(self, slot, token_ids, nodes):
        before = self.cache[slot.index][slot.num_cached :]
        super().accept(slot, token_ids, nodes)
        self.cache[slot.index] += before[len(nodes) :]

    def forward(self, batch, width=0):
        for segment in batch:
            segment.slot.token_ids += [0] * (len(self.cache[segment.slot.index]) - segment.slot.num_cached)
        return super().forward(batch, width)


class SeesSiblings(ToyTarget):
    """The mask shows rows of other branches: the last row's token counts for all."""

    def logits_after(self, context):
        return super().logits_after(context) + self.leak

    leak = np.float32(0)

    def forward(self, batch, width=0):
        self.leak = self.table[0, 0] * np.float32(0.3 * (max(len(segment) for segment in batch) > 3))
        return super().forward(batch, width)


class SharesSlots(ToyTarget):
    """A freed slot comes back with the rows of its last owner."""

    old: tuple = ()

    def allocate(self, num_tokens, prompt_token_ids=(), cache_salt=""):
        slot = super().allocate(num_tokens, prompt_token_ids)
        self.cache[slot.index] = list(self.old)
        return Slot(slot.index, slot.capacity, [token for token, _ in self.old][: max(0, len(prompt_token_ids) - 1)], [])

    def free(self, slot):
        self.old = tuple(self.cache[slot.index][: slot.num_cached])
        super().free(slot)


class SharesPrefixes(ToyTarget):
    """Finds what it has run again, whatever the cache salt."""

    old: tuple = ()

    def allocate(self, num_tokens, prompt_token_ids=(), cache_salt=""):
        slot, prompt = super().allocate(num_tokens), list(prompt_token_ids)
        found = next((text for text in self.old if 0 < len(text) < len(prompt) and prompt[: len(text)] == text), [])
        self.cache[slot.index] = list(zip(found, range(len(found)), strict=True))
        return Slot(slot.index, slot.capacity, list(found), [])

    def free(self, slot):
        self.old = (*self.old, list(slot.token_ids))
        super().free(slot)


def test_check_target_catches_shared_prefixes():
    with pytest.raises(AssertionError, match="9 tokens that a slot of another cache_salt stored"):
        check_target(SharesPrefixes(sharpness=3.0), PROMPTS[2])


@pytest.mark.parametrize("broken", [ForgetsToMove, KeepsAll, SeesSiblings, SharesSlots])
def test_check_target_catches(broken):
    with pytest.raises((AssertionError, BadInputError)):
        check_target(broken(sharpness=3.0), PROMPTS[2])


def test_check_target_has_a_tolerance():
    class Noisy(ToyTarget):
        def forward(self, batch, width=0):
            output = super().forward(batch, width)
            output.logits[:] += np.float32(1e-4 * (self.num_passes % 2))
            return output

    check_target(Noisy(), PROMPTS[0], tolerance=2e-4)
    with pytest.raises(AssertionError, match=r"logits differ by 0\.0001"):
        check_target(Noisy(), PROMPTS[0])


def differs(target, params=SAMPLED, change=None, verifier="exact", config=None, **options) -> bool:
    """Does anything differ from plain decoding with working pieces? A crash counts."""
    plain = generate(toy(), PROMPTS, params)
    drafter = oracle(toy(), params, lie=0.2, **options)
    requests = [make_request(target, p, params, drafter, verifier, 8, i) for i, p in enumerate(PROMPTS)]
    for request in requests:
        if change:
            change(request)
    try:
        return [r.output_token_ids for r in run(target, requests, config)] != plain
    except (AssertionError, BadInputError, IndexError):
        return True


class CountingSampler(RequestSampler):
    """The noise counts draws instead of positions, as a stateful random generator does."""

    count = 0

    def draw(self, row, path, position):
        self.count += 1
        return super().draw(row, path, self.count)


class PathlessPenalties(Penalties):
    def apply(self, row, path):
        super().apply(row, [])


class PathlessHook(Hook):
    def apply(self, row, path):
        super().apply(row, [])


def counting(request):
    request.sampler = CountingSampler(request.sampling_params, request.sampler.seed)


def pathless(request):
    for processor in request.sampler.processors:
        processor.__class__ = {Penalties: PathlessPenalties, Hook: PathlessHook}[type(processor)]


PENALISED = SamplingParams(max_tokens=40, frequency_penalty=1.0)


HOOKED = SamplingParams(max_tokens=40, logits_processors=(hook,))


@pytest.mark.parametrize(
    "control",
    [
        lambda: differs(toy(), verifier=AcceptEverythingVerifier()),
        lambda: differs(toy(), GREEDY, verifier=AcceptEverythingVerifier()),
        lambda: differs(ForgetsToMove(sharpness=3.0), width=3),
        lambda: differs(KeepsAll(sharpness=3.0)),
        lambda: differs(SharesSlots(sharpness=3.0), config=EngineConfig(max_num_seqs=1)),
        lambda: differs(SeesSiblings(sharpness=3.0)),
        lambda: differs(toy(), change=counting),
        lambda: differs(toy(), PENALISED, change=pathless),
        lambda: differs(toy(), HOOKED, change=pathless),
        lambda: differs(toy(), verifier="typical"),
    ],
)
def test_broken_pieces_are_caught(control):
    assert control()


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("period", [1, 2, 3])
def test_trusting_inexact_trees_is_caught(params, period, monkeypatch):
    assert not differs(toy(period), params, width=2)
    monkeypatch.setattr(Unconfirmed, "split", classmethod(lambda cls, verdict, sources: (verdict, NONE_UNCONFIRMED)))
    assert differs(toy(period), params, width=2)


def test_pending_tokens_save_passes_where_they_are_right():
    """What inexact trees predict is nearly always right: then it costs rows, and no more than one pass in all."""
    steps = []
    for target in (toy(), toy(10**9)):
        request = make_request(target, PROMPTS[0], GREEDY, oracle(target, GREEDY, lie=0, width=2), num_draft_tokens=8)
        run(target, [request])
        steps.append(request.stats.num_steps)
    assert steps[0] <= steps[1] <= steps[0] + 2


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED, HOOKED], ids=["greedy", "sampled", "penalised", "hooked"])
def test_nothing_is_caught_when_nothing_is_broken(params):
    assert not differs(toy(), params)
    assert not differs(toy(), params, width=3)
    assert not differs(toy(), params, config=EngineConfig(max_num_seqs=1))
