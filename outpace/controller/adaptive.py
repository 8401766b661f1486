"""Draft as many tokens as the cost model says are worth verifying, over all drafters and requests at once.

Nodes are ranked by calibrated confidence; how many run depends on the size of the forward pass (num_tokens.py). Tokens that would only be
padding are replaced by the next best nodes at no extra cost. A step without nodes is plain decoding at plain cost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from outpace.controller.base import Controller, Plan
from outpace.controller.calibration import Calibration
from outpace.controller.cost import CostTable
from outpace.controller.cost_monitor import CostMonitor
from outpace.controller.drafter_stats import DrafterStats
from outpace.controller.num_tokens import MIN_TOKENS, NumTokensPolicy
from outpace.controller.switch import Switch
from outpace.drafters.combined import CombinedDrafter
from outpace.request import Request
from outpace.tree.draft import Draft, select

MIN_CONFIDENCE = 0.01  # nodes below it are dropped even where they would replace padding
Candidate = tuple[float, int, int]  # confidence of the whole path, index of the request, node


@dataclass(frozen=True)
class Step:
    """The reasons for one step, for `--explain`. Nodes are (token, drafter, confidence of the whole path)."""

    num_tokens: int
    milliseconds: float
    rate: float
    taken: list[tuple[int, str, float]] = field(default_factory=list)
    left: tuple[int, str, float] | None = None  # the best node that was not run


class AdaptiveController(Controller):
    """Serves one target, whose costs are in a CostTable; `max_nodes` limits what one request drafts in a step."""

    def __init__(
        self, costs: CostTable, drafter: CombinedDrafter, max_nodes: int = 24, keep_costs: Callable[[CostTable], None] | None = None
    ):
        """`keep_costs` is called with a table that real forward passes have corrected."""
        self.drafter, self.max_nodes, self.keep_costs = drafter, max_nodes, keep_costs
        self.monitor = CostMonitor(costs.sizes)
        self.forward: tuple[int, float] | None = None  # tokens of the coming forward pass and its expected milliseconds, if comparable
        self.policy, self.calibration, self.drafter_stats = NumTokensPolicy(costs), Calibration(), DrafterStats(drafter.cheap_names)
        self.switch = Switch()
        drafter.paths = self._paths
        self.mean_drafted = float(max_nodes)  # nodes run per request and step, running mean
        self.expected, self.taken = 1.0, 1.0  # milliseconds of a forward pass, as the table says and as measured; running means
        self.steps: list[Step] | None = None  # set it to a list to collect the reasons

    def budget(self, request: Request, num_running: int) -> int:
        return 0 if self.switch.is_plain else min(self.max_nodes, 2 + int(1.6 * self.mean_drafted))

    def plan(self, requests: Sequence[Request], drafts: Sequence[Draft], num_other_tokens: int) -> Plan:
        self._step_switch(requests)
        times, load = self.drafter.take_times(), self.taken / self.expected  # a busy machine slows drafting and forward passes alike
        nodes = self._candidates(requests, drafts)
        own = [1 + len(request.unconfirmed) for request in requests]
        sizes, gains = _sizes_and_gains(own, nodes, num_other_tokens)
        num_context = sum(len(request.token_ids) for request in requests)
        num_wanted, drafting = num_other_tokens + sum(own), sum(times.values()) / load
        num_tokens = self.policy.choose(sizes, gains, len(requests), num_context, num_wanted, drafting, self.switch.is_plain)
        num_taken = bisect_right(sizes, num_tokens) - 1
        least = self.policy.rate * self.policy.costs.idle_row  # a node in the place of padding still costs its logits
        while num_taken and nodes[num_taken - 1][0] < least:
            num_taken -= 1
        expected = self._cost(requests, num_tokens)
        self.expected = self._running_mean(self.expected, expected)
        self.forward = (num_tokens, expected) if not num_other_tokens else None
        self.mean_drafted += 0.1 * (num_taken / len(requests) - self.mean_drafted)
        chosen: list[list[int]] = [[] for _ in requests]
        gained: dict[str, float] = {}  # drafters that proposed the same node share its gain
        for confidence, index, node in nodes[:num_taken]:
            chosen[index].append(node)
            names = _source(requests[index], drafts[index], node).split("+")
            for name in names:
                gained[name] = gained.get(name, 0.0) + confidence / len(names)
        self._account(gained, times, load)
        if self.steps is not None:
            self._note(requests, drafts, nodes, num_taken, num_tokens)
        return Plan([_pruned(draft, picked) for draft, picked in zip(drafts, chosen, strict=True)], num_tokens)

    def _step_switch(self, requests: Sequence[Request]) -> None:
        """Tell the switch that a step begins."""
        lengths = {request.id: len(request.token_ids) + len(request.unconfirmed) for request in requests}
        num_plain, num_seqs = MIN_TOKENS * len(requests), len(requests)
        plain = self.policy.costs.milliseconds(num_plain, num_seqs, sum(lengths.values()), num_plain - num_seqs)
        self.switch.step(lengths, plain, self.taken / self.expected)

    def record_forward_time(self, milliseconds: float) -> None:
        self.taken = self._running_mean(self.taken, milliseconds)
        if self.forward is not None:
            self.monitor.record(*self.forward, milliseconds)
            self._correct_costs()

    def _correct_costs(self) -> None:
        costs = self.monitor.corrected(self.policy.costs)
        if costs is not None:
            self.policy = NumTokensPolicy(costs)
            self.expected = self.taken  # the new table agrees with what was measured
            if self.keep_costs is not None:
                self.keep_costs(costs)

    @staticmethod
    def _running_mean(mean: float, value: float) -> float:
        return 0.95 * mean + 0.05 * value

    def _cost(self, requests: Sequence[Request], num_tokens: int) -> float:
        return self.policy.costs.milliseconds(num_tokens, len(requests), sum(len(request.token_ids) for request in requests))

    def _account(self, gained: Mapping[str, float], times: Mapping[str, float], load: float) -> None:
        if self.switch.is_plain:
            self.drafter.pause(self.drafter.names)
            return
        self.drafter_stats.account(gained, times, self.policy.rate / load)
        self.drafter.pause(self.drafter_stats.paused)

    def observe(self, request: Request, proposal: Draft, known: Sequence[int]) -> None:
        self.calibration.observe(proposal, request.strategy.name, known)

    def _paths(self, request: Request, draft: Draft) -> list[float]:
        """For each node the probability that it and its ancestors are right, by what its drafters' claims have been worth."""
        return self.calibration.paths(draft, request.strategy.name)

    def _candidates(self, requests: Sequence[Request], drafts: Sequence[Draft]) -> list[Candidate]:
        """All nodes, best first; a parent always comes before its children."""
        nodes: list[Candidate] = []
        for index, (request, draft) in enumerate(zip(requests, drafts, strict=True)):
            paths = self._paths(request, draft)
            nodes += [(confidence, index, node) for node, confidence in enumerate(paths) if confidence >= MIN_CONFIDENCE]
        return sorted(nodes, key=lambda entry: (-entry[0], entry[1], entry[2]))

    def _note(
        self, requests: Sequence[Request], drafts: Sequence[Draft], nodes: Sequence[Candidate], num_taken: int, num_tokens: int
    ) -> None:
        def described(entry: Candidate) -> tuple[int, str, float]:
            confidence, index, node = entry
            return drafts[index].token_ids[node], _source(requests[index], drafts[index], node), confidence

        cost = self._cost(requests, num_tokens)
        left = described(nodes[num_taken]) if num_taken < len(nodes) else None
        assert self.steps is not None
        self.steps.append(Step(num_tokens, cost, self.policy.rate, [described(entry) for entry in nodes[:num_taken]], left))


def _source(request: Request, draft: Draft, node: int) -> str:
    return draft.sources[node] if draft.sources else request.strategy.name


def _sizes_and_gains(own: Sequence[int], nodes: Sequence[Candidate], num_other_tokens: int) -> tuple[list[int], list[float]]:
    """(size of the forward pass, tokens expected) with the first k nodes, k = 0, 1, ...; `own` are the tokens of each request without
    nodes."""
    own = list(own)
    sizes, gains = [num_other_tokens + sum(max(MIN_TOKENS, count) for count in own)], [float(len(own))]
    for confidence, index, _ in nodes:
        own[index] += 1
        sizes.append(sizes[-1] + (own[index] > MIN_TOKENS))
        gains.append(gains[-1] + confidence)
    return sizes, gains


def _pruned(draft: Draft, nodes: list[int]) -> Draft:
    """The draft of these nodes, best first, and of the lookahead tokens behind them or behind the root."""
    lookahead = range(len(draft) - draft.num_lookahead, len(draft))
    kept = set(nodes)
    riding: list[int] = []
    for node in lookahead:
        if draft.parents[node] < 0 or draft.parents[node] in kept:
            kept.add(node)
            riding.append(node)
    return select(draft, [*nodes, *riding], len(riding))
