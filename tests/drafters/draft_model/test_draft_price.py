"""A draft model is asked only where it pays, and its chains end where another forward pass does not."""

from __future__ import annotations

import pytest

from outpace.drafters.base import CostlyDrafter, DrafterContext
from outpace.drafters.combined import CombinedDrafter
from outpace.drafters.draft_model.price import MAX_CONFIDENCE, USUAL_GAIN, DraftPrice
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import OracleDrafter, generate, make_request, run

PROMPTS = [[1, 2, 3, 1, 2], [5, 6, 5, 6, 5]]
PARAMS = SamplingParams(max_tokens=30)


def test_the_price_rises_with_the_speed_that_is_reached():
    price = DraftPrice(0.4, 0.1)
    assert price.min_confidence == pytest.approx(0.4 + 0.1)
    for _ in range(200):
        price.record_step(num_tokens=4, num_nodes=3, num_passes=3)
    assert price.speed == pytest.approx(4 / (1 + 3 * 0.4 + 3 * 0.1), rel=0.01)
    assert price.min_confidence == pytest.approx(price.speed * (0.4 + 0.1))
    assert DraftPrice(5.0).min_confidence == MAX_CONFIDENCE
    assert DraftPrice(0.0).min_confidence == 0.0  # nobody has measured it


def test_the_net_gain_is_what_the_time_of_a_proposal_would_have_given_otherwise():
    price = DraftPrice(0.5)
    for _ in range(400):
        price.record_step(num_tokens=3, num_nodes=3, num_passes=2)
    speed = 3 / (1 + 2 * 0.5 + 3 * 0.1)
    assert price.expected_net_gain == pytest.approx(2.0 - speed * (0.5 * 2 + 0.1 * 3))


def test_a_draft_of_others_gains_what_its_likely_nodes_are_worth():
    price = DraftPrice(0.4, 0.1)
    assert price.net_gain([0.9, 0.5, 0.05]) == pytest.approx(0.8 + 0.4)  # the third costs more than it gains
    assert price.net_gain([]) == 0.0


def test_a_text_is_read_if_the_answer_can_be_long_enough():
    price = DraftPrice(0.4, 0.1, reading_cost=0.05)
    assert price.is_worth_reading(360, 90)  # 18 forward passes; of 3 tokens 0.6 cost no time
    assert not price.is_worth_reading(361, 90)
    assert price.is_worth_reading(1020, 4000)
    assert not price.is_worth_reading(1030, 4000)  # most answers end long before their limit
    for _ in range(400):
        price.record_step(num_tokens=2, num_nodes=1, num_passes=1)
    assert price.is_worth_reading(100, 30)  # at a speed of 2 / 1.5, 1 - 0.67 of 2 tokens cost no time
    assert not price.is_worth_reading(100, 29)
    assert not price.is_worth_reading(100, 30, num_written=9, num_asked=3)  # other drafters write much of the text
    assert DraftPrice(0.4, 0.1).is_worth_reading(10_000, 1)  # nobody has measured it


def test_a_draft_model_that_lost_is_tried_again():
    price = DraftPrice(0.4, 0.1)
    for _ in range(100):
        price.record_step(1, 1, 1)
    assert price.expected_net_gain < 0
    for _ in range(30):
        price.record_step(1, 0, 0)
    assert price.expected_net_gain > -0.2
    for _ in range(1000):
        price.record_step(1, 0, 0)
    assert price.expected_net_gain == pytest.approx(USUAL_GAIN)


class Costly(OracleDrafter, CostlyDrafter):
    """Knows the answer, at a price."""

    def __init__(self, context, answers, gain):
        super().__init__(context, answers, 0.0)
        self.gain, self.asked, self.was_read = gain, [], []

    def gains_more(self, paths):
        return sum(paths) < self.gain

    def read(self, requests):
        self.was_read.append(len(requests))

    def propose_batch(self, requests, budgets):
        self.asked.append(len(requests))
        assert self.was_read == self.asked
        return super().propose_batch(requests, budgets)


@pytest.mark.parametrize("is_ordered", [True, False])
def test_a_draft_model_speaks_where_the_others_promise_less(is_ordered):
    target = ToyTarget()
    context = DrafterContext(target)
    plain = generate(target, PROMPTS, PARAMS)
    answers = {tuple(prompt): answer for prompt, answer in zip(PROMPTS, plain, strict=True)}
    for gain, is_asked in ((100.0, True), (0.0, False)):
        costly = Costly(context, answers, gain)
        drafter = CombinedDrafter([OracleDrafter(context, answers, 0.5), costly], ["cheap", "costly"], is_ordered)
        requests = [make_request(target, prompt, PARAMS, drafter, seed=i) for i, prompt in enumerate(PROMPTS)]
        run(target, requests)
        assert [request.output_token_ids for request in requests] == plain
        assert bool(costly.asked) == is_asked
        if is_asked:
            assert costly.asked[0] == 2  # both requests in one call
            assert all(request.stats.num_steps <= 5 for request in requests)
