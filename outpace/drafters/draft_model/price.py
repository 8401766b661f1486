"""Decides when another forward pass of the draft model is worth its cost, from the speed of recent steps."""

from __future__ import annotations

MAX_CONFIDENCE = 0.9  # even a draft model as slow as the target proposes at least one token
MEMORY = 0.95  # weight of the past in the running means
EAGER = 4.0  # expected net gain before the first measurement: high, so that the draft model is used


class DraftPrice:
    """Another draft token gains its path confidence, in tokens. It costs a draft model forward pass and a token in a target forward pass.
    It is worth drafting while gain > speed * cost, where speed is the recent number of tokens per duration of a target forward pass
    (Dinkelbach's method for maximising a ratio).

    pass_cost: duration of a draft model forward pass, relative to that of the target; 0 means unknown, and every forward pass is made.
    token_cost: duration that one more token adds to the forward pass of the target, relative to that forward pass.
    """

    def __init__(self, pass_cost: float, token_cost: float = 0.1):
        self.pass_cost, self.token_cost = pass_cost, token_cost
        self.tokens, self.time = 1.0, 1.0  # running means per step; time in target forward passes
        self.expected_net_gain = EAGER

    @property
    def speed(self) -> float:
        """Recent number of tokens per duration of a target forward pass."""
        return self.tokens / self.time

    @property
    def min_confidence(self) -> float:
        """The lowest path confidence at which a node is expanded."""
        return min(MAX_CONFIDENCE, self.speed * (self.pass_cost + self.token_cost)) if self.pass_cost else 0.0

    def record_proposal(self, expected: float, num_passes: int) -> None:
        """Record a proposal: `expected` is its expected number of accepted tokens, from `num_passes` draft model forward passes."""
        net = expected - self.speed * self.pass_cost * num_passes
        self.expected_net_gain = net if self.expected_net_gain == EAGER else MEMORY * self.expected_net_gain + (1 - MEMORY) * net

    def record_step(self, num_tokens: int, num_nodes: int, num_passes: int) -> None:
        """Record a step of a request: `num_tokens` tokens from a draft of `num_nodes`, made in `num_passes` draft model forward passes."""
        time = 1.0 + num_passes * self.pass_cost + num_nodes * self.token_cost
        self.tokens = MEMORY * self.tokens + (1 - MEMORY) * num_tokens
        self.time = MEMORY * self.time + (1 - MEMORY) * time
