"""Texts to train on: reading, truncation, removal of looping texts, and the split into a training and a held-out part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outpace.bench.workloads import messages_of, read_rows
from outpace.errors import BadInputError
from outpace.files import read_text
from outpace.models.tokenizer import Tokenizer

MAX_FILE_BYTES = 4 << 30
JSON_LINES = (".jsonl", ".ndjson")  # every other file is plain text
HELD_OUT_SHARE = 0.05
LOOP_NGRAM = 4  # tokens
LOOP_SHARE = 0.4  # an answer loops if a smaller share of its n-grams is distinct
LOOP_MIN_TOKENS = 32  # shorter answers are not checked


@dataclass(frozen=True)
class Prompt:
    """A conversation to answer. `prompt_ids` are its tokens, up to the start of the answer."""

    id: str
    messages: list[dict[str, str]]
    prompt_ids: list[int]


@dataclass(frozen=True)
class Text:
    """A prompt (at least one token) and its answer, in tokens of the target."""

    id: str
    prompt_ids: list[int]
    token_ids: list[int]

    @property
    def num_rows(self) -> int:
        """Number of tokens that are followed by another one."""
        return len(self.prompt_ids) + len(self.token_ids) - 1


@dataclass(frozen=True)
class Counts:
    """Numbers of texts of a file that were kept and dropped."""

    num_kept: int
    num_looping: int
    num_short: int
    num_long: int

    @property
    def line(self) -> str:
        """The counts as a sentence."""
        return f"{self.num_kept} texts; dropped: {self.num_looping} looping, {self.num_short} too short, {self.num_long} too long"


def read_prompts(path: Path, tokenizer: Tokenizer) -> list[Prompt]:
    """Read the prompts of a file: JSON lines, without a final assistant message, or the paragraphs of a plain text.

    Raises BadInputError naming the line.
    """
    if path.suffix in JSON_LINES:
        found = [(str(row.get("id", row.get("question_id", number))), _asked(row, where)) for where, number, row in _rows(path)]
    else:
        paragraphs = [part.strip() for part in _text_of(path).split("\n\n") if part.strip()]
        found = [(str(number), [{"role": "user", "content": part}]) for number, part in enumerate(paragraphs, 1)]
    if not found:
        raise BadInputError(f"{path} has no prompts")
    names = _distinct([name for name, _ in found])
    return [Prompt(name, messages, tokenizer.encode_chat(messages)) for name, (_, messages) in zip(names, found, strict=True)]


def read_texts(path: Path, tokenizer: Tokenizer, vocab_size: int, max_tokens: int) -> list[Text]:
    """Read the texts of a file with answers, each truncated to `max_tokens` answer tokens. Raises BadInputError naming the line.

    JSON lines have `prompt_ids` and `token_ids`, `messages` that end with the assistant's, `prompt` and `completion`, or `text`.
    Any other file is one plain text, which is cut into pieces.
    """
    if path.suffix in JSON_LINES:
        texts = [text for where, number, row in _rows(path) for text in _texts_of(row, where, number, tokenizer, max_tokens)]
    else:
        texts = _pieces(path.name, tokenizer.encode(_text_of(path), add_special_tokens=False), max_tokens)
    names = _distinct([text.id for text in texts])
    texts = [Text(name, text.prompt_ids, text.token_ids[:max_tokens]) for name, text in zip(names, texts, strict=True)]
    for text in texts:
        if not text.prompt_ids or not 0 <= min(text.prompt_ids + text.token_ids) <= max(text.prompt_ids + text.token_ids) < vocab_size:
            raise BadInputError(f"{path}: text {text.id!r} has no prompt, or a token outside this model's vocabulary of {vocab_size}")
    return texts


def choose(texts: Sequence[Text], max_len: int) -> tuple[list[Text], Counts]:
    """Select the texts to train on, in an order that depends on their ids alone. `max_len`: longest sequence of the target, in tokens.

    Raises BadInputError if fewer than two are left: one to train on and one to measure with.
    """
    long = {text.id for text in texts if len(text.prompt_ids) + len(text.token_ids) > max_len}
    short = {text.id for text in texts if len(text.token_ids) < 2}
    looping = {text.id for text in texts if is_repetitive(text.token_ids)} - long
    kept = sorted((text for text in texts if text.id not in long | short | looping), key=lambda text: (_hash(text.id), text.id))
    counts = Counts(len(kept), len(looping), len(short - long), len(long))
    if len(kept) < 2:
        raise BadInputError(f"too little to train on: {counts.line}")
    return kept, counts


def is_repetitive(token_ids: Sequence[int]) -> bool:
    """Whether this answer repeats itself: less than LOOP_SHARE of its 4-grams are distinct."""
    num_ngrams = len(token_ids) - LOOP_NGRAM + 1
    if len(token_ids) < LOOP_MIN_TOKENS:
        return False
    distinct = {tuple(token_ids[i : i + LOOP_NGRAM]) for i in range(num_ngrams)}
    return len(distinct) < LOOP_SHARE * num_ngrams


def held_out(ids: Sequence[str]) -> set[str]:
    """The ids of the held-out part, at least one. Whether an id belongs to it does not depend on the other data."""
    return {name for name in ids if _hash(name) < HELD_OUT_SHARE} or {min(ids, key=_hash)}


def digest(texts: Sequence[Text]) -> str:
    """Hash of these texts in this order, 16 hex digits."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(repr((text.id, text.prompt_ids, text.token_ids)).encode())
    return whole.hexdigest()[:16]


def _hash(name: str) -> float:
    """A pseudo-random number from 0 to 1 that depends on the id alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / (1 << 64)


def _rows(path: Path) -> list[tuple[str, int, dict[str, Any]]]:
    _check(path)
    return read_rows(path)


def _text_of(path: Path) -> str:
    _check(path)
    text = read_text(path)
    if not text.strip():
        raise BadInputError(f"{path} is empty")
    return text


def _check(path: Path) -> None:
    if not path.is_file():
        raise BadInputError(f"there is no file {path}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadInputError(f"{path} is larger than {MAX_FILE_BYTES >> 30} GiB; split it")


def _asked(row: dict[str, Any], where: str) -> list[dict[str, str]]:
    """The conversation up to the answer."""
    messages = messages_of(row, where)
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    if not asked:
        raise BadInputError(f"{where}: there is an answer but no prompt")
    return asked


def _texts_of(row: dict[str, Any], where: str, number: int, tokenizer: Tokenizer, max_tokens: int) -> list[Text]:
    """The texts of one line of a file with answers. Raises BadInputError."""
    name = str(row.get("id", number))
    if "token_ids" in row or "prompt_ids" in row:
        return [Text(name, _token_ids(row, "prompt_ids", where), _token_ids(row, "token_ids", where))]
    if isinstance(row.get("text"), str):
        return _pieces(name, tokenizer.encode(row["text"], add_special_tokens=False), max_tokens)
    messages = messages_of(row, where)
    if isinstance(row.get("completion"), str):
        messages = [*messages, {"role": "assistant", "content": row["completion"]}]
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise BadInputError(f"{where}: there is no answer; use --generate to let the model write it")
    answer = tokenizer.encode(messages[-1]["content"], add_special_tokens=False)
    return [Text(name, tokenizer.encode_chat(messages[:-1]), answer)]


def _pieces(name: str, token_ids: Sequence[int], max_tokens: int) -> list[Text]:
    """Cut a plain text into pieces of one token, which serves as the prompt, and `max_tokens` further tokens."""
    pieces = [list(token_ids[start : start + max_tokens + 1]) for start in range(0, len(token_ids), max_tokens + 1)]
    return [Text(f"{name}-{number}", piece[:1], piece[1:]) for number, piece in enumerate(pieces)]


def _token_ids(row: dict[str, Any], key: str, where: str) -> list[int]:
    value = row.get(key)
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise BadInputError(f"{where}: {key} must be a list of token ids")
    return value


def _distinct(names: Sequence[str]) -> list[str]:
    """The same names, with the index in the list appended to each repetition."""
    seen: set[str] = set()
    distinct = []
    for place, name in enumerate(names):
        distinct.append(f"{name}#{place}" if name in seen else name)
        seen.add(distinct[-1])
    return distinct
