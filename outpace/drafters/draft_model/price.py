"""When one more forward pass of the draft model pays, from what the steps have gained so far."""

from __future__ import annotations

MAX_CONFIDENCE = 0.9  # even a draft model as slow as the target proposes at least one token
MEMORY = 0.95  # weight of the past in the running means
EAGER = 4.0  # expected net gain before anything is known: ask the draft model


class DraftPrice:
    """One more draft token gains its path confidence in tokens, and costs a forward pass of the draft model and a token of the target's.
    It pays while the gain is larger than speed * cost, where speed is the recent number of tokens in the time of one forward pass of the
    target (Dinkelbach's rule for a ratio).

    pass_cost: duration of a forward pass of the draft model, relative to the target's; 0 if it is unknown, and then every pass pays.
    token_cost: what one more token adds to the target's forward pass, as a share of it.
    """

    def __init__(self, pass_cost: float, token_cost: float = 0.1):
        self.pass_cost, self.token_cost = pass_cost, token_cost
        self.tokens, self.time = 1.0, 1.0  # per step, running means; time in forward passes of the target
        self.expected_net_gain = EAGER

    @property
    def speed(self) -> float:
        """Recent tokens in the time of one forward pass of the target."""
        return self.tokens / self.time

    @property
    def min_confidence(self) -> float:
        """The least path confidence at which a node is expanded."""
        return min(MAX_CONFIDENCE, self.speed * (self.pass_cost + self.token_cost)) if self.pass_cost else 0.0

    def record_proposal(self, expected: float, num_passes: int) -> None:
        """A proposal of `expected` accepted tokens took `num_passes` forward passes of the draft model."""
        net = expected - self.speed * self.pass_cost * num_passes
        self.expected_net_gain = net if self.expected_net_gain == EAGER else MEMORY * self.expected_net_gain + (1 - MEMORY) * net

    def record_step(self, num_tokens: int, num_nodes: int, num_passes: int) -> None:
        """A step of a request gave `num_tokens` tokens with a draft of `num_nodes`, for which the draft model ran `num_passes` times."""
        time = 1.0 + num_passes * self.pass_cost + num_nodes * self.token_cost
        self.tokens = MEMORY * self.tokens + (1 - MEMORY) * num_tokens
        self.time = MEMORY * self.time + (1 - MEMORY) * time
