"""Captured rows on disk: shards of bounded size, an index that names only complete shards, and a reader that joins them into one table.

A text of P prompt and A answer tokens has P + A - 1 rows, one for each token but the last. A shard is a safetensors file: hidden [n, H]
float16, tokens [n] int32 (the token after each row), top_ids [n, T] int32 and top_logprobs [n, T] float16 (the target's likeliest next
tokens, best first), and first_tokens [texts] int32. The rows of the answer begin with the last one of the prompt: row i of them is
followed by token i of the answer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.files import replacing, write_whole

INDEX = "index.json"
FORMAT = 2
SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class Origin:
    """The source of the rows. `target` identifies model, precision and settings; `data` the texts and their order."""

    name: str
    fingerprint: str
    target: str
    hidden_size: int
    vocab_size: int
    data: str


@dataclass(frozen=True)
class Index:
    """The complete shards of a folder. `texts[i]`: (id, number of rows, number of rows before those of the answer) of the texts in shard
    i."""

    origin: Origin
    num_texts: int
    texts: list[list[tuple[str, int, int]]] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """Number of texts whose rows are on disk."""
        return sum(len(texts) for texts in self.texts)

    @property
    def is_complete(self) -> bool:
        """Whether all texts are captured."""
        return self.num_done == self.num_texts

    def save(self, folder: Path) -> None:
        """Write the index atomically; a crash leaves the old one."""
        write_whole(folder / INDEX, json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read the index of a folder. Raises BadInputError if it is missing, damaged or of another version."""
        try:
            document: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
            if document.pop("format") != FORMAT:
                raise BadInputError(f"the captured rows in {folder} are from another version of outpace; capture them again")
            texts = [[(str(name), int(rows), int(before)) for name, rows, before in shard] for shard in document["texts"]]
            return cls(Origin(**document["origin"]), int(document["num_texts"]), texts)
        except OSError as error:
            raise BadInputError(f"there are no captured rows in {folder}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(f"{folder / INDEX} is damaged; delete the folder to capture the rows again") from error


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05d}.safetensors"


def add_shard(folder: Path, index: Index, texts: Sequence[tuple[str, int, int]], tensors: dict[str, Array]) -> Index:
    """Write a shard, then the index that names it."""
    for stale in folder.glob(".shard-*.tmp"):  # left by a killed process
        stale.unlink()
    with replacing(shard_path(folder, len(index.texts))) as written:
        written.write_bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))
    index = replace(index, texts=[*index.texts, list(texts)])
    index.save(folder)
    return index


class Rows:
    """All rows of a folder as one table. Hidden states stay on disk and are read when needed.

    inputs [N] int32 is the token of each row, tokens [N] int32 the token after it. Text i has the rows starts[i] to starts[i + 1] - 1; the
    rows of its answer begin at answers[i]. Raises BadInputError for damaged or incomplete shards.
    """

    def __init__(self, folder: Path):
        self.folder, self.index = folder, Index.load(folder)
        if not self.index.is_complete or not self.index.num_texts:
            raise BadInputError(f"{folder} has the rows of {self.index.num_done} of {self.index.num_texts} texts; finish it with --resume")
        self.ids, counts, befores = zip(*itertools.chain(*self.index.texts), strict=True)
        self.starts = np.cumsum([0, *counts])
        self.answers = self.starts[:-1] + np.array(befores)
        shards = [self._read(number) for number in range(len(self.index.texts))]
        self._hidden = [shard.hidden for shard in shards]
        self._ends = np.cumsum([len(shard.tokens) for shard in shards])
        self.tokens, self.best = (np.concatenate([getattr(shard, name) for shard in shards]) for name in ("tokens", "best"))
        self.inputs = np.concatenate([[0], self.tokens[:-1]]).astype(np.int32)
        self.inputs[self.starts[:-1]] = np.concatenate([shard.first_tokens for shard in shards])

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_answer_tokens(self) -> int:
        """Number of rows that are followed by a token of an answer."""
        return int((self.starts[1:] - self.answers).sum())

    def _read(self, number: int) -> _Shard:
        """Read a shard. Raises BadInputError if it does not match the index."""
        texts, path = self.index.texts[number], shard_path(self.folder, number)
        shard = _read(path)
        shapes = (len(shard.tokens), self.index.origin.hidden_size), (len(texts),)
        if shard.tokens.shape != (sum(count for _, count, _ in texts),) or (shard.hidden.shape, shard.first_tokens.shape) != shapes:
            raise BadInputError(f"{path} is damaged; delete the folder to capture the rows again")
        return shard

    def hidden(self, rows: Array) -> torch.Tensor:
        """Hidden states [len(rows), H] float16, in the order of `rows`."""
        order = np.argsort(rows, kind="stable")
        found = torch.empty(len(rows), self.index.origin.hidden_size, dtype=torch.float16)
        shards = np.searchsorted(self._ends, rows[order], side="right")
        for shard in np.unique(shards):
            chosen = order[shards == shard]
            start = 0 if shard == 0 else self._ends[shard - 1]
            found[torch.from_numpy(chosen)] = self._hidden[shard][torch.from_numpy(rows[chosen] - start)]
        return found

    def likeliest(self) -> Iterator[tuple[Array, Array]]:
        """The target's likeliest next tokens of all rows, best first, shard by shard: (top_ids [n, T], top_logprobs [n, T])."""
        for number in range(len(self.index.texts)):
            with safe_open(shard_path(self.folder, number), framework="np") as file:
                yield file.get_tensor("top_ids"), file.get_tensor("top_logprobs")

    def labels(self, rows: Array, distance: int) -> Array:
        """[len(rows)] int64: the token `distance` positions after the one that follows each row, -1 after the end of the text."""
        text = np.searchsorted(self.starts, rows, side="right")  # the end of a row's text is starts[text]
        wanted = rows + distance
        inside = wanted < self.starts[text]
        return np.where(inside, self.tokens[np.where(inside, wanted, 0)], -1).astype(np.int64)


class _Shard(NamedTuple):
    """Hidden states, mapped from disk; next tokens; the target's likeliest next tokens; the first token of each text."""

    hidden: torch.Tensor
    tokens: Array
    best: Array
    first_tokens: Array


def _read(path: Path) -> _Shard:
    """Read a shard. Raises BadInputError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tokens, firsts = (file.get_tensor(name).numpy() for name in ("tokens", "first_tokens"))
            return _Shard(file.get_tensor("hidden"), tokens, file.get_slice("top_ids")[:, 0].numpy(), firsts)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path} is missing or damaged; delete its folder to capture the rows again") from error
