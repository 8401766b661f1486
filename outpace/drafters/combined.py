"""Several drafters as one tree: `a+b+c`. Earlier ones come first, equal nodes are merged, later ones use the budget that is left.

Drafters that can name the successors of any path (`SuccessorSource`) continue each other's nodes. Under `auto`, and for sampled requests,
there is no order among them: the tree is grown best first from all of them at once, coupled once with the request's noise, and under
`auto` the controller chooses. A draft model (`CostlyDrafter`) is asked last, and only where the others promise less than it usually gains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import itemgetter

from outpace.arrays import Array
from outpace.drafters.base import (
    CostlyDrafter,
    Drafter,
    PromptObserver,
    ResetObserver,
    StepObserver,
    SuccessorLearner,
    SuccessorSource,
    reset,
    wants_prompt,
)
from outpace.drafters.coupling import grow_coupled
from outpace.request import Request
from outpace.targets.base import TargetOutput
from outpace.tree.builder import Path, Successors, TreeBuilder, grow_best_first
from outpace.tree.chain import best_chains
from outpace.tree.draft import UNKNOWN_CONFIDENCE, Draft, Verdict, path_products

THRESHOLD = 0.03  # paths less likely than this are not drafted
MIN_EXPANDED = 0.08  # paths less likely than this get no successors: hardly any of these would be worth a row
LEARN, LEARN_ALONE = 4, 16  # a paused drafter learns from every 4th step only; if all are paused, from every 16th
MIN_LEFT = 0.05  # the next drafter is not asked for successors if the earlier ones leave less confidence than this
Parts = list[tuple[Drafter, str]]
Sources = list[tuple[SuccessorSource, str]]


class CombinedDrafter(PromptObserver, ResetObserver, StepObserver, SuccessorLearner):
    """Built from instances by the specs `a+b+c` and `auto`; its budget is the largest of theirs. Names may occur more than once."""

    def __init__(self, parts: Sequence[Drafter], names: Sequence[str], is_ordered: bool = True):
        self.parts, self.names, self.is_ordered = list(parts), list(names), is_ordered
        self.num_draft_tokens = max(part.num_draft_tokens for part in parts)
        self.wants_prompt = any(wants_prompt(part) for part in parts)
        self.num_successors = max((part.num_successors for part in parts if isinstance(part, SuccessorLearner)), default=0)
        self.paused: set[str] = set()
        self.num_observed = 0
        self.paths: Callable[[Request, Draft], Sequence[float]] = claimed_paths  # how probable it is that each node of a draft is right
        self._milliseconds = dict.fromkeys(names, 0.0)
        for part in parts:
            if isinstance(part, CostlyDrafter):
                part.is_helping = True

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    @property
    def cheap_names(self) -> list[str]:
        """The names of the drafters that take no forward passes of their own; the others know themselves when they pay."""
        return [name for part, name in zip(self.parts, self.names, strict=True) if not isinstance(part, CostlyDrafter)]

    def pause(self, names: Collection[str]) -> None:
        """From now on these drafters, and no others, propose nothing and learn from some steps only."""
        self.paused = set(names)

    def take_times(self) -> dict[str, float]:
        """Milliseconds that each drafter has taken since the last call."""
        times, self._milliseconds = self._milliseconds, dict.fromkeys(self.names, 0.0)
        return times

    def num_reusable_prefix(self, request: Request) -> int:
        prefixes = [part.num_reusable_prefix(request) for part in self.parts if isinstance(part, PromptObserver)]
        return min([len(request.token_ids), *prefixes])

    def begin(self, request: Request) -> None:
        for part in self.parts:
            part.begin(request)

    def observe_prompt(self, request: Request, start: int, hidden: Array) -> None:
        for part, name in zip(self.parts, self.names, strict=True):
            if isinstance(part, PromptObserver) and part.wants_prompt:
                started = time.perf_counter()
                part.observe_prompt(request, start, hidden)
                self._add_time(name, started)

    def propose(self, request: Request, budget: int) -> Draft:
        return self.propose_batch([request], [budget])[0]

    def propose_batch(self, requests: Sequence[Request], budgets: Sequence[int]) -> list[Draft]:
        proposals: list[list[tuple[str, Draft]]] = [[] for _ in requests]
        sources: Sources = []
        costly: list[tuple[CostlyDrafter, str]] = []
        for part, name in self._awake():
            if isinstance(part, CostlyDrafter):
                costly.append((part, name))
                continue
            asked = list(range(len(requests)))
            started = time.perf_counter()
            if isinstance(part, SuccessorSource):
                sources.append((part, name))
                part.prepare(requests)
                asked = [i for i in asked if self.is_ordered and requests[i].sampling_params.is_greedy]
            drafts = part.propose_batch([requests[i] for i in asked], [budgets[i] for i in asked]) if asked else []
            self._add_time(name, started)
            for i, draft in zip(asked, drafts, strict=True):
                proposals[i].append((name, draft))
        trees = [self._tree(request, budget, found, sources) for request, budget, found in zip(requests, budgets, proposals, strict=True)]
        for part, name in costly:
            asked = [i for i, tree in enumerate(trees) if part.gains_more(self.paths(requests[i], tree))]
            if asked:
                part.read([requests[i] for i in asked])  # once per prompt, so its time says nothing about that of a step
                started = time.perf_counter()
                drafts = part.propose_batch([requests[i] for i in asked], [budgets[i] for i in asked])
                self._add_time(name, started)
                for i, draft in zip(asked, drafts, strict=True):
                    proposals[i].insert(0, (name, draft))  # what is worth its time is not crowded out
                    trees[i] = self._tree(requests[i], budgets[i], proposals[i], sources)
        return trees

    def propose_chains(self, requests: Sequence[Request], budgets: Sequence[int], threshold: float = THRESHOLD) -> list[list[int]]:
        sources = [part for part, _ in self._awake() if isinstance(part, SuccessorSource)]
        if len(sources) < len(self._awake()):
            return super().propose_chains(requests, budgets, threshold)
        for part in sources:
            part.prepare(requests)
        return best_chains([[part.walker(request) for request in requests] for part in sources], budgets, threshold)

    def learn(self, cache_salt: str, before: Array, tokens: Array, successors: Array, confidences: Array) -> None:
        for part in self.parts:
            if isinstance(part, SuccessorLearner):
                width = part.num_successors
                part.learn(cache_salt, before, tokens, successors[:, :width], confidences[:, :width])

    def _tree(self, request: Request, budget: int, proposals: Sequence[tuple[str, Draft]], sources: Sources) -> Draft:
        """One request's drafts as one tree, continued with the likeliest further nodes."""
        builder = TreeBuilder(budget)
        builder.add_drafts([draft for _, draft in proposals], [name for name, _ in proposals])
        if sources and not builder.num_lookahead:
            successors: Successors = partial(self._successors, sources, request)
            if any(part.is_coupled for part, _ in sources):
                grow_coupled(builder, request, successors, THRESHOLD, MIN_EXPANDED)
            else:
                grow_best_first(builder, successors, THRESHOLD, MIN_EXPANDED)
        return builder.build()

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self.num_observed += 1
        learn = LEARN if len(self.paused) < len(self.names) else LEARN_ALONE
        for part, name in zip(self.parts, self.names, strict=True):
            if name not in self.paused or self.num_observed % learn == 0:
                started = time.perf_counter()
                part.observe(request, verdict, output)
                self._add_time(name, started)

    def reset(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        for part in self.parts:
            reset(part, request, verdict, output)

    def end_step(self) -> None:
        for part, name in zip(self.parts, self.names, strict=True):
            if isinstance(part, StepObserver):
                started = time.perf_counter()
                part.end_step()
                self._add_time(name, started)

    def end(self, request: Request) -> None:
        for part in self.parts:
            part.end(request)

    def _awake(self) -> Parts:
        return [(part, name) for part, name in zip(self.parts, self.names, strict=True) if name not in self.paused]

    def _add_time(self, name: str, started: float) -> None:
        self._milliseconds[name] += 1e3 * (time.perf_counter() - started)

    def _successors(self, sources: Sources, request: Request, path: Path) -> list[tuple[int, float, str]]:
        """(token, confidence, source) after a path, best first; a later drafter shares the confidence that the earlier ones leave."""
        found: dict[int, tuple[int, float, str]] = {}
        left = 1.0
        for part, name in sources:
            if left < MIN_LEFT:
                break
            started = time.perf_counter()
            successors = part.successors(request, path)
            self._add_time(name, started)
            for token, confidence in successors:
                known = found.get(token)
                if known is None:
                    found[token] = (token, left * confidence, name)
                else:
                    found[token] = (token, known[1] + left * confidence, f"{known[2]}+{name}")
            left = max(0.0, left - left * sum(confidence for _, confidence in successors))
        return sorted(found.values(), key=itemgetter(1), reverse=True)


def claimed_paths(request: Request, tree: Draft) -> list[float]:
    """For each node of a tree the probability that it and its ancestors are right, as the drafters claim."""
    count = len(tree) - tree.num_lookahead
    claims = [UNKNOWN_CONFIDENCE] * count if tree.confidences is None else tree.confidences[:count]
    return path_products(tree.parents[:count], claims)
