"""The likeliest tokens of every row of logits that vLLM computes, noted as they pass by, so that drafters can learn from them."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.drafters.recycling import likeliest

NUM_KEPT = 4  # calls between two steps: the step's own, and those for the log probabilities of prompts


class SeenLogits:
    """Watches `compute_logits` of a model. Calls with more rows than `max_rows` are let pass, because they are no decoding step."""

    def __init__(self, num_successors: int, max_rows: int):
        self.num_successors, self.max_rows = num_successors, max_rows
        self.seconds = 0.0  # taken so far
        self._calls: deque[tuple[Any, Any]] = deque(maxlen=NUM_KEPT)

    def watch(self, model: Any) -> None:
        """Note what this model's `compute_logits` returns from now on. The logits themselves are not touched."""
        compute = model.compute_logits

        def compute_logits(*args: Any, **kwargs: Any) -> Any:
            logits = compute(*args, **kwargs)
            if logits is not None and 0 < len(logits) <= self.max_rows:  # None where another rank has them
                started = time.perf_counter()
                self._calls.append(_likeliest(logits, self.num_successors))
                self.seconds += time.perf_counter() - started
            return logits

        model.compute_logits = compute_logits

    def take(self, num_rows: int) -> tuple[Array, Array] | None:
        """(tokens int64, confidences float32), both [num_rows, num_successors], of the step; None if no call had as many rows."""
        found = next((call for call in self._calls if len(call[0]) == num_rows), None)
        self._calls.clear()
        if found is None:
            return None
        tokens, confidences = found
        return (tokens, confidences) if isinstance(tokens, np.ndarray) else (tokens.cpu().numpy(), confidences.cpu().numpy())


def _likeliest(logits: Any, k: int) -> tuple[Any, Any]:
    """Tokens and their probabilities [rows, k], best first; on a GPU they stay there, so that the step does not wait."""
    if logits.device.type == "cpu":
        return likeliest([logits.float().numpy()], k)
    values, tokens = logits.topk(k, dim=-1)
    return tokens, (values.float() - logits.float().logsumexp(-1, keepdim=True)).exp()
