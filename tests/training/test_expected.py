"""The speedup that a training command promises: tokens per step, divided by the time of a step beside that of plain decoding."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from outpace.controller.cost import CostTable
from outpace.training import expected as module
from outpace.training.expected import Expected, Shape, expected, speedup
from outpace.training.stages import Source

COSTS = CostTable(sizes=(2, 4, 8), alone=(10.0, 12.0, 16.0), batched=(10.0, 12.0, 16.0), per_context_token=(0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("num_draft_tokens", "tokens_per_step", "draft_ms", "num_lookahead", "gain"),
    [
        (1, 1.0, 0.0, 0, 1.0),  # nothing accepted, and a second token costs nothing: plain decoding pads to two
        (3, 2.4, 0.0, 0, 2.0),  # a step takes 12 ms
        (3, 2.4, 3.0, 0, 1.6),  # and 3 for the draft
        (3, 2.4, 0.0, 4, 1.5),  # 4 further tokens: 16 ms
        (3, 1.0, 4.0, 0, 0.625),
    ],
)
def test_speedup(num_draft_tokens, tokens_per_step, draft_ms, num_lookahead, gain):
    assert speedup(COSTS, num_draft_tokens, tokens_per_step, draft_ms, num_lookahead) == gain


def test_the_advice_names_the_fastest_shape():
    found = Expected("medusa:heads", [Shape(2, 1.4, 1.2), Shape(4, 1.7, 1.31), Shape(10, 2.0, 0.9)])
    assert found.best == Shape(4, 1.7, 1.31)
    assert "1.31 times" in found.advice
    assert found.advice.endswith("--drafter medusa:heads --num-draft-tokens 4")
    assert found.table.row_count == 3


def test_heads_that_lose_are_not_recommended_alone():
    found = Expected("eagle:head", [Shape(1, 1.1, 0.95), Shape(4, 1.2, 0.7)])
    assert "not faster than plain decoding (0.95 times its speed at best, with 1 draft token per step)" in found.advice
    assert "--drafter auto:suffix+recycling+eagle:head" in found.advice


def test_drafts_are_timed_on_the_model(make_toy, monkeypatch):
    """With the time of a draft that the requests themselves count."""
    llm = make_toy("none")
    monkeypatch.setattr(module, "open_llm", lambda source: llm)
    monkeypatch.setattr(llm.strategies, "costs", COSTS)
    found = expected(Source("toy", Path("x")), "prompt_lookup", {"2": 1.5, "4": 2.0})
    assert [(shape.num_draft_tokens, shape.tokens_per_step) for shape in found.shapes] == [(2, 1.5), (4, 2.0)]
    for shape in found.shapes:
        free = shape.tokens_per_step * COSTS.milliseconds(1) / COSTS.milliseconds(1 + shape.num_draft_tokens)
        assert 0.5 * free < shape.speedup < free  # a lookup takes far less than a forward pass of 10 ms, and some time
