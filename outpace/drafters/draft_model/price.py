"""Decides when reading a text, and then another forward pass of the draft model, are worth their cost, from the speed of recent steps."""

from __future__ import annotations

from collections.abc import Sequence

MAX_CONFIDENCE = 0.9  # even a draft model as slow as the target proposes at least one token
MEMORY = 0.9  # weight of the past in the running means: answers differ, and one has few steps
USUAL_GAIN, USUAL_TOKENS = 0.6, 2.0  # expected net gain and accepted tokens of a proposal, as long as nothing is known
FORGIVENESS = 0.02  # by so much the net gain returns to USUAL_GAIN in each step in which the draft model was not asked
USUAL_LENGTH = 256  # tokens of an answer, of which a request may allow many more


class DraftPrice:
    """Another draft token gains its path confidence, in tokens. It costs a draft model forward pass and a token in a target forward pass.
    It is worth drafting while gain > speed * cost, where speed is the recent number of tokens per duration of a target forward pass
    (Dinkelbach's method for maximising a ratio).

    pass_cost: duration of a draft model forward pass, relative to that of the target; 0 means unknown, and every forward pass is made.
    token_cost: duration that one more token adds to the forward pass of the target, relative to that forward pass.
    reading_cost: duration in which the draft model reads a token of a prompt, relative to a forward pass of the target.
    """

    def __init__(self, pass_cost: float, token_cost: float = 0.1, reading_cost: float = 0.0):
        self.pass_cost, self.token_cost, self.reading_cost = pass_cost, token_cost, reading_cost
        self.tokens, self.time = 1.0, 1.0  # running means per step; time in target forward passes
        self.expected_net_gain = USUAL_GAIN
        self.expected_tokens = USUAL_TOKENS  # accepted of a proposal, running mean

    @property
    def speed(self) -> float:
        """Recent number of tokens per duration of a target forward pass."""
        return self.tokens / self.time

    @property
    def min_confidence(self) -> float:
        """The lowest path confidence at which a node is expanded."""
        return min(MAX_CONFIDENCE, self.speed * (self.pass_cost + self.token_cost)) if self.pass_cost else 0.0

    def net_gain(self, paths: Sequence[float]) -> float:
        """Tokens that a draft is expected to gain whose nodes are right with these probabilities, less those that could be decoded in the
        time that its nodes add to the forward pass of the target. Nodes that cost more than they gain are left out."""
        cost = self.speed * self.token_cost
        return sum(max(0.0, confidence - cost) for confidence in paths)

    def is_worth_reading(self, num_tokens: int, num_left: int, num_written: int = 0, num_asked: int = 1) -> bool:
        """Whether drafting for the rest of an answer, `num_left` tokens at most, makes good the time to read `num_tokens` tokens first.

        So far the answer has `num_written` tokens, and other drafters had nothing better in `num_asked` steps. If it goes on like that, the
        draft model will be asked once for `num_written / num_asked` tokens and those it adds; `expected_net_gain` of these cost no time.
        """
        tokens_per_proposal = max(1.0, num_written / num_asked) + self.expected_tokens
        gain = min(num_left, USUAL_LENGTH) * self.expected_net_gain / tokens_per_proposal
        return num_tokens * self.reading_cost <= gain

    def record_step(self, num_tokens: int, num_nodes: int, num_passes: int) -> None:
        """Record a step of a request: `num_tokens` tokens from a draft of `num_nodes`, made in `num_passes` draft model forward passes."""
        if num_passes:
            accepted = num_tokens - 1
            net = accepted - self.speed * (self.pass_cost * num_passes + self.token_cost * num_nodes)
            self.expected_net_gain = _mean(self.expected_net_gain, net)
            self.expected_tokens = _mean(self.expected_tokens, accepted)
        elif self.expected_net_gain < USUAL_GAIN:  # texts change: a draft model that lost is tried again
            self.expected_net_gain += FORGIVENESS * (USUAL_GAIN - self.expected_net_gain)
        self.tokens = _mean(self.tokens, num_tokens)
        self.time = _mean(self.time, 1.0 + num_passes * self.pass_cost + num_nodes * self.token_cost)


def _mean(mean: float, value: float) -> float:
    return MEMORY * mean + (1 - MEMORY) * value
