"""Is guessing worth its whole cost here? Measured steps that guess against measured plain ones; the slower way is left.

The cost table knows passes. What drafting, checking and learning take besides is known only from the time between steps, so where little
is gained the two ways are tried in turns. Times are divided by what the table says of a plain pass of the same batch, so that
steps with other numbers of requests or other contexts can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

SURE = 1.3  # tokens in the time of a plain one, by the table: above this nothing is tried
TRIAL, LEAST_TRIAL = 48, 6  # steps of requests after which guessing is judged, and steps at least: what it gains varies
PROBE = 4  # plain steps after which these are judged: they are all alike
TURNS = 3  # of both before the first judgement: machines drift, so several short runs in turns say more than two long ones
REST, LONGEST_REST = 32, 1024  # plain steps before guessing is tried again, doubled each time it loses
STAY, LONGEST_STAY = 64, 512  # steps before guessing is questioned again, doubled each time it wins
MARGIN = 1.02  # guessing wins by at least so much
KEPT = 0.6  # weight of what an earlier run has shown
OUTLIER = 5.0  # times as long as a plain pass: something else has happened


@dataclass
class _Tally:
    """Tokens of one way, and its time in plain passes, over its last runs."""

    tokens: float = 0.0
    passes: float = 0.0
    num_steps: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens of a request in the time of a plain pass."""
        return self.tokens / self.passes if self.passes else 0.0

    def add(self, tokens: float, passes: float) -> None:
        """One more step."""
        self.tokens, self.passes, self.num_steps = self.tokens + tokens, self.passes + passes, self.num_steps + 1

    def fade(self) -> None:
        """Another run begins."""
        self.tokens, self.passes, self.num_steps = KEPT * self.tokens, KEPT * self.passes, KEPT * self.num_steps


class Switch:
    """`is_plain`: the next steps shall not guess."""

    def __init__(self) -> None:
        self.is_plain, self.is_resting = False, False
        self.guessing, self.plain = _Tally(), _Tally()
        self.steps_left, self.rest, self.stay, self.trial = LEAST_TRIAL, REST, STAY, LEAST_TRIAL
        self.turns_left = TURNS
        self.lengths: Mapping[str, int] = {}
        self.plain_milliseconds, self.started = 0.0, 0.0

    def step(self, lengths: Mapping[str, int], plain_milliseconds: float, load: float) -> None:
        """A step begins: `lengths` are the tokens each request has, `plain_milliseconds` what the table says of a plain pass for them,
        `load` how many times slower than the table passes are now."""
        now = time.perf_counter()
        passes = 1e3 * (now - self.started) / max(self.plain_milliseconds, 1e-9)
        if self.lengths.keys() == lengths.keys() and passes < OUTLIER * load:
            tokens = (sum(lengths.values()) - sum(self.lengths.values())) / len(lengths)
            (self.plain if self.is_plain else self.guessing).add(tokens, passes)
        self.lengths, self.plain_milliseconds, self.started = lengths, plain_milliseconds, now
        self.trial = max(LEAST_TRIAL, TRIAL // len(lengths))
        self.steps_left -= 1
        if self.steps_left <= 0:
            self._judge(load)

    def _judge(self, load: float) -> None:
        if not self.is_plain:
            if self.guessing.num_steps < 2 * self.trial / 3:
                self.steps_left = self.trial  # requests came and went: nothing is known yet
            elif self.guessing.rate * load >= SURE:
                self._run(False, self.trial)
            else:
                self._run(True, PROBE)
        elif self.turns_left > 1:
            self.turns_left -= 1
            self._run(False, self.trial)
        elif self.guessing.rate >= MARGIN * self.plain.rate:
            self._run(False, self.stay)
            self.rest, self.stay = REST, min(2 * self.stay, LONGEST_STAY)
        elif not self.is_resting:
            self.is_resting, self.steps_left = True, self.rest
        else:
            self._run(False, self.trial)
            self.stay, self.rest = STAY, min(2 * self.rest, LONGEST_REST)

    def _run(self, is_plain: bool, num_steps: int) -> None:
        """Decode this way for so many steps."""
        if is_plain != self.is_plain:
            self.lengths = {}  # the first step after a change is not typical
        self.is_plain, self.steps_left, self.is_resting = is_plain, num_steps, False
        (self.plain if is_plain else self.guessing).fade()
