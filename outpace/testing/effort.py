"""How long `outpace verify` takes, and how much it runs where nobody said how much."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from outpace.bench.workloads import Workload
from outpace.llm import LLM
from outpace.params import SamplingParams

SECONDS = 300.0  # a run of the default size is to take no longer
SIZES = ((6, 64), (6, 32), (4, 32), (2, 32), (2, 16))  # numbers of prompts and of tokens, the default first
NUM_TIMED = 4  # tokens


@dataclass(frozen=True)
class Pace:
    """Seconds that plain decoding takes for a prompt, which a target without a prefix cache runs for every answer, and for each token."""

    prompt: float
    token: float

    def seconds(self, num_answers: int, num_tokens: int) -> float:
        """Seconds of so many answers of so many tokens each."""
        return num_answers * (self.prompt + num_tokens * self.token)


def pace_of(llm: LLM, workload: Workload) -> Pace:
    """Times two short answers, after one that warms up."""

    def answer(num_tokens: int) -> float:
        started = time.perf_counter()
        llm.chat(workload.messages, SamplingParams(max_tokens=num_tokens, ignore_eos=True), speculative_config="none")
        return time.perf_counter() - started

    answer(1)
    prompt = answer(1)
    return Pace(prompt, max(0.0, answer(1 + NUM_TIMED) - prompt) / NUM_TIMED)


def size_of_run(estimate: Callable[[int, int], float], limit: int | None, max_tokens: int | None) -> tuple[int, int]:
    """(prompts, tokens of an answer): those given, else the largest of SIZES whose `estimate`, in seconds, is at most SECONDS."""
    sizes = list(dict.fromkeys((limit or prompts, max_tokens or tokens) for prompts, tokens in SIZES))
    return next((size for size in sizes if estimate(*size) <= SECONDS), sizes[-1])


def sizes_at_once(at_once: Sequence[int], num_prompts: int) -> list[int]:
    """The numbers of prompts that run at once, each once and none above those there are."""
    return list(dict.fromkeys(min(size, num_prompts) for size in at_once))


def num_references(num_points: int, num_prompts: int) -> int:
    """Those answers of a run that are not checked: for each temperature and seed, every prompt by plain decoding and by the cheating
    verifier."""
    return 2 * num_points * num_prompts


def num_answers(num_points: int, at_once: Sequence[int], num_prompts: int, num_drafters: int) -> int:
    """Answers of a run: the references, and for each temperature and seed, every prompt at each number of prompts at once by every drafter,
    in batches by plain decoding, too."""
    sides = sum(num_drafters + (size > 1) for size in sizes_at_once(at_once, num_prompts))
    return num_references(num_points, num_prompts) + num_points * num_prompts * sides
