"""The number of tokens of the next forward pass, where changing that number costs time too.

A step that gains E tokens in C milliseconds is worth E - rate * C, where rate is the recent speed in tokens per millisecond (Dinkelbach's
rule for a ratio). The number changes if that pays: for this step alone, there and back, or because another number would have been better
for some time. That it will be better later is worth no more than the change, which can be made later too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from outpace.controller.cost import CostTable

MIN_TOKENS = 2  # of a sequence in a forward pass
EXTRA_TOKENS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 18, 22, 30, 46, 62)  # sizes considered, beyond what plain decoding needs
MEMORY = 0.85  # weight of the past in the running means
HORIZON = 6.0  # steps for which a change is expected to last


class NumTokensPolicy:
    """Remembers the last size, the rate, and what each size would have been worth recently."""

    def __init__(self, costs: CostTable):
        self.costs = costs
        self._start(1)

    def _start(self, num_seqs: int) -> None:
        self.num_seqs, self.num_tokens = num_seqs, MIN_TOKENS * num_seqs
        plain = self.costs.milliseconds(self.num_tokens, num_seqs, num_idle=self.num_tokens - num_seqs)
        self.tokens, self.spent = float(num_seqs), plain  # running means per step
        self.usual: dict[int, float] = {}  # size -> running mean of its worth

    @property
    def rate(self) -> float:
        """Recent tokens per millisecond."""
        return self.tokens / self.spent

    def choose(
        self,
        sizes: Sequence[int],
        gains: Sequence[float],
        num_seqs: int,
        num_context: int,
        num_wanted: int = 0,
        drafting_milliseconds: float = 0.0,
        is_plain: bool = False,
    ) -> int:
        """The size of the forward pass. sizes[k] is what k nodes need, gains[k] the tokens expected with them; neither ever falls.

        Of the tokens without any node, `num_wanted` are no padding (0: all of them). `drafting_milliseconds` have been spent already: where
        drafting takes long, a step is worth less per millisecond, and a longer forward pass is easier to justify. `is_plain`: the size is
        the smallest, whatever a change costs.
        """
        if num_seqs != self.num_seqs:
            self._start(num_seqs)
        rate, wanted = self.rate, num_wanted or sizes[0]

        def outcome(num_tokens: int) -> tuple[float, float]:
            """Tokens expected of a forward pass, and its milliseconds."""
            num_nodes = bisect_right(sizes, num_tokens) - 1
            num_idle = max(0, num_tokens - wanted - num_nodes)
            return gains[num_nodes], self.costs.milliseconds(num_tokens, num_seqs, num_context, num_idle)

        def worth(num_tokens: int) -> float:
            tokens, milliseconds = outcome(num_tokens)
            return tokens - rate * milliseconds

        last = max(self.num_tokens, sizes[0])
        options = {num_tokens for extra in EXTRA_TOKENS if (num_tokens := MIN_TOKENS * num_seqs + extra) >= sizes[0]} | {last, sizes[0]}
        now = {num_tokens: worth(num_tokens) for num_tokens in options}
        best, advantage, change = sizes[0] if is_plain else last, 0.0, rate * self.costs.switch
        for num_tokens in () if is_plain else options:
            lasting = HORIZON * (self.usual.get(num_tokens, now[num_tokens]) - self.usual.get(last, now[last]))
            gain = now[num_tokens] - now[last] - change + max(-change, min(change, lasting))
            if num_tokens != last and gain > advantage:
                best, advantage = num_tokens, gain
        for num_tokens, value in now.items():
            self.usual[num_tokens] = MEMORY * self.usual.get(num_tokens, value) + (1 - MEMORY) * value
        tokens, milliseconds = outcome(best)
        self._spend(tokens, milliseconds + (best != self.num_tokens) * self.costs.switch + drafting_milliseconds)
        self.num_tokens = best
        return best

    def _spend(self, tokens: float, milliseconds: float) -> None:
        self.tokens = MEMORY * self.tokens + (1 - MEMORY) * tokens
        self.spent = MEMORY * self.spent + (1 - MEMORY) * milliseconds
