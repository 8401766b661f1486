"""Token ids of two models for the same text: the target's context for the draft model, and the draft model's draft for the target.

There are three mappings. `SameVocab`: one tokenizer, perhaps padded to different sizes. `SharedVocab`: two tokenizers, where the draft
model may only draft tokens whose text is a token of the target too (Timor et al. 2502.05202, token-level intersection). `Reencoded`: any
two tokenizers by way of text, chains only. Tokenizers are duck-typed: `fast` is a `tokenizers.Tokenizer`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.byte_letters import byte_letters
from outpace.errors import BadInputError
from outpace.tree.draft import EMPTY_DRAFT, Draft

UNFINISHED = "\ufffd"  # what decoders show for bytes that are no complete character
NUM_RECENT = 256  # converted texts that are remembered, so that only what is new is converted
WINDOW = 8  # tokens before the draft that are encoded with it, because of merges and leading spaces


class Translation(ABC):
    """Maps tokens of a target ("ours") to tokens of a draft model ("theirs") and back."""

    takes_trees = True  # one token of the draft model is one token of the target
    num_unstable = 1  # last tokens of the draft model's context that are not cached: the last one, and those that may still change
    our_size = 0  # of the target's vocabulary

    @abstractmethod
    def to_draft(self, token_ids: Sequence[int]) -> list[int] | None:
        """The draft model's tokens for the target's; None if there are none."""

    @abstractmethod
    def to_target(self, context: Sequence[int], draft_context: Sequence[int], draft: Draft) -> Draft:
        """The draft in the target's tokens; `context` and `draft_context` are the text before it in the tokens of either."""

    def to_target_row(self, row: Array) -> Array:
        """The draft model's logits, of all its tokens or the first ones, as logits [our_size] of the target's tokens: -inf for those that
        it does not draft."""
        found = np.full(self.our_size, -np.inf, np.float32)
        self.fill(found, row)
        return found

    def fill(self, found: Array, row: Array) -> None:
        """Write the draft model's logits to the places [our_size] of the target's tokens. To none here: without `takes_trees`, tokens of
        the two models do not stand for each other."""
        return None

    def our_token(self, token: int) -> int:
        """The target's token for one that the draft model may draft."""
        return token

    def their_token(self, token: int) -> int:
        """The draft model's token for one of the target's that may be drafted."""
        return token


class SameVocab(Translation):
    """Equal tokens have equal ids below `size`; ids from there on, padding or added tokens of one model, are never drafted."""

    def __init__(self, size: int, our_size: int):
        self.size, self.our_size = size, our_size

    def to_draft(self, token_ids: Sequence[int]) -> list[int] | None:
        return list(token_ids) if max(token_ids) < self.size else None

    def to_target_row(self, row: Array) -> Array:
        return row[: self.size] if self.size == self.our_size <= len(row) else super().to_target_row(row)

    def fill(self, found: Array, row: Array) -> None:
        found[: min(self.size, len(row))] = row[: self.size]

    def to_target(self, context: Sequence[int], draft_context: Sequence[int], draft: Draft) -> Draft:
        return draft


class SharedVocab(Translation):
    """Tokens of equal text stand for each other; other tokens of the context are spelled in the draft model's own tokens."""

    def __init__(self, ours: Any, theirs: Any, our_size: int, their_size: int):
        our_texts, their_texts = token_texts(ours, our_size), token_texts(theirs, their_size)
        by_text = {text: token for token, text in sorted(their_texts.items(), reverse=True)}
        equal = {token: by_text[text] for token, text in sorted(our_texts.items()) if text in by_text}
        if not equal:
            raise BadInputError("draft_model: the two tokenizers have no token in common; leave out vocab=shared")
        back: dict[int, int] = {}
        for token, other in equal.items():
            back.setdefault(other, token)
        self.theirs = np.array(sorted(back))
        self.back, self.our_size = back, our_size
        self.ours = np.array([back[token] for token in self.theirs.tolist()])
        self.spelled: dict[int, list[int]] = {token: [other] for token, other in equal.items()}
        self.tokenizers, self.start = (ours, theirs), start_tokens(theirs)

    def to_draft(self, token_ids: Sequence[int]) -> list[int] | None:
        ours, theirs = self.tokenizers
        out = list(self.start)
        for token in token_ids:
            if token not in self.spelled:
                text = ours.fast.decode([token], skip_special_tokens=True)
                self.spelled[token] = theirs.fast.encode(text, add_special_tokens=False).ids
            out += self.spelled[token]
        return out or None

    def to_target(self, context: Sequence[int], draft_context: Sequence[int], draft: Draft) -> Draft:
        return Draft([self.back[token] for token in draft.token_ids], draft.parents, confidences=draft.confidences)

    def fill(self, found: Array, row: Array) -> None:
        known = int(self.theirs.searchsorted(len(row)))  # tokens, in ascending order, with a logit
        found[self.ours[:known]] = row[self.theirs[:known]]

    def our_token(self, token: int) -> int:
        return self.back[token]

    def their_token(self, token: int) -> int:
        return self.spelled[token][0]


class Reencoded(Translation):
    """By way of text: the context is decoded and encoded again for the draft model, its continuation likewise for the target.

    Only text that encodes without changing the tokens before it is drafted. A draft that ends inside a character is cut; a context that
    does is not continued.
    """

    takes_trees = False
    num_unstable = 4

    def __init__(self, ours: Any, theirs: Any, our_size: int):
        self.our_tokenizer, self.their_tokenizer, self.our_size = ours, theirs, our_size
        known = theirs.fast.get_vocab(with_added_tokens=True)
        special = ours.fast.get_added_tokens_decoder()
        self.dropped = {token for token, added in special.items() if added.special and added.content not in known}
        known_here = ours.fast.get_vocab(with_added_tokens=True)
        ends = theirs.fast.get_added_tokens_decoder()
        self.unknown = {token for token, added in ends.items() if added.special and added.content not in known_here}
        self.start = start_tokens(theirs)
        self.recent: deque[tuple[list[int], list[int]]] = deque(maxlen=NUM_RECENT)  # texts in our tokens and in theirs

    def to_draft(self, token_ids: Sequence[int]) -> list[int] | None:
        ours = list(token_ids)
        for known, theirs in reversed(self.recent):
            if len(known) <= len(ours) and known[-1] == ours[len(known) - 1] and known == ours[: len(known)]:
                ids = theirs if len(known) == len(ours) else self._continued(known, theirs, ours[len(known) :])
                break
        else:
            ids = None
        ids = self._whole(ours) if ids is None else ids
        if ids and ours:
            self.recent.append((ours, ids))
        return ids or None

    def _whole(self, token_ids: list[int]) -> list[int] | None:
        """A text's tokens for the draft model; None for a text that ends inside a character."""
        text = self._our_text(token_ids)
        if text.endswith(UNFINISHED):
            return None
        ids: list[int] = self.their_tokenizer.fast.encode(text, add_special_tokens=False).ids
        return ids if ids[: len(self.start)] == self.start else [*self.start, *ids]

    def _continued(self, known: list[int], theirs: list[int], new: list[int]) -> list[int] | None:
        """The tokens of a known text that goes on with `new`: its last ones and what is new are encoded together, in case they merge. None
        if that changes the text too far back."""
        before, after = self._our_text(known[-WINDOW:]), self._our_text([*known[-WINDOW:], *new])
        if not after.startswith(before) or after.endswith(UNFINISHED):
            return None
        for window in (WINDOW, 4 * WINDOW):  # a short one may begin inside a character
            end = theirs[-window:]
            ids: list[int] = self.their_tokenizer.fast.encode(self._said(end) + after[len(before) :], add_special_tokens=False).ids
            if len(self.start) + window < len(theirs) and ids[: window // 2] == end[: window // 2]:
                return [*theirs[:-window], *ids]
        return None

    def _our_text(self, token_ids: list[int]) -> str:
        text: str = self.our_tokenizer.fast.decode([t for t in token_ids if t not in self.dropped], skip_special_tokens=False)
        return text

    def to_target(self, context: Sequence[int], draft_context: Sequence[int], draft: Draft) -> Draft:
        tail = list(draft_context[-WINDOW:])
        before = self._said(tail)
        ends: list[int] = []  # length of the continuation after each token of the draft model
        continuation = ""
        for number, token in enumerate(draft.token_ids, start=1):
            text = self._said([*tail, *draft.token_ids[:number]])
            if token in self.unknown or not text.startswith(before):
                break
            continuation = text[len(before) :]
            ends.append(len(continuation))
        confidences = np.cumprod(draft.confidences[: len(ends)] if draft.confidences else [1.0] * len(ends))
        tokens = self._tokens(context, continuation.rstrip(UNFINISHED))
        return self._with_confidences(tokens, ends, confidences) if tokens else EMPTY_DRAFT

    def _said(self, token_ids: Sequence[int]) -> str:
        text: str = self.their_tokenizer.fast.decode(list(token_ids), skip_special_tokens=False)
        return text

    def _tokens(self, context: Sequence[int], continuation: str) -> list[int]:
        """The target's tokens for this text after the context; none if they would merge with it."""
        stem = self.our_tokenizer.fast.decode(list(context[-WINDOW:]), skip_special_tokens=False)
        before = self.our_tokenizer.fast.encode(stem, add_special_tokens=False).ids
        after = self.our_tokenizer.fast.encode(stem + continuation, add_special_tokens=False).ids
        if after[: len(before)] != before:
            return []
        tokens: list[int] = after[len(before) :]
        return tokens if all(token < self.our_size for token in tokens) else []

    def _with_confidences(self, tokens: list[int], ends: list[int], paths: Array) -> Draft:
        """A token is as likely as all the draft model's tokens up to its end, given that those before it were right. `paths`: confidence
        of the path up to each of them."""
        confidences, last = [], 1.0
        for number in range(1, len(tokens) + 1):
            end = len(self.our_tokenizer.fast.decode(tokens[:number], skip_special_tokens=False))
            reached = min(int(np.searchsorted(ends, end)), len(ends) - 1)
            path = float(paths[reached])
            confidences.append(path / last if last else 0.0)
            last = path
        return Draft(tokens, range(-1, len(tokens) - 1), confidences=confidences)


def translation(ours: Any, theirs: Any, our_size: int, their_size: int, is_shared: bool) -> Translation:
    """The mapping between two tokenizers; `theirs` None means that of the target. Sizes are those of the logits, padding included."""
    if theirs is None:
        return SameVocab(min(our_size, their_size), our_size)
    if ours is None:
        raise BadInputError("draft_model: a draft model with a tokenizer of its own needs the target's tokenizer too")
    same = _common_size(ours, theirs)
    if same is not None:
        return SameVocab(min(our_size, their_size, same), our_size)
    return SharedVocab(ours, theirs, our_size, their_size) if is_shared else Reencoded(ours, theirs, our_size)


def _common_size(ours: Any, theirs: Any) -> int | None:
    """Ids below this mean the same in both tokenizers, if all common ids do; else None. Sizes say nothing: models pad vocabularies."""
    our_texts, their_texts = _texts_by_token(ours), _texts_by_token(theirs)
    if our_texts == their_texts:
        return 1 << 60
    both = our_texts.keys() & their_texts.keys()
    if not both or any(our_texts[token] != their_texts[token] for token in both):
        return None
    return int(min(max(our_texts), max(their_texts))) + 1


def _texts_by_token(tokenizer: Any) -> dict[int, str]:
    return {token: text for text, token in tokenizer.fast.get_vocab(with_added_tokens=True).items()}


def start_tokens(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before every text."""
    plain = tokenizer.fast.encode("a", add_special_tokens=False).ids
    whole: list[int] = tokenizer.fast.encode("a", add_special_tokens=True).ids
    at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return whole[:at]


def token_texts(tokenizer: Any, size: int) -> dict[int, bytes]:
    """token -> its bytes, for ids below `size`; special tokens, whose text is only a name, have a zero byte in front."""
    fast = tokenizer.fast
    special = {token: added.content for token, added in fast.get_added_tokens_decoder().items() if added.special}
    decoder = json.dumps(json.loads(fast.to_str()).get("decoder"))
    byte_of = byte_letters() if "ByteLevel" in decoder else {}
    texts: dict[int, bytes] = {}
    for text, token in fast.get_vocab(with_added_tokens=True).items():
        if token >= size:
            continue
        if token in special:
            texts[token] = b"\0" + special[token].encode()
        elif byte_of and all(letter in byte_of for letter in text):
            texts[token] = bytes(byte_of[letter] for letter in text)
        elif "ByteFallback" in decoder and re.fullmatch("<0x[0-9A-F]{2}>", text):
            texts[token] = bytes([int(text[3:5], 16)])
        else:
            texts[token] = (text.replace("\u2581", " ") if "\\u2581" in decoder or "Metaspace" in decoder else text).encode()
    return texts
