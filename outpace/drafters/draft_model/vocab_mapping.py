"""What two models call the same text: the helper's tokens for the target's context, and the target's tokens for the helper's draft.

Three ways. `SameVocab`: one tokenizer, perhaps padded to different sizes. `SharedVocab`: two tokenizers, where the helper may only say
tokens whose text is a token of the target too (Timor et al. 2502.05202, token-level intersection). `Reencoded`: any two tokenizers by
way of text, chains only. Tokenizers are duck-typed: `fast` is a `tokenizers.Tokenizer`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.byte_letters import byte_letters
from outpace.errors import BadInputError
from outpace.tree.draft import EMPTY_DRAFT, Draft

UNFINISHED = "\ufffd"  # how decoders show bytes that are no character yet
WINDOW = 8  # tokens before the draft that are encoded with it, for merges and leading spaces


class Translation(ABC):
    """Between the tokens of a target and those of a helper."""

    takes_trees = True  # one token of the helper is one token of the target
    num_unsure = 1  # last tokens of the helper's context that are run in every pass: the last one, and those that may still change
    columns: slice | Array = slice(None)  # the helper's tokens that it may say

    @abstractmethod
    def to_helper(self, token_ids: Sequence[int]) -> list[int] | None:
        """The helper's tokens for the target's; None when there are none."""

    @abstractmethod
    def to_target(self, context: Sequence[int], helper_context: Sequence[int], draft: Draft) -> Draft:
        """The helper's draft as one of the target."""

    def token_at(self, columns: Array) -> Array:
        """The helper's tokens in these places of its logits[columns]."""
        return columns if isinstance(self.columns, slice) else self.columns[columns]


class SameVocab(Translation):
    """Equal tokens have equal ids below `size`; what is above, padding or added tokens of one of them, is never said."""

    def __init__(self, size: int):
        self.size, self.columns = size, slice(size)

    def to_helper(self, token_ids: Sequence[int]) -> list[int] | None:
        return list(token_ids) if max(token_ids) < self.size else None

    def to_target(self, context: Sequence[int], helper_context: Sequence[int], draft: Draft) -> Draft:
        return draft


class SharedVocab(Translation):
    """Tokens of equal text stand for each other; other tokens of the context are spelled in the helper's own tokens."""

    def __init__(self, target: Any, helper: Any, target_size: int, helper_size: int):
        ours, theirs = token_texts(target, target_size), token_texts(helper, helper_size)
        by_text = {text: token for token, text in sorted(theirs.items(), reverse=True)}
        equal = {token: by_text[text] for token, text in sorted(ours.items()) if text in by_text}
        if not equal:
            raise BadInputError("draft_model: the two tokenizers have no token in common; leave out vocab=shared")
        back: dict[int, int] = {}
        for token, other in equal.items():
            back.setdefault(other, token)
        self.columns = np.array(sorted(back))
        self.back = back
        self.spelled: dict[int, list[int]] = {token: [other] for token, other in equal.items()}
        self.target, self.helper, self.start = target, helper, start_tokens(helper)

    def to_helper(self, token_ids: Sequence[int]) -> list[int] | None:
        out = list(self.start)
        for token in token_ids:
            if token not in self.spelled:
                text = self.target.fast.decode([token], skip_special_tokens=True)
                self.spelled[token] = self.helper.fast.encode(text, add_special_tokens=False).ids
            out += self.spelled[token]
        return out or None

    def to_target(self, context: Sequence[int], helper_context: Sequence[int], draft: Draft) -> Draft:
        return Draft([self.back[token] for token in draft.token_ids], draft.parents, confidences=draft.confidences)


class Reencoded(Translation):
    """By way of text: the context is decoded and encoded again for the helper, its continuation likewise for the target.

    Only what encodes without changing the tokens before it is drafted; a context or a draft that ends inside a character is cut or not
    continued at all.
    """

    takes_trees = False
    num_unsure = 4

    def __init__(self, target: Any, helper: Any, target_size: int):
        self.target, self.helper, self.target_size = target, helper, target_size
        known = helper.fast.get_vocab(with_added_tokens=True)
        special = target.fast.get_added_tokens_decoder()
        self.dropped = {token for token, added in special.items() if added.special and added.content not in known}
        ours = target.fast.get_vocab(with_added_tokens=True)
        ends = helper.fast.get_added_tokens_decoder()
        self.unknown = {token for token, added in ends.items() if added.special and added.content not in ours}
        self.start = start_tokens(helper)

    def to_helper(self, token_ids: Sequence[int]) -> list[int] | None:
        text = self.target.fast.decode([t for t in token_ids if t not in self.dropped], skip_special_tokens=False)
        if text.endswith(UNFINISHED):
            return None
        ids: list[int] = self.helper.fast.encode(text, add_special_tokens=False).ids
        return ids if ids[: len(self.start)] == self.start and ids else [*self.start, *ids] or None

    def to_target(self, context: Sequence[int], helper_context: Sequence[int], draft: Draft) -> Draft:
        tail = list(helper_context[-WINDOW:])
        before = self._said(tail)
        ends: list[int] = []  # length of the continuation after each of the helper's tokens
        continuation = ""
        for number, token in enumerate(draft.token_ids, start=1):
            text = self._said([*tail, *draft.token_ids[:number]])
            if token in self.unknown or not text.startswith(before):
                break
            continuation = text[len(before) :]
            ends.append(len(continuation))
        confidences = np.cumprod(draft.confidences[: len(ends)] if draft.confidences else [1.0] * len(ends))
        tokens = self._tokens(context, continuation.rstrip(UNFINISHED))
        return self._with_chances(tokens, ends, confidences) if tokens else EMPTY_DRAFT

    def _said(self, token_ids: Sequence[int]) -> str:
        text: str = self.helper.fast.decode(list(token_ids), skip_special_tokens=False)
        return text

    def _tokens(self, context: Sequence[int], continuation: str) -> list[int]:
        """The target's tokens of this text behind the context; none if they would merge with it."""
        stem = self.target.fast.decode(list(context[-WINDOW:]), skip_special_tokens=False)
        before = self.target.fast.encode(stem, add_special_tokens=False).ids
        after = self.target.fast.encode(stem + continuation, add_special_tokens=False).ids
        if after[: len(before)] != before:
            return []
        tokens: list[int] = after[len(before) :]
        return tokens if all(token < self.target_size for token in tokens) else []

    def _with_chances(self, tokens: list[int], ends: list[int], path_chances: Array) -> Draft:
        """A token is as likely as all the helper's tokens up to its end, given that those before it were right."""
        confidences, last = [], 1.0
        for number in range(1, len(tokens) + 1):
            end = len(self.target.fast.decode(tokens[:number], skip_special_tokens=False))
            reached = min(int(np.searchsorted(ends, end)), len(ends) - 1)
            path = float(path_chances[reached])
            confidences.append(path / last if last else 0.0)
            last = path
        return Draft(tokens, range(-1, len(tokens) - 1), confidences=confidences)


def translation(target: Any, helper: Any, target_size: int, helper_size: int, is_shared: bool) -> Translation:
    """The way between two tokenizers; `helper` None means that of the target. Sizes are those of the models' logits, padding included."""
    if helper is None:
        return SameVocab(min(target_size, helper_size))
    if target is None:
        raise BadInputError("draft_model: a helper with a tokenizer of its own needs the target's tokenizer too")
    same = _common_size(target, helper)
    if same is not None:
        return SameVocab(min(target_size, helper_size, same))
    return SharedVocab(target, helper, target_size, helper_size) if is_shared else Reencoded(target, helper, target_size)


def _common_size(target: Any, helper: Any) -> int | None:
    """Ids below this mean the same in both, if all that both have do; else None. Sizes say nothing: models pad their vocabularies."""
    ours, theirs = _texts_by_token(target), _texts_by_token(helper)
    if ours == theirs:
        return 1 << 60
    both = ours.keys() & theirs.keys()
    if not both or any(ours[token] != theirs[token] for token in both):
        return None
    return int(min(max(ours), max(theirs))) + 1


def _texts_by_token(tokenizer: Any) -> dict[int, str]:
    return {token: text for text, token in tokenizer.fast.get_vocab(with_added_tokens=True).items()}


def start_tokens(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before every text."""
    plain = tokenizer.fast.encode("a", add_special_tokens=False).ids
    whole: list[int] = tokenizer.fast.encode("a", add_special_tokens=True).ids
    at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return whole[:at]


def token_texts(tokenizer: Any, size: int) -> dict[int, bytes]:
    """token -> its bytes, for ids below `size`; special tokens are marked by a zero byte in front, for their text is a name."""
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
