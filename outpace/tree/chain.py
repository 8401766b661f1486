"""Chains: the likeliest continuation of a text, for engines that cannot run trees.

A walker stands at the end of a text, names what comes next there, and steps on with the token that was chosen, so that a chain costs one
look-up a token instead of one for every path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import itemgetter

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


class PathWalker(Walker):
    """Asks a function of the path, such as that of a drafter for one request."""

    def __init__(self, successors: Callable[[Sequence[int]], Sequence[tuple[int, float]]]):
        self._successors = successors
        self._path: list[int] = []

    def successors(self) -> dict[int, float]:
        return dict(self._successors(self._path))

    def step(self, token: int) -> None:
        self._path.append(token)


def best_chain(walkers: Sequence[Walker], limit: int, threshold: float) -> list[int]:
    """The likeliest tokens one after the other, at most `limit`, ending before the path becomes less likely than `threshold`.

    A later walker shares the confidence that the earlier ones leave, and is asked only where it could change the choice.
    """
    chain: list[int] = []
    path_confidence = 1.0
    while len(chain) < limit:
        token, confidence = _best(walkers)
        path_confidence *= confidence
        if path_confidence < threshold or confidence <= 0.0:
            break
        chain.append(token)
        for walker in walkers:
            walker.step(token)
    return chain


def _best(walkers: Sequence[Walker]) -> tuple[int, float]:
    """(token, confidence) of the likeliest next token; (0, 0.0) if there is none."""
    found: dict[int, float] = {}
    best = 0, 0.0
    for walker in walkers:
        new = walker.successors()
        if found:
            left = 1.0 - sum(found.values())
            for token, confidence in new.items():
                found[token] = found.get(token, 0.0) + left * confidence
        else:
            found = new
        best = max(found.items(), key=_confidence, default=best)
        if best[1] >= SURE:
            break
    return best
