"""A/B-tests speculative against plain decoding online and keeps the faster.

The cost table covers forward passes only. The time of drafting, verifying and learning is known from the time between steps, so where the
gain is small both ways run in turns. Times are divided by the table's time of a plain forward pass of the same batch, so that steps with
other numbers of requests or other context lengths can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

SURE = 1.3  # tokens per plain forward pass above which no test is needed
TRIAL, LEAST_TRIAL = 48, 6  # steps of requests after which drafting is judged, and the least number of steps: its gain varies
PROBE = 4  # plain steps after which plain decoding is judged: they are all alike
TURNS = 3  # of both ways before the first judgement: machines drift, so several short runs say more than two long ones
REST, LONGEST_REST = 32, 1024  # plain steps before drafting is tried again, doubled each time it loses
STAY, LONGEST_STAY = 64, 512  # steps before drafting is tested again, doubled each time it wins
MARGIN = 1.02  # drafting has to win by this factor
KEPT = 0.6  # weight of earlier runs
OUTLIER = 5.0  # steps longer than this many plain forward passes are ignored


@dataclass
class _Tally:
    """Tokens of one way, and its time in plain forward passes, over its last runs."""

    tokens: float = 0.0
    passes: float = 0.0
    num_steps: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens per request in the time of a plain forward pass."""
        return self.tokens / self.passes if self.passes else 0.0

    def add(self, tokens: float, passes: float) -> None:
        """Record one step."""
        self.tokens, self.passes, self.num_steps = self.tokens + tokens, self.passes + passes, self.num_steps + 1

    def fade(self) -> None:
        """Give the past less weight as another run begins."""
        self.tokens, self.passes, self.num_steps = KEPT * self.tokens, KEPT * self.passes, KEPT * self.num_steps


class Switch:
    """While `is_plain` is set, steps run without drafts."""

    def __init__(self) -> None:
        self.is_plain, self.is_resting = False, False
        self.drafting, self.plain = _Tally(), _Tally()
        self.steps_left, self.rest, self.stay, self.trial = LEAST_TRIAL, REST, STAY, LEAST_TRIAL
        self.turns_left = TURNS
        self.lengths: Mapping[str, int] = {}
        self.plain_milliseconds, self.started = 0.0, 0.0

    def step(self, lengths: Mapping[str, int], plain_milliseconds: float, load: float) -> None:
        """A step begins. `lengths`: tokens of each request; `plain_milliseconds`: the table's time of a plain forward pass for them;
        `load`: how many times slower than the table forward passes are now."""
        now = time.perf_counter()
        passes = 1e3 * (now - self.started) / max(self.plain_milliseconds, 1e-9)
        if self.lengths.keys() == lengths.keys() and passes < OUTLIER * load:
            tokens = (sum(lengths.values()) - sum(self.lengths.values())) / len(lengths)
            (self.plain if self.is_plain else self.drafting).add(tokens, passes)
        self.lengths, self.plain_milliseconds, self.started = lengths, plain_milliseconds, now
        self.trial = max(LEAST_TRIAL, TRIAL // len(lengths))
        self.steps_left -= 1
        if self.steps_left <= 0:
            self._judge(load)

    def _judge(self, load: float) -> None:
        if not self.is_plain:
            if self.drafting.num_steps < 2 * self.trial / 3:
                self.steps_left = self.trial  # requests came and went: too few steps to judge
            elif self.drafting.rate * load >= SURE:
                self._run(False, self.trial)
            else:
                self._run(True, PROBE)
        elif self.turns_left > 1:
            self.turns_left -= 1
            self._run(False, self.trial)
        elif self.drafting.rate >= MARGIN * self.plain.rate:
            self._run(False, self.stay)
            self.rest, self.stay = REST, min(2 * self.stay, LONGEST_STAY)
        elif not self.is_resting:
            self.is_resting, self.steps_left = True, self.rest
        else:
            self._run(False, self.trial)
            self.stay, self.rest = STAY, min(2 * self.rest, LONGEST_REST)

    def _run(self, is_plain: bool, num_steps: int) -> None:
        """Decode this way for `num_steps` steps."""
        if is_plain != self.is_plain:
            self.lengths = {}  # the first step after a change is not typical
        self.is_plain, self.steps_left, self.is_resting = is_plain, num_steps, False
        (self.plain if is_plain else self.drafting).fade()
