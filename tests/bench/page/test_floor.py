"""The least time of a forward pass: bytes of weights / the measured speed of memory."""

from __future__ import annotations

import pytest

from outpace.bench import bandwidth
from outpace.targets.toy import ToyTarget


def test_the_floor_is_bytes_by_speed(monkeypatch):
    target = ToyTarget()
    assert bandwidth.pass_floor(target) is None  # it has no weights
    monkeypatch.setattr(target, "weight_bytes", lambda: 500_000_000)
    asked = []
    monkeypatch.setattr(bandwidth, "read_speed", lambda threads: asked.append(threads) or 25e9)
    found = bandwidth.pass_floor(target, 3)
    assert (found.weight_bytes, found.gigabytes_per_second, found.milliseconds) == (500_000_000, 25.0, 20.0)
    assert asked == [3]


def test_speed_is_that_of_the_fastest_round(monkeypatch):
    """Six rounds over 8 MB, of which the third takes a quarter of a second and the others one."""
    ends = iter([1.0, 1.0, 0.25, 1.0, 1.0, 1.0])
    now = [0.0]

    def clock():
        clock.calls += 1
        if clock.calls % 2 == 0:
            now[0] += next(ends)
        return now[0]

    clock.calls = 0
    monkeypatch.setattr(bandwidth.time, "perf_counter", clock)
    assert bandwidth.read_speed(2, megabytes=8) == pytest.approx(8 * 2**20 / 0.25)
