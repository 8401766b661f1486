"""Prompts and settings for the drafter eagle."""

from __future__ import annotations

from hypothesis import strategies as st

from outpace.params import SamplingParams

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [4], [5, 6, 5, 6, 5, 6, 7, 8, 5, 6]]
GREEDY, SAMPLED = SamplingParams(max_tokens=40), SamplingParams(temperature=0.8, max_tokens=40)
texts = st.lists(st.integers(0, 1), min_size=2, max_size=8)
