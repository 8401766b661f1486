"""Successive halving within a time limit: many candidates on few prompts, the better ones on more, then their settings, then the finalists.

Plain decoding runs in every turn, so each candidate is paired with it prompt by prompt and drift of the machine cancels out. A candidate
runs each prompt once: drafters that learn from answers would do better the second time, unlike in real use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from outpace.bench.intervals import Sample, advantage, speedup
from outpace.bench.runner import rotated
from outpace.bench.workloads import Workload, rotation
from outpace.config import SpeculativeConfig
from outpace.errors import BadInputError
from outpace.tune.candidates import PLAIN, label, variations
from outpace.tune.verdict import Tried, in_words

Ask = Callable[[Workload, SpeculativeConfig], Any]  # -> RequestOutput
SHARES = (0.35, 0.5, 0.75, 1.0)  # latest end of each round, as a share of the time limit
FEWEST, MOST = 3, 8  # limits for the prompts of a round but the last, which has one prompt per category
NUM_BASES, NUM_FINALISTS, MAX_VARIATIONS = 2, 3, 8


@dataclass(frozen=True)
class Outcome:
    """The result of a search. `failed_prompts`: id -> why plain decoding could not run it. `seconds`: of the search; `mean_seconds`: of an
    answer. `noise`: why no time can be trusted. `drafter_errors`: candidates whose drafter failed, with the first message."""

    tried: list[Tried]
    failed_prompts: dict[str, str]
    is_interrupted: bool
    seconds: float
    mean_seconds: float
    drafter_errors: Mapping[SpeculativeConfig, str] = field(default_factory=dict)
    noise: str = ""


class Search:
    """One search. `ask` runs one prompt with one candidate; `clock` and `show(stage, detail)` can be replaced, as tests do."""

    def __init__(
        self,
        workloads: Sequence[Workload],
        methods: Sequence[SpeculativeConfig],
        ask: Ask,
        time_limit: float,
        clock: Callable[[], float] = time.perf_counter,
        show: Callable[[str, str], None] = lambda stage, detail: None,
    ):
        self.workloads, self.methods, self.ask, self.time_limit = rotation(workloads), list(methods), ask, time_limit
        self.clock, self.show = clock, show
        self.samples: dict[SpeculativeConfig, dict[int, Sample]] = {}
        self.failures: dict[SpeculativeConfig, str] = {}
        self.drafter_errors: dict[SpeculativeConfig, str] = {}
        self.dropped: dict[SpeculativeConfig, str] = {}
        self.failed_prompts: dict[int, str] = {}
        self.started = self.run_seconds = 0.0
        self.num_runs = self.num_turns = self.cursor = 0
        self.best_so_far = "unknown"

    def run(self) -> Outcome:
        """Search until the time is up, nothing is left to run, or Ctrl-C; in every case the results so far are returned."""
        self.started, is_interrupted = self.clock(), False
        try:
            self._rounds()
        except KeyboardInterrupt:
            is_interrupted = True
        tried = [
            Tried(config, tuple(samples.values()), self.failures.get(config, ""), self.dropped.get(config, ""))
            for config, samples in self.samples.items()
        ]
        failed = {self.workloads[index].id: why for index, why in self.failed_prompts.items()}
        return Outcome(tried, failed, is_interrupted, self.clock() - self.started, self._mean_seconds, self.drafter_errors)

    def _rounds(self) -> None:
        num_prompts = max(FEWEST, min(MOST, len({workload.category for workload in self.workloads})))
        first, second, third, last = (self.started + share * self.time_limit for share in SHARES)
        self._round("1 of 4, methods", self.methods, num_prompts, first)
        alive = self._better(self.methods, max(NUM_FINALISTS, len(self.methods) // 2))
        self._round("2 of 4, better methods", alive, num_prompts, second)
        bases = self._ranked(self.methods)[:NUM_BASES]
        alive = self._better(alive, NUM_FINALISTS)
        others = variations(bases, self._affordable(len(alive), third))
        self._round("3 of 4, settings", [*alive, *others], num_prompts, third)
        alive = self._better([*alive, *others], max(1, min(NUM_FINALISTS, self._affordable(0, last))))
        self._round("4 of 4, finalists", alive, len(self.workloads), last)

    def _round(self, name: str, configs: Sequence[SpeculativeConfig], num_prompts: int, deadline: float) -> None:
        """Run up to `num_prompts` turns; a turn that would not end before the deadline is not started."""
        for config in configs:
            self.samples.setdefault(config, {})
        num_done = 0
        while num_done < num_prompts:
            index, lacking = self._next_prompt(configs)
            if not lacking or self.clock() + (len(lacking) + 1) * self._mean_seconds > deadline:
                return
            self._turn(name, index, lacking)
            num_done += index not in self.failed_prompts

    def _next_prompt(self, configs: Sequence[SpeculativeConfig]) -> tuple[int, list[SpeculativeConfig]]:
        """(prompt, candidates that have not run it yet): the next prompt of the file, cyclically."""
        usable = [config for config in configs if config not in self.failures]
        for place in range(self.cursor, self.cursor + len(self.workloads)):
            index = place % len(self.workloads)
            lacking = [config for config in usable if index not in self.samples[config]]
            if lacking and index not in self.failed_prompts:
                return index, lacking
        return 0, []

    def _turn(self, name: str, index: int, configs: Sequence[SpeculativeConfig]) -> None:
        """Run these candidates and plain decoding on one prompt."""
        outputs: dict[SpeculativeConfig, Any] = {}
        order = rotated([PLAIN, *configs], self.num_turns)  # the first turn starts with plain decoding, so that half of it is usable
        self.num_turns += 1
        self.cursor = index + 1
        try:
            for config in order:
                if self.clock() + self._mean_seconds > self.started + self.time_limit:
                    return
                self.show(f"round {name}", f"{label(config)}; best so far {self.best_so_far}")
                before = self.clock()
                outputs[config] = self.ask(self.workloads[index], config)
                self.run_seconds += self.clock() - before
                self.num_runs += 1
        except BadInputError as error:  # the settings are known to be valid, so the prompt is not
            self.failed_prompts[index] = str(error)
        finally:
            if index not in self.failed_prompts:
                self._record(index, outputs)

    def _record(self, index: int, outputs: dict[SpeculativeConfig, Any]) -> None:
        plain = outputs.pop(PLAIN, None)
        if plain is None:
            return
        workload = self.workloads[index]
        if plain.finish_reason == "error":
            self.failed_prompts[index] = str(plain.error)
            return
        for config, output in outputs.items():
            if output.finish_reason == "error":
                self.failures[config] = f"failed on prompt {workload.id} ({output.error})"
                continue
            if output.stats.drafter_error is not None:  # the engine continued without the drafter, so the time says nothing about it
                self.failures[config] = f"failed on prompt {workload.id} ({output.stats.drafter_error})"
                self.drafter_errors[config] = output.stats.drafter_error
                continue
            is_identical = output.token_ids == plain.token_ids
            self.samples[config][index] = Sample(
                prompt=index,
                category=workload.category,
                plain_seconds=plain.stats.decode_seconds,
                seconds=output.stats.decode_seconds,
                num_tokens=len(output.token_ids),
                num_steps=output.stats.num_steps,
                is_identical=is_identical,
            )
            if not is_identical:
                self.failures[config] = f"gave other tokens than plain decoding on prompt {workload.id}"
        if ranked := self._ranked(list(self.samples)):
            self.best_so_far = f"{label(ranked[0])} {in_words(speedup(self._of(ranked[0])))}"

    def _better(self, configs: Sequence[SpeculativeConfig], number: int) -> list[SpeculativeConfig]:
        """The `number` fastest, without candidates that are clearly slower than plain decoding or than the fastest."""
        ranked = self._ranked(configs)
        kept: list[SpeculativeConfig] = []
        for config in ranked:
            gain = advantage(self._of(config), self._of(ranked[0]))
            if (estimate := speedup(self._of(config))) is not None and estimate.is_slower:
                self.dropped[config] = "slower than plain decoding"
            elif gain is not None and gain.is_slower:
                self.dropped[config] = f"slower than {label(ranked[0])}"
            elif len(kept) == number:
                self.dropped[config] = f"behind the best {number}"
            else:
                kept.append(config)
        return kept

    def _ranked(self, configs: Sequence[SpeculativeConfig]) -> list[SpeculativeConfig]:
        """The candidates that ran without failure, fastest first, compared on the prompts shared with the one that ran most."""
        usable = [config for config in configs if config not in self.failures and self.samples.get(config)]
        if not usable:
            return []
        reference = self._of(max(usable, key=lambda config: len(self.samples[config])))
        gains = {config: advantage(self._of(config), reference) for config in usable}
        return sorted(usable, key=lambda config: -(found.value if (found := gains[config]) else 0.0))

    def _of(self, config: SpeculativeConfig) -> list[Sample]:
        return list(self.samples[config].values())

    @property
    def _mean_seconds(self) -> float:
        return self.run_seconds / self.num_runs if self.num_runs else 0.0

    def _affordable(self, num_alive: int, deadline: float) -> int:
        """Number of further settings for which there is time for a few prompts each before the deadline."""
        num_runs = (deadline - self.clock()) / self._mean_seconds if self._mean_seconds else 0.0
        return max(0, min(MAX_VARIATIONS, int(num_runs / FEWEST) - num_alive - 1))
