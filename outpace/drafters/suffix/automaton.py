"""A suffix automaton: every substring of a growing text, in O(1) time and memory per token, whatever the length of the text.

A state stands for the substrings that occur at the same places; its link leads to its longest suffix that occurs at more places. Following
the links from the end of the text visits its suffixes from long to short: a language model of this text with all orders at once.
Construction: Blumer et al. 1985; as a drafter: SAM decoding (2411.10666).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

NUM_LATEST = 16  # successors of a state that are considered, the latest ones
NUM_REFRESHED = 16  # suffixes of the text whose counts a new token updates, the longest ones

Match = tuple[int, int]  # (state, number of tokens matched)
NO_MATCH: Match = (0, 0)


class SuffixAutomaton:
    """States are numbers, 0 is the empty string. `following[s]`: token -> state, the latest seen token last."""

    def __init__(self) -> None:
        self.following: list[dict[int, int]] = [{}]
        self.link: list[int] = [-1]
        self.length: list[int] = [0]  # of the longest substring of the state
        self.count: list[int] = [0]  # occurrences (a lower bound where more than NUM_REFRESHED suffixes have occurred before)
        self.last = 0  # the state of the whole text
        self.num_tokens = 0

    def extend(self, token_ids: Iterable[int]) -> None:
        """Append tokens to the text."""
        for token in token_ids:
            self._append(token)

    def _append(self, token: int) -> None:
        following, link, length = self.following, self.link, self.length
        state, place = len(following), self.last
        following.append({})
        link.append(0)
        length.append(length[place] + 1)
        self.count.append(1)
        while place >= 0 and token not in following[place]:
            following[place][token] = state
            place = link[place]
        if place >= 0:
            known = following[place][token]
            link[state] = known if length[known] == length[place] + 1 else self._split(place, token, known)
            self._refresh(place, token)
        self.last = state
        self.num_tokens += 1

    def _split(self, place: int, token: int, known: int) -> int:
        """Give the shorter substrings of `known` a state of their own: its longer ones end at fewer places."""
        following, link = self.following, self.link
        state = len(following)
        following.append(dict(following[known]))
        link.append(link[known])
        self.length.append(self.length[place] + 1)
        self.count.append(self.count[known])
        while place >= 0 and following[place].get(token) == known:
            following[place][token] = state
            place = link[place]
        link[known] = state
        return state

    def _refresh(self, place: int, token: int) -> None:
        """Make the token the latest successor of those suffixes that it has followed before."""
        following, link, count = self.following, self.link, self.count
        counted = -1
        for _ in range(NUM_REFRESHED):
            if place <= 0:
                break
            successors = following[place]
            state = successors.pop(token)
            successors[token] = state
            if state != counted:  # neighbouring suffixes may lead to one state
                count[state] += 1
                counted = state
            place = link[place]

    @property
    def match(self) -> Match:
        """The longest suffix of the text that has occurred in it before."""
        state = max(self.link[self.last], 0)
        return state, self.length[state]

    def walk(self, match: Match, token_ids: Iterable[int]) -> Match:
        """The longest suffix of (match, *token_ids) that occurs in the text."""
        following, link, length = self.following, self.link, self.length
        state, matched = match
        while state > 0 and length[link[state]] >= matched:  # the state was split since
            state = link[state]
        for token in token_ids:
            while token not in following[state]:
                state = link[state]
                if state < 0:
                    break
                matched = length[state]
            if state < 0:
                state, matched = NO_MATCH
            else:
                state, matched = following[state][token], matched + 1
        return state, matched

    def votes(self, match: Match, most: int = 1 << 60) -> list[tuple[int, list[tuple[int, int]]]]:
        """(tokens matched, [(next token, occurrences)], latest first) of the match and its suffixes, longest first, `most` of them."""
        following, link, length, count = self.following, self.link, self.length, self.count
        levels: list[tuple[int, list[tuple[int, int]]]] = []
        state, matched = match
        while state > 0 and len(levels) < most:
            successors = following[state]
            if len(successors) == 1:
                [(token, after)] = successors.items()
                levels.append((matched, [(token, count[after])]))
            elif successors:
                levels.append((matched, [(token, count[after]) for token, after in islice(reversed(successors.items()), NUM_LATEST)]))
            state = link[state]
            matched = length[state]
        return levels
