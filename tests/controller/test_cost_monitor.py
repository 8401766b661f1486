"""The cost table is checked against real forward passes, and corrected where it is wrong."""

from __future__ import annotations

import pytest
from cost_tables import table

from outpace.controller import cost_monitor
from outpace.controller.adaptive import AdaptiveController
from outpace.controller.cost import SIZES, CostTable
from outpace.controller.cost_monitor import LEAST, CostMonitor
from outpace.controller.strategy import Strategy
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.machine import LoadMeter
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import make_request, run
from outpace.verifiers import create_verifier


@pytest.fixture
def loads(monkeypatch):
    """The shares of the CPU that other programs take in the windows of a monitor, the last for all further ones; each record ends one."""
    shares = [0.0]

    class Meter(LoadMeter):
        @property
        def other_share(self):
            return shares.pop(0) if len(shares) > 1 else shares[0]

    monkeypatch.setattr(cost_monitor, "LoadMeter", Meter)
    monkeypatch.setattr(cost_monitor, "WINDOW", 0.0)
    return shares


def test_a_busy_machine_corrects_nothing(loads):
    costs = table(0.5)
    monitor = CostMonitor(costs.sizes)
    loads[:] = [0.16, 0.9] * LEAST + [0.15]
    for _ in range(3 * LEAST - 1):
        monitor.record(2, 10.0, 20.0)
        assert monitor.corrected(costs) is None
    monitor.record(2, 10.0, 20.0)
    assert monitor.corrected(costs) is not None  # LEAST of them were measured on a quiet machine


def test_a_load_that_the_system_does_not_tell_counts_as_none(loads):
    costs = table(0.5)
    monitor = CostMonitor(costs.sizes)
    loads[:] = [None]
    for _ in range(LEAST):
        monitor.record(2, 10.0, 20.0)
    assert monitor.corrected(costs) is not None


@pytest.mark.usefixtures("loads")
def test_a_table_that_is_wrong_is_corrected_where_it_is_known_to_be():
    costs = table(0.5)
    monitor = CostMonitor(costs.sizes)
    for _ in range(LEAST - 1):
        monitor.record(2, 10.0, 20.0)
        monitor.record(16, 17.0, 17.0)
    assert monitor.corrected(costs) is None  # too little is known
    monitor.record(2, 10.0, 20.0)
    monitor.record(16, 17.0, 17.0)
    corrected = monitor.corrected(costs)
    assert corrected.milliseconds(16) == pytest.approx(17.0)
    assert corrected.milliseconds(64) == pytest.approx(costs.milliseconds(64))
    assert corrected.milliseconds(2) == pytest.approx(17.0)  # 20 ms, but no more than a larger forward pass takes
    assert corrected.measured_at > costs.measured_at
    assert monitor.corrected(corrected) is None  # begins anew


def test_sizes_that_nobody_measured_take_the_correction_that_changes_least():
    costs = table(0.5)
    assert costs.scaled([4, 8, 10], [1.44, 1.17, 1.2]).milliseconds(2) == pytest.approx(1.17 * costs.milliseconds(2))
    assert costs.scaled([4, 8], [0.5, 0.6]).milliseconds(64) == pytest.approx(0.6 * costs.milliseconds(64))


@pytest.mark.usefixtures("loads")
def test_noise_within_the_tolerance_changes_nothing():
    costs = table(0.5)
    monitor = CostMonitor(costs.sizes)
    for number in range(4 * LEAST):
        monitor.record(8, 13.0, 13.0 * (1.0 + 0.14 * (number % 3 - 1)))
    assert monitor.corrected(costs) is None


@pytest.mark.usefixtures("loads")
def test_auto_corrects_and_keeps_its_table():
    target, kept = ToyTarget(sharpness=3.0), []
    costs = CostTable(tuple(map(float, SIZES)), (100.0,) * len(SIZES), (100.0,) * len(SIZES), (0.0,) * len(SIZES))  # far too slow
    drafter = create_drafter("auto", DrafterContext(target))
    strategy = Strategy("auto", drafter, create_verifier("exact"), AdaptiveController(costs, drafter, keep_costs=kept.append))
    request = make_request(target, [1, 2, 3], SamplingParams(max_tokens=150))
    request.strategy = strategy
    run(target, [request])
    assert kept
    assert kept[-1].milliseconds(2) < 50.0
    assert strategy.controller.policy.costs == kept[-1]
