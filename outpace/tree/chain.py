"""Chains: the likeliest continuation of a text, for engines that cannot run trees.

A walker stands at the end of a text, names what comes next there, and steps on with the token that was chosen, so that a chain costs one
look-up a token instead of one for every path. The chains of several texts grow together, so that a drafter can look up a place of each at
once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Self

_confidence = itemgetter(1)
SURE = 0.5  # a token with this confidence cannot be overtaken, because the confidences of a place add up to 1 at most


class Walker(ABC):
    """One drafter's place in one text."""

    @abstractmethod
    def successors(self) -> dict[int, float]:
        """Likely next tokens here, with their confidences, in any order; empty if nothing is known. A new dictionary for each call."""

    @abstractmethod
    def step(self, token: int) -> None:
        """Go on to the place behind one more token."""

    @classmethod
    def successors_of(cls, walkers: Sequence[Self]) -> list[dict[int, float]]:
        """The successors of several walkers of this class. Override it if finding them together is cheaper."""
        return [walker.successors() for walker in walkers]


class PathWalker(Walker):
    """Asks a function of the path, such as that of a drafter for one request."""

    def __init__(self, successors: Callable[[Sequence[int]], Sequence[tuple[int, float]]]):
        self._successors = successors
        self._path: list[int] = []

    def successors(self) -> dict[int, float]:
        return dict(self._successors(self._path))

    def step(self, token: int) -> None:
        self._path.append(token)


def best_chains(parts: Sequence[Sequence[Walker]], limits: Sequence[int], threshold: float) -> list[list[int]]:
    """For each text the likeliest tokens one after the other, at most `limits[i]`, ending before the path is less likely than `threshold`.

    `parts[p][i]` is drafter p's walker in text i. A later drafter shares the confidence that the earlier ones leave, and is asked only
    where it could change the choice.
    """
    chains: list[list[int]] = [[] for _ in limits]
    paths = [1.0] * len(limits)
    growing = [i for i, limit in enumerate(limits) if limit > 0]
    while growing:
        grown: list[int] = []
        for i, (token, confidence) in zip(growing, _best(parts, growing), strict=True):
            paths[i] *= confidence
            if paths[i] < threshold or confidence <= 0.0:
                continue
            chains[i].append(token)
            if len(chains[i]) < limits[i]:
                grown.append(i)
                for walkers in parts:
                    walkers[i].step(token)
        growing = grown
    return chains


def _best(parts: Sequence[Sequence[Walker]], growing: Sequence[int]) -> list[tuple[int, float]]:
    """(token, confidence) of the likeliest next token of each growing text; (0, 0.0) if there is none."""
    found: dict[int, dict[int, float]] = {}
    best = dict.fromkeys(growing, (0, 0.0))
    asked = growing
    for walkers in parts:
        asking = [walkers[i] for i in asked]
        unsure: list[int] = []
        for i, new in zip(asked, type(asking[0]).successors_of(asking), strict=True):
            known = found.get(i)
            if known:
                left = 1.0 - sum(known.values())
                for token, confidence in new.items():
                    known[token] = known.get(token, 0.0) + left * confidence
            else:
                known = found[i] = new
            if known:
                best[i] = max(known.items(), key=_confidence)
            if best[i][1] < SURE:
                unsure.append(i)
        asked = unsure
        if not asked:
            break
    return list(best.values())
