"""The cost table of forward passes: what it says, how it is measured and kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cost_tables import table

from outpace.controller import cost
from outpace.controller.cost import BATCH, SHORT, CostTable, cost_of, measure_cost, without_drift
from outpace.targets.toy import ToyTarget


def test_cost_between_and_beyond_the_widths_and_batches():
    sizes = (2.0, 4.0, 8.0)
    costs = CostTable(sizes, (10.0, 12.0, 20.0), (20.0, 22.0, 30.0), (0.001, 0.001, 0.002))
    assert costs.milliseconds(2) == 10
    assert costs.milliseconds(3) == 11
    assert costs.milliseconds(10) == 24  # the last slope goes on
    assert costs.milliseconds(4, BATCH) == 22
    assert costs.milliseconds(4, 100) == 22
    assert 12 < costs.milliseconds(4, 2) < 22
    assert costs.milliseconds(8, 1, SHORT + 1000) == pytest.approx(20 + 2)
    assert costs.milliseconds(8, 1, 0) == 20


def test_a_table_survives_the_disk_and_damage_is_seen(tmp_path):
    path = tmp_path / "deep" / "costs.json"
    table(0.5, 3.0).save(path)
    assert CostTable.load(path) == table(0.5, 3.0)
    whole = json.loads(path.read_text())
    columns = ("sizes", "alone", "batched", "per_context_token")
    damaged = [{"format": 0}, {"alone": [1.0]}, dict.fromkeys(columns, ()), {"alone": [float("nan")] * len(whole["sizes"])}, {"sizes": 3}]
    for text in ("", "{}", "[]", path.read_text()[:-9], *(json.dumps({**whole, **damage}) for damage in damaged)):
        path.write_text(text)
        assert CostTable.load(path) is None
    assert CostTable.load(tmp_path / "none") is None


@pytest.mark.parametrize("drift", [1.0, 1.5])
def test_a_machine_that_slows_down_adds_nothing_to_a_change_of_size(monkeypatch, drift):
    """Passes of 10 and 16 ms, and 3 more after another size; half-way everything takes `drift` times as long."""
    target, now, count, last = ToyTarget(vocab_size=16, max_len=300), [0.0], [0], [0]
    forward = target.forward

    def timed(batch, num_tokens=0):
        count[0] += 1
        milliseconds = (10.0 if num_tokens == 4 else 16.0) + 3.0 * (num_tokens != last[0])
        now[0] += milliseconds * (drift if count[0] > 20 else 1.0) / 1e3
        last[0] = num_tokens
        return forward(batch, num_tokens)

    monkeypatch.setattr(target, "forward", timed)
    monkeypatch.setattr("outpace.controller.cost.time.perf_counter", lambda: now[0])
    assert 3.0 - 1e-6 <= cost._switch_cost(target, 64, 12) <= 3.0 * drift + 1e-6


def test_a_slow_turn_says_nothing_about_a_shape():
    """Three shapes in four turns; the second turn was half as fast, and one time is an outlier."""
    times = np.array([[10.0, 20.0, 10.0, 10.0], [12.0, 24.0, 12.0, 12.0], [20.0, 40.0, 90.0, 20.0]])
    assert without_drift(times) == pytest.approx([10.0, 12.0, 20.0])


def test_measuring_leaves_no_slot_behind_and_happens_once(tmp_path):
    target = ToyTarget(vocab_size=16, max_len=300)
    first = measure_cost(target, repeats=1)
    assert target.cache == {}
    assert all(value > 0 for value in first.alone + first.batched)
    assert list(first.alone) == sorted(first.alone)
    target.fingerprint = "toy / 1"
    kept = cost_of(target, tmp_path)
    passes = target.num_passes
    assert cost_of(target, tmp_path) == kept
    assert target.num_passes == passes
    target.fingerprint = "toy / 2"
    assert cost_of(target, tmp_path) != kept
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("pass_seconds", "seconds_at_most"), [(0.01, 30), (0.2, 60), (2.0, 200)])
def test_a_slow_model_is_measured_with_fewer_passes(pass_seconds, seconds_at_most, monkeypatch):
    """A 7B model with torch on a CPU takes seconds per pass: 600 passes of it would take half an hour."""
    now = [0.0]
    target = ToyTarget(vocab_size=16, max_len=300)
    forward = target.forward

    def slow_forward(*arguments, **options):
        now[0] += pass_seconds
        return forward(*arguments, **options)

    monkeypatch.setattr(target, "forward", slow_forward)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    found = measure_cost(target)
    assert now[0] < seconds_at_most
    assert found.alone == pytest.approx([1e3 * pass_seconds] * len(found.sizes))
