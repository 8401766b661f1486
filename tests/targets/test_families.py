"""A dozen model families on both targets, compared with transformers: `dev/families.py`, whose table covers them all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))
import families

FAMILIES = {
    "Mistral, window": ("right", "right"),
    "Qwen2, windows": ("right", "right"),
    "Gemma 3": ("right", "right"),
    "Gemma 3n": ("right", "right"),  # layers that share K/V
    "Cohere 2": ("right", "right"),
    "gpt-oss": ("right", "right"),  # sinks, windows, experts with biases
    "Mixtral": ("right", "right"),
    "Qwen3-MoE": ("right", "right"),
    "DeepSeek V3": ("right", "right"),  # keys and values differ in width
    "Gemma 2": ("refused", "right"),  # softcap
    "Llama 4": ("right, at most one chunk of tokens", "right"),
    "GPT-Neo": ("right", "right"),  # attention of its own
    "JetMoE": ("refused: its code loops over tokens or experts, which the converter cannot follow; use --target hf", "right"),
    "Mamba": ("refused", "refused"),
}


@pytest.fixture(autouse=True)
def restored():
    """The converter switches gradients off for its whole process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("target", families.TARGETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_right_or_refused_in_one_line(name, target):
    verdict = families.check(name, target)
    expected = FAMILIES[name][families.TARGETS.index(target)]
    assert verdict == expected or (expected == "refused" and verdict.startswith("refused: ")), verdict


def test_a_wrong_window_is_seen(monkeypatch):
    """The negative control: without its windows a model is WRONG."""
    monkeypatch.setattr("outpace.targets.openvino.graphs._set_attention", lambda model: None)
    assert families.check("Mistral, window", "openvino").startswith("WRONG: logits off")
