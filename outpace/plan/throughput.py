"""Tokens per second of a server against the number of clients, computed from a profile.

Clients form a closed loop: each sends a request, reads the answer, and sends the next one. A round in which each of n clients gets an
answer takes n prompts, and as many steps as an answer has tokens / tokens per step. Milliseconds throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from outpace.plan.profile import TOGETHER, Profile

HOUR, MILLION = 3600.0, 1e6
PAYS = 1.02  # gain from which speculation is said to pay
MAX_CLIENTS = 256


@dataclass(frozen=True)
class Load:
    """What clients ask for. Sizes None are those of the profile; `cached_share` of the prompts' tokens are in the prefix cache."""

    num_prompt_tokens: float | None = None
    num_answer_tokens: float | None = None
    cached_share: float = 0.0
    max_num_seqs: int = 16


@dataclass(frozen=True)
class Point:
    """`num_clients` on `num_replicas` machines: tokens/s of all of them, and the cost of a million tokens (None without a price)."""

    num_clients: int
    num_replicas: int
    plain: float
    speculative: float
    tokens_per_step: float
    plain_cost: float | None = None
    speculative_cost: float | None = None

    @property
    def gain(self) -> float:
        return self.speculative / self.plain if self.plain else 0.0

    @property
    def per_client(self) -> float:
        """Tokens per second that one client sees, with drafts."""
        return self.speculative / self.num_clients


def step_ms(profile: Profile, num_seqs: int, tokens: float, padding: float, num_context: float, is_drafting: bool) -> float:
    """A step of `num_seqs` requests with `tokens` each in the forward pass, `padding` of them idle."""
    low, high = floor(num_seqs * tokens), ceil(num_seqs * tokens)
    idle, context = round(num_seqs * padding), round(num_seqs * num_context)
    costs = [profile.costs.milliseconds(size, num_seqs, context, idle) for size in (low, high)]
    forward = costs[0] + (num_seqs * tokens - low) * (costs[1] - costs[0])
    first, many = profile.overhead_ms
    overhead = first + (num_seqs - 1) * (many - first) / (TOGETHER - 1)
    return forward + max(0.0, overhead) + (profile.draft_ms * num_seqs if is_drafting else 0.0)


def speeds(profile: Profile, load: Load, num_clients: int) -> tuple[float, float, float]:
    """(tokens/s plain, tokens/s with as many drafts as pay, tokens per step) of one machine."""
    if num_clients == 0:
        return 0.0, 0.0, 1.0
    num_seqs = min(num_clients, load.max_num_seqs)
    num_prompt = profile.num_prompt_tokens if load.num_prompt_tokens is None else load.num_prompt_tokens
    num_answer = profile.num_answer_tokens if load.num_answer_tokens is None else load.num_answer_tokens
    prompt_ms = num_prompt * (1.0 - load.cached_share) * profile.prompt_token_ms
    context = num_prompt + num_answer / 2
    curve = profile.curve
    rates = []
    for place in range(len(curve)):
        step = step_ms(profile, num_seqs, curve.tokens[place], curve.padding[place], context, place > 0)
        steps = num_answer / (1.0 + curve.gained[place])
        rates.append(1e3 * num_answer * num_seqs / (steps * step + num_seqs * prompt_ms))
    best = max(range(len(rates)), key=rates.__getitem__)
    return rates[0], rates[best], 1.0 + curve.gained[best]


def plan(profile: Profile, load: Load, clients: Sequence[int], replicas: Sequence[int], price: float | None = None) -> list[Point]:
    """A point for each number of clients on each number of machines. `price`: of one machine, per hour."""
    points = []
    for num_replicas in replicas:
        for num_clients in clients:
            share, more = divmod(num_clients, num_replicas)
            groups = [(num_replicas - more, speeds(profile, load, share)), (more, speeds(profile, load, share + 1))]
            plain, speculative = (sum(count * speed[which] for count, speed in groups) for which in (0, 1))
            tokens_per_step = groups[1 if more else 0][1][2]
            costs = [_cost(price, num_replicas, rate) for rate in (plain, speculative)]
            points.append(Point(num_clients, num_replicas, plain, speculative, tokens_per_step, *costs))
    return points


def _cost(price: float | None, num_replicas: int, rate: float) -> float | None:
    return None if price is None or not rate else price * num_replicas / (rate * HOUR) * MILLION


def pays_up_to(profile: Profile, load: Load) -> int:
    """The largest number of clients of one machine for which drafting gains; 0 if it never does."""
    found = 0
    for num_clients in range(1, min(MAX_CLIENTS, load.max_num_seqs) + 1):
        plain, speculative, _ = speeds(profile, load, num_clients)
        if speculative < PAYS * plain:
            return found
        found = num_clients
    return found
