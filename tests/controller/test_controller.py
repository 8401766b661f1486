"""How much to guess: calibration, the width of a pass, drafters that do not earn their time, and auto as a whole."""

from __future__ import annotations

import random

import pytest
from cost_tables import table

from outpace.config import EngineConfig
from outpace.controller.adaptive import AdaptiveController
from outpace.controller.base import FixedController, Plan
from outpace.controller.calibration import PRIOR, Calibration
from outpace.controller.cost import CostTable
from outpace.controller.drafter_stats import LONGEST_PAUSE, PAUSE, TRIAL, DrafterStats
from outpace.controller.num_tokens import NumTokensPolicy
from outpace.controller.strategy import Strategy
from outpace.controller.switch import Switch
from outpace.drafters.base import DrafterContext
from outpace.drafters.combined import CombinedDrafter
from outpace.drafters.spec import create_drafter
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, make_request, run
from outpace.tree.draft import Draft
from outpace.verifiers import create_verifier

# ---- calibration


def test_claims_count_first_and_what_happens_counts_later():
    calibration = Calibration()
    assert calibration.confidence("a", 0.8, 1) == pytest.approx(0.8)
    for i in range(200):
        calibration.learn("a", 0.8, 1, i % 4 == 0)
    assert calibration.confidence("a", 0.8, 1) == pytest.approx((50 + PRIOR * 0.8) / (200 + PRIOR))
    assert calibration.confidence("a", 0.81, 1) < 0.3, "the same bin"
    assert calibration.confidence("a", 0.3, 1) == pytest.approx(0.3)
    assert calibration.confidence("a", 0.8, 2) == pytest.approx(0.8)
    assert calibration.confidence("b", 0.8, 1) == pytest.approx(0.8)


def test_old_trials_are_forgotten():
    calibration = Calibration()
    for outcome in (True, False):
        for _ in range(3000):
            calibration.learn("a", 0.5, 1, outcome)
    assert calibration.confidence("a", 0.5, 1) < 0.05


def test_a_whole_proposal_is_judged_as_far_as_the_truth_is_known():
    #        5(.5) -> 6(.4) -> 7(.9)
    # root <
    #        8(.2) -> 9(.9)
    draft = Draft([5, 8, 6, 9, 7], [-1, -1, 0, 1, 2], confidences=[0.5, 0.2, 0.4, 0.9, 0.9], sources=["a", "b", "a+b", "b", "a"])
    calibration = Calibration()
    assert calibration.paths(draft, "x") == pytest.approx([0.5, 0.2, 0.2, 0.18, 0.18])
    calibration.observe(draft, "x", [5, 4])
    judged = {(source, round(entry[0]), round(entry[1])) for (source, _, _), entry in calibration.counts.items()}
    assert judged == {("a", 1, 1), ("b", 0, 1), ("a+b", 0, 1)}
    lookahead = Draft([5, 1], [-1, 0], num_lookahead=1)
    assert calibration.paths(lookahead, "x") == [0.5, 0.0]


# ---- the width of a pass


def steady(policy: NumTokensPolicy, confidences: list[float], steps: int = 40) -> list[int]:
    gains = [1.0]
    for confidence in confidences:
        gains.append(gains[-1] + confidence)
    rows = [2, *range(2, 2 + len(confidences))]
    return [policy.choose(rows, gains, 1, 0) for _ in range(steps)]


def test_flat_cost_takes_all_and_steep_cost_takes_only_what_is_free():
    confidences = [0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.1]
    assert steady(NumTokensPolicy(table(0.0)), confidences)[-1] >= 8
    assert steady(NumTokensPolicy(table(10.0)), confidences)[-1] == 2
    middle = steady(NumTokensPolicy(table(0.6)), confidences)[-1]
    assert 3 <= middle < 8


def test_the_chosen_width_has_the_best_rate_of_all():
    rng = random.Random(7)
    for _ in range(50):
        confidences = sorted((rng.random() for _ in range(10)), reverse=True)
        costs = table(rng.choice([0.1, 0.3, 1.0, 3.0]))
        num_tokens = steady(NumTokensPolicy(costs), confidences)[-1]
        rates = {w: (1 + sum(confidences[: w - 1])) / costs.milliseconds(w) for w in (2, 3, 4, 5, 6, 8, 10)}
        taken = (1 + sum(confidences[: num_tokens - 1])) / costs.milliseconds(num_tokens)
        assert taken >= 0.99 * max(rates.values())


def test_a_change_that_costs_is_made_for_a_lasting_gain_only():
    policy = NumTokensPolicy(table(0.4, switch=5.0))
    low, high = [0.1], [0.35, 0.3, 0.25, 0.2]
    assert set(steady(policy, low)) == {2}
    assert steady(policy, high, 1) == [2], "once is too short"
    assert steady(policy, high, 30)[-1] >= 4
    assert steady(policy, [0.99] * 20, 1)[0] >= 16, "worth going there and back"
    sizes = steady(policy, low, 60)
    assert sizes[0] >= 6
    assert sizes[-1] == 2


def test_no_step_is_padded_where_a_change_costs_nothing():
    """However often a wide step pays: the next one can be wide again."""
    policy = NumTokensPolicy(table(0.4))
    for _ in range(30):
        assert steady(policy, [0.9] * 6, 1)[0] >= 7
        assert steady(policy, [], 3) == [2, 2, 2]


def test_plain_steps_are_not_padded():
    """Else they would be as slow as drafting, and the comparison with it would be wrong."""
    policy = NumTokensPolicy(table(0.4, switch=50.0))
    policy.num_tokens = 8
    assert policy.choose([2], [1.0], 1, 100) == 8  # a change costs more than it saves
    policy.num_tokens = 8
    assert policy.choose([2], [1.0], 1, 100, is_plain=True) == 2


def test_a_pass_is_never_narrower_than_its_rows():
    policy = NumTokensPolicy(table(1.0, 5.0))
    assert policy.choose([9], [1.0], 1, 0) >= 9  # pending tokens have to run
    assert policy.choose([30], [1.0], 1, 0) >= 30
    assert policy.choose([16, 16, 17], [8.0, 8.5, 8.6], 8, 0) >= 16


# ---- drafters that do not earn their time


def test_a_drafter_rests_while_it_costs_more_than_it_gives():
    drafter_stats = DrafterStats(["good", "bad"])
    for _ in range(TRIAL):
        assert drafter_stats.paused == set()
        drafter_stats.account({"good": 0.3, "bad": 0.01}, {"good": 0.5, "bad": 2.0}, rate=0.1)
    assert drafter_stats.paused == {"bad"}
    for _ in range(PAUSE):
        assert drafter_stats.paused == {"bad"}
        drafter_stats.account({"good": 0.3}, {"good": 0.5}, rate=0.1)
    assert drafter_stats.paused == set()
    for _ in range(TRIAL):
        drafter_stats.account({"bad": 0.0}, {"bad": 2.0}, rate=0.1)
    assert drafter_stats.records["bad"].pause == 2 * PAUSE
    for _ in range(20_000):
        drafter_stats.account({"good": 0.3}, {"good": 0.5, "bad": 2.0}, rate=0.1)
    assert drafter_stats.records["bad"].next_pause <= LONGEST_PAUSE


def test_a_resting_drafter_is_not_called():
    parts = create_drafter("auto:suffix+recycling", DrafterContext(ToyTarget()))
    assert isinstance(parts, CombinedDrafter)
    request = make_request(ToyTarget(), [1, 2, 3, 1, 2, 3, 1, 2], drafter=parts)
    parts.begin(request)
    assert "suffix" in set(parts.propose(request, 8).sources)
    parts.paused = {"suffix", "recycling"}
    assert len(parts.propose(request, 8)) == 0


# ---- guessing that does not pay as a whole


def shares(monkeypatch, tokens: float, guessing: float, plain: float, num_steps: int = 4000, load: float = 1.0) -> float:
    """The share of plain steps where a step of a request that guesses gives `tokens` in `guessing` ms, and a plain one 1 in `plain` ms."""
    switch, now, length, num_plain = Switch(), 0.0, 100.0, 0
    monkeypatch.setattr("outpace.controller.switch.time.perf_counter", lambda: now)
    for step in range(num_steps):
        names = [f"r{step // 500 + i}" for i in range(3)]
        switch.step(dict.fromkeys(names, length), 10.0, load)
        num_plain += switch.is_plain
        now += load * (plain if switch.is_plain else guessing) / 1e3
        length += 1.0 if switch.is_plain else tokens
    return num_plain / num_steps


def test_guessing_is_left_where_measured_steps_lose(monkeypatch):
    assert shares(monkeypatch, 2.0, 13.0, 10.0) == 0, "it pays by far: plain is never even tried"
    assert shares(monkeypatch, 2.0, 13.0, 10.0, load=3.0) == 0, "also on a busy machine"
    assert shares(monkeypatch, 1.2, 11.0, 10.0) < 0.1, "it pays a little"
    assert shares(monkeypatch, 1.2, 12.5, 10.0) > 0.8, "it costs more than it gives"
    assert shares(monkeypatch, 1.2, 12.5, 12.5) < 0.1, "the table was wrong about plain steps, the clock is not"
    assert 0.8 < shares(monkeypatch, 1.0, 10.5, 10.0) < 1.0, "it is tried again now and then"


def test_the_guard_knows_nothing_while_requests_come_and_go():
    switch = Switch()
    for step in range(1000):
        switch.step({f"r{step}": 10}, 10.0, 1.0)
    assert not switch.is_plain


# ---- all of it together


def adaptive(target: ToyTarget, costs: CostTable) -> Strategy:
    """`auto` on a toy whose forward passes seem to take what the table says, so that the real clock corrects nothing."""
    drafter = create_drafter("auto", DrafterContext(target))
    controller = AdaptiveController(costs, drafter)
    record = controller.record_forward_time
    controller.record_forward_time = lambda _: record(controller.forward[1] if controller.forward else controller.taken)
    return Strategy("auto", drafter, create_verifier("exact"), controller)


@pytest.mark.parametrize("target_class", [ToyTarget, InexactTarget])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("slope", "switch"), [(0.0, 0.0), (0.3, 5.0), (20.0, 0.0)])
def test_auto_never_changes_the_text(target_class, temperature, slope, switch):
    target = target_class(sharpness=3.0, max_len=200)
    params = SamplingParams(temperature=temperature, max_tokens=50)
    prompts = [[1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [5, 6], [7]]
    plain = [r.output_token_ids for r in run(target, [make_request(target, p, params, seed=i) for i, p in enumerate(prompts)])]
    strategy = adaptive(target, table(slope, switch))
    for _ in range(3):  # calibrated differently each time
        requests = [make_request(target, p, params, seed=i) for i, p in enumerate(prompts)]
        for request in requests:
            request.strategy = strategy
        assert [r.output_token_ids for r in run(target, requests)] == plain


def test_auto_guesses_more_where_rows_cost_less():
    drafted = {}
    for slope in (0.0, 20.0):
        target = ToyTarget(sharpness=4.0)
        strategy = adaptive(target, table(slope))
        requests = [make_request(target, [1, 2, 3, 1, 2, 3], SamplingParams(max_tokens=200))]
        requests[0].strategy = strategy
        run(target, requests)
        drafted[slope] = requests[0].stats.num_draft_tokens / requests[0].stats.num_steps
    assert drafted[20.0] <= 1.0, "only the row that plain decoding pads anyway"
    assert drafted[0.0] > 2.0


def test_rows_of_others_count():
    """Beside a large prefill the same guesses are not worth their rows."""
    costs = CostTable((2.0, 16.0, 64.0, 512.0), (10.0, 10.0, 40.0, 900.0), (10.0, 10.0, 40.0, 900.0), (0.0,) * 4)
    target = ToyTarget()
    drafts = [Draft.chain([1, 2, 3, 4, 5, 6])]
    taken = []
    for others in (0, 300):
        strategy = adaptive(target, costs)
        request = make_request(target, [1, 2, 3])
        request.strategy = strategy
        for _ in range(20):
            plan = strategy.controller.plan([request], drafts, others)
        taken.append(len(plan.drafts[0]))
    assert taken[0] > 3 > taken[1]


def test_a_controller_that_fails_costs_speed_only(caplog):
    class Broken(FixedController):
        def plan(self, requests, drafts, num_other_tokens) -> Plan:
            raise RuntimeError("boom")

    target = ToyTarget()
    plain = make_request(target, [1, 2, 3], SamplingParams(max_tokens=12))
    broken = make_request(target, [1, 2, 3], SamplingParams(max_tokens=12))
    drafter = create_drafter("prompt_lookup", DrafterContext(target))
    broken.strategy = Strategy("x", drafter, create_verifier("exact"), Broken(4))
    run(target, [plain])
    run(target, [broken], EngineConfig(on_drafter_error="continue"))
    assert broken.output_token_ids == plain.output_token_ids
    assert "boom" in caplog.text


def test_auto_by_its_name(make_toy, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path))
    llm = make_toy("auto:prompt_lookup+recycling")
    plain = llm.generate("abcabcabc", SamplingParams(max_tokens=30), speculative_config="none")[0]
    fast = llm.generate("abcabcabc", SamplingParams(max_tokens=30))[0]
    assert fast.token_ids == plain.token_ids
    assert {name for source in fast.sources if source for name in source.split("+")} <= {"prompt_lookup", "recycling"}
    assert isinstance(llm.strategy("auto").controller, AdaptiveController)
    assert isinstance(llm.strategy("suffix+recycling").controller, FixedController)
    with pytest.raises(ValueError, match="unknown drafter"):
        llm.strategy("auto:nothing")
