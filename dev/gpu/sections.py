"""The sections of a run; each returns what goes into the JSON document."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpu import costs, decoding, simulated, training
from gpu.setting import Setting, free

ROOT = Path(__file__).parents[2]
TESTS = ["tests/targets/device", "tests/targets/test_hf.py", "tests/targets/test_hf_engine.py"]
CPU_TESTS = ["tests/targets/device/test_device.py"]


def pass_cost(setting: Setting) -> list[dict[str, Any]]:
    """Milliseconds of a forward pass by its tokens, with and without graphs, beside the time that reading the weights takes."""
    rows = []
    for build in (setting.small_model, *(lambda shape=shape: setting.random_model(shape) for shape in setting.shapes)):
        rows.append(costs.curve(setting, *build()))
        free()
    return rows


def decoding_speed(setting: Setting) -> dict[str, Any]:
    """Tokens per second: plain, drafters, and what transformers does itself."""
    return decoding.compare(setting, *setting.small_model())


def simulation(setting: Setting) -> list[dict[str, Any]]:
    """Decoding of larger shapes with random weights, where a known share of the draft tokens is right. A simulation."""
    rows = []
    for shape in setting.shapes:
        rows.append(simulated.replay(setting, *setting.random_model(shape)))
        free()
    return rows


def train_head(setting: Setting) -> dict[str, Any]:
    """Training of Medusa heads on hidden states of the small model."""
    return training.medusa(setting, *setting.small_model())


def run_tests(setting: Setting) -> dict[str, Any]:
    """The tests of the torch target, on this device too. Raises RuntimeError if one fails."""
    tests = CPU_TESTS if setting.is_cpu else TESTS
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OUTPACE_HOME": home}
        command = [sys.executable, "-m", "pytest", "-x", "-m", "not real", "-p", "no:cacheprovider", *tests]
        limit = max(30.0, setting.seconds_left - 10)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        raise RuntimeError("\n".join(lines[-30:]) or done.stderr[-2000:])
    return {"tests": tests, "summary": lines[-1]}
