"""Token recycling (2408.08696): drafts what the model found likeliest the last times it saw this token, or this pair of tokens.

Every row of a forward pass, accepted or not, shows which tokens the model found likeliest after the row's token. A table keeps these with
their probabilities, by the row's token alone, and by the pair with the token before it, which is more specific but seen less often.
Repeated visits are averaged. A tree is grown best first. The table outlives requests, so it improves with use. It starts with what usually
follows in the model's answers if such a table ships with outpace or is given (`outpace train recycling`), else empty; an empty table
drafts nothing. What is learned under one cache salt never serves another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Self

import numpy as np

from outpace.arrays import Array
from outpace.drafters.base import DrafterContext, StepObserver, SuccessorLearner, SuccessorSource, tail
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.heads.shipped import has_tokens, shipped, shipped_table
from outpace.heads.successor_table import Successors, pair_key
from outpace.request import Request
from outpace.targets.base import Capabilities, TargetOutput
from outpace.tree.chain import Walker
from outpace.tree.draft import Verdict

FOLDS = 64  # tokens per column; the vocabulary is searched column by column
NUM_OF_CHAINS = 3  # successors of an entry that a chain chooses from: a fourth is never the likeliest
Entry = tuple[list[int], list[float]]  # tokens, best first, and their confidences
AT_ONCE = 10  # from so many texts on, looking up their successors together is faster
NEW = 0.5  # weight of the newest visit against all earlier ones
PAIR, AFTER_PAIR, ALONE = (0.45, 0.45), (0.4, 0.4), (0.5, 0.35)  # (a, b): an entry whose largest confidence is c is trusted to a + b * c


class SuccessorTable:
    """key -> the `width` likeliest next tokens and their confidences, best first.

    Keys below `num_singles` (single tokens) have a slot of their own, and so have the pairs of `start`, the initial content. All other
    pairs share `num_shared` slots, where the newest stays; an odd number spreads the pairs of a vocabulary of a power of 2 evenly.
    """

    def __init__(self, num_singles: int, num_shared: int, width: int, start: Successors | None = None):
        self.num_singles, self.num_shared = num_singles, num_shared
        pairs = np.empty(0, np.int64) if start is None else start.keys[np.searchsorted(start.keys, num_singles) :]
        self.num_own = num_singles + len(pairs)
        self.pairs = np.append(pairs, np.iinfo(np.int64).max)  # every search ends at a pair
        self.keys = np.full(self.num_own + num_shared, -1, np.int64)
        self.entries = np.zeros((self.num_own + num_shared, 2, width), np.float32)  # tokens, exact in float32 up to 16 million; confidences
        if start is not None:
            slots = self._slots(start.keys)
            self.keys[slots] = start.keys
            known = np.stack([start.tokens, start.confidences], axis=1)[:, :, :width]
            self.entries[slots, :, : known.shape[2]] = known

    def copy(self) -> SuccessorTable:
        """A table of its own with the same content."""
        twin = copy(self)
        twin.keys, twin.entries = self.keys.copy(), self.entries.copy()
        return twin

    @property
    def num_bytes(self) -> int:
        """Memory of the table."""
        return self.keys.nbytes + self.entries.nbytes

    def get(self, key: int, most: int | None = None) -> Entry:
        """(tokens, confidences) of the `most` likeliest successors of a key; empty lists if it is not there."""
        slot = key
        if key >= self.num_singles:
            place = int(self.pairs.searchsorted(key))
            slot = self.num_singles + place if self.pairs.item(place) == key else self.num_own + key % self.num_shared
        if self.keys.item(slot) != key:
            return [], []
        return _entry(*self.entries[slot, :, :most].tolist())

    def get_all(self, keys: Sequence[int], most: int | None = None) -> list[Entry]:
        """`get` for each key, -1 for none."""
        wanted = np.array(keys)
        slots = self._slots(wanted)
        entries = self.entries[slots, :, :most]
        entries[self.keys[slots] != wanted] = 0
        return [_entry(*entry) for entry in entries.tolist()]

    def update(self, keys: Array, tokens: Array, confidences: Array) -> None:
        """Average new successors [rows, width] into the entries of `keys` [rows]; of equal keys the last row counts."""
        slots = self._slots(keys)
        known, width = self.entries[slots], tokens.shape[1]
        is_known = (self.keys[slots] == keys)[:, None]
        both = np.hstack([tokens.astype(known.dtype), known[:, 0]])
        values = np.hstack([np.where(is_known, NEW * confidences, confidences), np.where(is_known, (1 - NEW) * known[:, 1], 0)])
        row, pair = np.divmod(np.flatnonzero(known[:, 0, :, None] == both[:, None, :width]), width * width)
        new, old = 2 * width * row + pair % width, 2 * width * row + width + pair // width  # where the same token stands twice
        flat = values.reshape(-1)
        np.add.at(flat, new, flat[old])
        flat[old] = 0
        best = np.argsort(-values, axis=1, kind="stable")[:, :width] + 2 * width * np.arange(len(keys))[:, None]
        self.keys[slots] = keys
        self.entries[slots] = np.stack([both.reshape(-1)[best], flat[best]], axis=1)

    def _slots(self, keys: Array) -> Array:
        """The slot of each key [rows]."""
        places = self.pairs.searchsorted(keys)
        is_own = self.pairs[places] == keys
        slots = np.where(is_own, self.num_singles + places, self.num_own + keys % self.num_shared)
        return np.where(keys < self.num_singles, keys, slots)


def _entry(tokens: list[float], confidences: list[float]) -> Entry:
    """As it was learnt: without the zeros behind an entry that is narrower than the table."""
    if not confidences[-1]:
        num_known = len(confidences) - confidences.count(0.0)
        tokens, confidences = tokens[:num_known], confidences[:num_known]
    return list(map(int, tokens)), confidences


@dataclass(frozen=True)
class _Seen:
    """What a step of one request teaches: for each of `places`, (token before, token, row), `logits[row]` predict what follows. The view is
    dropped at the end of the step."""

    scope: str
    logits: Array
    places: list[tuple[int, int, int]]


class _PairWalker(Walker):
    """Knows the last two tokens of a path: all that a table needs. `before` is -1 at the start of a text."""

    def __init__(self, table: SuccessorTable, before: int, token: int, vocab_size: int):
        self._table, self._before, self._token, self._vocab_size = table, before, token, vocab_size

    @property
    def pair(self) -> int:
        """The key of the two tokens, -1 at the start of a text."""
        return -1 if self._before < 0 else pair_key(self._before, self._token, self._vocab_size)

    def successors(self) -> dict[int, float]:
        return self.found(NUM_OF_CHAINS)

    def found(self, most: int) -> dict[int, float]:
        """Successors, of the `most` likeliest entries of the pair and the single token."""
        return _mixed(self._table.get(self.pair, most), self._table.get(self._token, most))

    @classmethod
    def successors_of(cls, walkers: Sequence[Self]) -> list[dict[int, float]]:
        if len(walkers) < AT_ONCE:
            return [walker.successors() for walker in walkers]
        found: dict[_PairWalker, dict[int, float]] = {}
        for table in {id(walker._table): walker._table for walker in walkers}.values():
            group = [walker for walker in walkers if walker._table is table]
            entries = table.get_all([*(walker.pair for walker in group), *(walker._token for walker in group)], NUM_OF_CHAINS)
            found |= zip(group, map(_mixed, entries, entries[len(group) :]), strict=False)
        return [found[walker] for walker in walkers]

    def step(self, token: int) -> None:
        self._before, self._token = self._token, token


def _mixed(pair: Entry, single: Entry) -> dict[int, float]:
    """Successors of a pair, and of its second token with what trust is left."""
    found: dict[int, float] = {}
    left, trust_single = 1.0, ALONE
    if pair[0]:
        trust = PAIR[0] + PAIR[1] * pair[1][0]
        found, left, trust_single = {t: trust * c for t, c in zip(*pair)}, 1.0 - trust, AFTER_PAIR  # noqa: B905
    if single[0]:
        trust = left * (trust_single[0] + trust_single[1] * single[1][0])
        for token, confidence in zip(*single):  # noqa: B905
            found[token] = found.get(token, 0.0) + trust * confidence
    return found


class RecyclingDrafter(SuccessorSource, SuccessorLearner, StepObserver):
    """successors: kept for each entry. pairs: slots for pairs of tokens beside those of the initial table. scopes: number of cache salts
    with a table of their own, the latest used ones. threshold: paths less likely than this are not drafted. table: the initial table, a
    folder with a table for this model or one with the same tokens; empty for the one that ships with outpace, if there is one; "none" for
    an empty table.

    A table takes 8 * successors + 8 bytes for each token of the vocabulary, each initial pair and each slot for pairs: with 65,536 initial
    pairs 10.6 MB for `tiny`, 95 MB for 8 scopes and the initial table. A scope's table is copied when it first learns.
    """

    requires = Capabilities(tree=True)
    num_draft_tokens = 10
    is_coupled = True

    def __init__(
        self, context: DrafterContext, successors: int = 8, threshold: float = 0.02, pairs: int = 32768, scopes: int = 8, table: str = ""
    ):
        if min(successors, pairs, scopes) < 1 or not 0 < threshold < 1:
            raise BadInputError("recycling: need successors, pairs and scopes of at least 1 and 0 < threshold < 1")
        self.vocab_size, self.threshold = context.vocab_size, threshold
        self.num_successors, self.num_pairs, self.num_scopes = min(successors, context.vocab_size), pairs | 1, scopes
        self.start = SuccessorTable(context.vocab_size, self.num_pairs, self.num_successors, _load(context, table))  # never changed
        self.scopes: OrderedDict[str, SuccessorTable] = OrderedDict()
        self.seen: list[_Seen] = []  # in this step

    @property
    def num_bytes(self) -> int:
        return self.start.num_bytes + sum(table.num_bytes for table in list(self.scopes.values()))

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        found = self._walker(request, path).found(self.num_successors)
        return sorted(found.items(), key=itemgetter(1), reverse=True)[: self.num_successors]

    def walker(self, request: Request) -> Walker:
        return self._walker(request, ())

    def _walker(self, request: Request, path: Sequence[int]) -> _PairWalker:
        before, token = [-1, *tail(request, 2, path)][-2:]
        return _PairWalker(self.scopes.get(request.cache_salt, self.start), before, token, self.vocab_size)

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        rows = output.token_ids
        on_path = [0, *(node + 1 for node in verdict.path)]  # written last, so that they win over rejected nodes of the same token
        order = [*sorted(set(range(len(rows))).difference(on_path)), *on_path]
        before = self._before(request, verdict, rows)
        self.seen.append(_Seen(request.cache_salt, output.logits, [(before[row], rows[row], row) for row in order]))

    def end_step(self) -> None:
        seen, self.seen = self.seen, []
        if not seen:
            return
        tokens, confidences = likeliest([entry.logits for entry in seen], self.num_successors)
        lessons: dict[str, list[tuple[int, int, int]]] = {}
        start = 0
        for entry in seen:
            lessons.setdefault(entry.scope, []).extend((before, token, start + row) for before, token, row in entry.places)
            start += len(entry.logits)
        for scope, places in lessons.items():
            before, known, rows = np.array(places, np.int64).T
            self.learn(scope, before, known, tokens[rows], confidences[rows])

    def learn(self, cache_salt: str, before: Array, tokens: Array, successors: Array, confidences: Array) -> None:
        paired = np.flatnonzero(before >= 0)
        keys = np.concatenate([tokens, pair_key(before[paired], tokens[paired], self.vocab_size)])
        places = np.concatenate([np.arange(len(tokens)), paired])
        self._table(cache_salt).update(keys, successors[places], confidences[places])

    def _before(self, request: Request, verdict: Verdict, rows: Sequence[int]) -> list[int]:
        """The token before each row's token; -1 where it is not known."""
        end = tail(request, len(verdict.path) + 3)[:2]  # before the step the text ended so
        first = end[0] if len(end) == 2 and end[1] == rows[0] else -1
        return [first, *(rows[parent + 1] for parent in verdict.draft.parents)]

    def _table(self, scope: str) -> SuccessorTable:
        """The table of a scope, created on demand; the scope that has not learned for the longest time is forgotten."""
        if scope not in self.scopes:
            self.scopes[scope] = self.start.copy()
        self.scopes.move_to_end(scope)
        while len(self.scopes) > self.num_scopes:
            self.scopes.popitem(last=False)
        return self.scopes[scope]


def _load(context: DrafterContext, table: str) -> Successors | None:
    """The initial table: that of this model, or else of one with the same tokens. Raises BadInputError for a folder without either."""
    base, vocab_size = context.target.base, context.vocab_size
    vocabulary = "" if context.tokenizer is None else context.tokenizer.mark
    folder = Path(table).expanduser() if table else shipped("recycling", base) or shipped_table(vocab_size, vocabulary)
    if table == "none" or folder is None:
        return None
    if base is None:
        raise BadInputError("recycling: this target does not say which model it runs, so no table can be known to fit")
    loaded = DraftHeads.from_pretrained(folder, None if has_tokens(folder, vocab_size, vocabulary) else base)
    try:
        return Successors.of(loaded)
    except BadInputError as error:
        raise BadInputError(f"recycling: the table in {folder} does not fit: {error}") from error


def likeliest(blocks: Sequence[Array], k: int) -> tuple[Array, Array]:
    """(tokens [rows, k], confidences [rows, k]) of the k largest logits of each row of all blocks [.., V], best first.

    Confidences are probabilities over the whole row; in long rows only the largest token of each column counts towards the sum, which is
    where the mass is. This runs on every row of every step, so each read of the logits counts.
    """
    size = blocks[0].shape[1]
    width = size // FOLDS  # column c has the tokens c, c + width, c + 2 * width, …
    if width < 4 * k:
        maxima = _joined(blocks)
        candidates = np.broadcast_to(np.arange(size), maxima.shape)
    else:
        maxima = _joined([block[:, : width * FOLDS].reshape(len(block), FOLDS, width).max(axis=1) for block in blocks])
        columns = maxima.argpartition(-k, axis=1)[:, -k:]  # the k largest stand in the k columns with the largest maxima
        candidates = (columns[:, :, None] + np.arange(0, width * FOLDS, width)).reshape(len(maxima), -1)
        if width * FOLDS < size:
            rest = np.arange(width * FOLDS, size)
            candidates = np.hstack([candidates, np.broadcast_to(rest, (len(maxima), len(rest)))])
            maxima = np.hstack([maxima, _joined([block[:, rest[0] :] for block in blocks])])
    ends = np.cumsum([len(block) for block in blocks])
    values = _joined([b[np.arange(len(b))[:, None], candidates[end - len(b) : end]] for b, end in zip(blocks, ends, strict=True)])
    first = np.arange(len(maxima))[:, None]
    if k < values.shape[1]:
        best = values.argpartition(-k, axis=1)[:, -k:]
        candidates, values = candidates[first, best], values[first, best]
    order = (-values).argsort(axis=1, kind="stable")
    tokens, found = candidates[first, order], values[first, order]
    sums = np.exp(maxima - found[:, :1]).sum(axis=1)
    weights = np.exp(found - found[:, :1])
    return tokens, weights / np.maximum(sums, weights.sum(axis=1))[:, None]


def _joined(blocks: Sequence[Array]) -> Array:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
