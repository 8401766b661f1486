"""Several drafters as one tree: `a+b+c`. Earlier ones come first, equal guesses are merged, later ones fill the budget left.

Drafters that can say what follows any path (`SuccessorSource`) go on from each other's nodes. Under `auto` there is no order: the
tree is grown best first from all of them at once, and the controller chooses. Every drafter that guesses sees every step, so that its
tables stay warm.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from outpace.arrays import Array
from outpace.drafters.base import Drafter, PromptObserver, ResetObserver, StepObserver, SuccessorSource, reset, wants_prompt
from outpace.request import Request
from outpace.targets.base import TargetOutput
from outpace.tree.builder import merge
from outpace.tree.draft import Draft, Verdict

THRESHOLD = 0.03  # paths less likely than this are not gone down
OPEN = 0.08  # nor are nodes whose path is less likely asked for successors: hardly any of these would be worth a row
LEARN, LEARN_ALONE = 4, 16  # a resting drafter stays warm by looking at one step in so many; while all of them rest, in so many
SURE = 0.05  # a next token that is so sure is not asked about again
Parts = list[tuple[Drafter, str]]
Sources = list[tuple[SuccessorSource, str]]


class CombinedDrafter(PromptObserver, ResetObserver, StepObserver):
    """Built from instances by the specs `a+b+c` and `auto`; its budget is the largest of theirs.

    `paused` are names that a controller leaves out for now: they do not guess, and learn from every LEARN-th step only. `milliseconds`
    is the time each part has taken since somebody last set it to 0.
    """

    def __init__(self, parts: Sequence[Drafter], names: Sequence[str], is_ordered: bool = True):
        self.parts, self.names, self.is_ordered = list(parts), list(names), is_ordered
        self.num_draft_tokens = max(part.num_draft_tokens for part in parts)
        self.wants_prompt = any(wants_prompt(part) for part in parts)
        self.paused: set[str] = set()
        self.num_observed = 0
        self.milliseconds = dict.fromkeys(names, 0.0)

    def num_reusable_prefix(self, request: Request) -> int:
        prefixes = [part.num_reusable_prefix(request) for part in self.parts if isinstance(part, PromptObserver)]
        return min([len(request.token_ids), *prefixes])

    def begin(self, request: Request) -> None:
        for part in self.parts:
            part.begin(request)

    def observe_prompt(self, request: Request, start: int, hidden: Array) -> None:
        for part, name in zip(self.parts, self.names, strict=True):
            if isinstance(part, PromptObserver) and part.wants_prompt:
                with self._timed(name):
                    part.observe_prompt(request, start, hidden)

    def propose(self, request: Request, budget: int) -> Draft:
        drafts, names = [], []
        for part, name in self._awake():
            if self.is_ordered or not isinstance(part, SuccessorSource):
                with self._timed(name):
                    drafts.append(part.propose(request, budget))
                names.append(name)
        draft = merge(drafts, budget, names)
        return draft if draft.num_lookahead else self._extended(request, draft, budget)

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self.num_observed += 1
        learn = LEARN if len(self.paused) < len(self.names) else LEARN_ALONE
        for part, name in zip(self.parts, self.names, strict=True):
            if name not in self.paused or self.num_observed % learn == 0:
                with self._timed(name):
                    part.observe(request, verdict, output)

    def reset(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        for part in self.parts:
            reset(part, request, verdict, output)

    def end_step(self) -> None:
        for part, name in zip(self.parts, self.names, strict=True):
            if isinstance(part, StepObserver):
                with self._timed(name):
                    part.end_step()

    def end(self, request: Request) -> None:
        for part in self.parts:
            part.end(request)

    def _awake(self) -> Parts:
        return [(part, name) for part, name in zip(self.parts, self.names, strict=True) if name not in self.paused]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.milliseconds[name] += 1e3 * (time.perf_counter() - started)

    def _extended(self, request: Request, draft: Draft, budget: int) -> Draft:
        """The draft with the likeliest further nodes, wherever they hang."""
        extending = [(part, name) for part, name in self._awake() if isinstance(part, SuccessorSource)]
        if not extending or len(draft) >= budget:
            return draft
        token_ids, parents = list(draft.token_ids), list(draft.parents)
        confidences, sources = list(draft.confidences or ()), list(draft.sources or ())
        paths: list[tuple[tuple[int, ...], float]] = []  # of each node: tokens from the root, chance
        taken = set(zip(parents, token_ids, strict=True))
        heap: list[tuple[float, int, int, int, float, str]] = []  # (-chance of the path, number, parent, token, chance, source)
        number = 0

        def open_node(node: int, path: tuple[int, ...], path_confidence: float) -> None:
            nonlocal number
            for token, (confidence, source) in self._successors(extending, request, path).items():
                if path_confidence * confidence >= THRESHOLD and (node, token) not in taken:
                    number += 1
                    heapq.heappush(heap, (-path_confidence * confidence, number, node, token, confidence, source))

        open_node(-1, (), 1.0)
        for node, (token, parent) in enumerate(zip(draft.token_ids, draft.parents, strict=True)):
            path, path_confidence = paths[parent] if parent >= 0 else ((), 1.0)
            paths.append(((*path, token), path_confidence * confidences[node]))
            open_node(node, *paths[node])
        while heap:
            minus, _, parent, token, confidence, source = heapq.heappop(heap)
            path = (*paths[parent][0], token) if parent >= 0 else (token,)
            paths.append((path, -minus))
            token_ids.append(token)
            parents.append(parent)
            confidences.append(confidence)
            sources.append(source)
            if len(token_ids) == budget:
                break
            if -minus >= OPEN:
                open_node(len(token_ids) - 1, path, -minus)
        return Draft(token_ids, parents, None, 0, confidences, sources)

    def _successors(self, extending: Sources, request: Request, path: tuple[int, ...]) -> dict[int, tuple[float, str]]:
        """token -> (chance, who guesses it) after a path; a later drafter shares what the earlier ones leave of the chance."""
        found: dict[int, tuple[float, str]] = {}
        left = 1.0
        for part, name in extending:
            if left < SURE:
                break
            started = time.perf_counter()
            successors = part.successors(request, path)
            self.milliseconds[name] += 1e3 * (time.perf_counter() - started)
            for token, confidence in successors:
                other, source = found.get(token, (0.0, ""))
                found[token] = (other + left * confidence, f"{source}+{name}" if source else name)
            left = max(0.0, left - left * sum(confidence for _, confidence in successors))
        return found
