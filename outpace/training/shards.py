"""Captured rows on disk: shards of bounded size, an index that names only whole ones, and reading them as one long table.

A shard is a safetensors file: hidden [n, H] float16, tokens [n] int32 (what the text has after the row), top_ids [n, T] int32 and
top_logprobs [n, T] float16 (the target's likeliest next tokens, best first). The rows of a text are the last one of its prompt and those of
its answer but the last, so row i of a text is followed by token i of the answer. prompt_ends [texts, 2] int32: the last two tokens of each
prompt, -1 for what is not there; shards of earlier versions lack it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from outpace.core import Array
from outpace.errors import BadInputError
from outpace.shell import write_whole

INDEX = "index.json"
FORMAT = 1
SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class Origin:
    """What the rows were captured from. `target` names model, precision and settings; `data` the texts and their order."""

    name: str
    fingerprint: str
    target: str
    hidden_size: int
    vocab_size: int
    data: str


@dataclass(frozen=True)
class Index:
    """The whole shards of a folder. `texts[i]`: (id, number of rows) of the texts in shard i."""

    origin: Origin
    num_texts: int
    texts: list[list[tuple[str, int]]] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """Texts whose rows are on disk."""
        return sum(len(texts) for texts in self.texts)

    @property
    def is_complete(self) -> bool:
        """Are all texts captured?"""
        return self.num_done == self.num_texts

    def save(self, folder: Path) -> None:
        """Write the index whole, or leave the old one."""
        write_whole(folder / INDEX, json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Raises BadInputError when there is none or it cannot be understood."""
        try:
            document: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
            if document.pop("format") != FORMAT:
                raise BadInputError(f"the captured rows in {folder} are of another version of outpace; capture them anew")
            texts = [[(str(name), int(count)) for name, count in shard] for shard in document["texts"]]
            return cls(Origin(**document["origin"]), int(document["num_texts"]), texts)
        except OSError as error:
            raise BadInputError(f"there are no captured rows in {folder}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(f"{folder / INDEX} is damaged; delete the folder to capture the rows anew") from error


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05d}.safetensors"


def add_shard(folder: Path, index: Index, texts: Sequence[tuple[str, int]], tensors: dict[str, Array]) -> Index:
    """Write one more shard, then the index that names it."""
    path = shard_path(folder, len(index.texts))
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))
    temporary.replace(path)
    index = replace(index, texts=[*index.texts, list(texts)])
    index.save(folder)
    return index


class Rows:
    """All rows of a folder as one table. Hidden states stay on disk and are read where needed.

    tokens [N] int32 is what follows each row; text i has the rows starts[i] to starts[i + 1] - 1, and its prompt ended with prompt_ends[i],
    two tokens, -1 where not known. Raises BadInputError for damaged shards.
    """

    def __init__(self, folder: Path):
        self.folder, self.index = folder, Index.load(folder)
        if not self.index.is_complete or not self.index.num_texts:
            raise BadInputError(f"{folder} has the rows of {self.index.num_done} of {self.index.num_texts} texts; finish it with --resume")
        texts = list(itertools.chain(*self.index.texts))
        self.ids = [name for name, _ in texts]
        self.starts = np.cumsum([0, *(count for _, count in texts)])
        parts: list[Array] = []
        best: list[Array] = []
        ends: list[Array] = []
        self._hidden: list[torch.Tensor] = []
        for number, shard in enumerate(self.index.texts):
            hidden, tokens, top, prompts = _read(shard_path(folder, number), len(shard))
            shapes = (len(tokens), self.index.origin.hidden_size), (len(shard), 2)
            if tokens.shape != (sum(count for _, count in shard),) or (hidden.shape, prompts.shape) != shapes:
                raise BadInputError(f"{shard_path(folder, number)} is damaged; delete the folder to capture the rows anew")
            self._hidden.append(hidden)
            parts.append(tokens)
            best.append(top)
            ends.append(prompts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.tokens, self.best, self.prompt_ends = np.concatenate(parts), np.concatenate(best), np.concatenate(ends)

    def __len__(self) -> int:
        return len(self.tokens)

    def hidden(self, rows: Array) -> torch.Tensor:
        """[len(rows), H] float16, in the order of `rows`."""
        order = np.argsort(rows, kind="stable")
        found = torch.empty(len(rows), self.index.origin.hidden_size, dtype=torch.float16)
        shards = np.searchsorted(self._ends, rows[order], side="right")
        for shard in np.unique(shards):
            chosen = order[shards == shard]
            start = 0 if shard == 0 else self._ends[shard - 1]
            found[torch.from_numpy(chosen)] = self._hidden[shard][torch.from_numpy(rows[chosen] - start)]
        return found

    def likeliest(self) -> Iterator[tuple[Array, Array]]:
        """Shard by shard (top_ids [n, T], top_logprobs [n, T]): the target's likeliest next tokens of all rows, best first."""
        for number in range(len(self.index.texts)):
            with safe_open(shard_path(self.folder, number), framework="np") as file:
                yield file.get_tensor("top_ids"), file.get_tensor("top_logprobs")

    def labels(self, rows: Array, distance: int) -> Array:
        """[len(rows)] int64: the token `distance` places after the one that follows each row, -1 behind the end of the text."""
        text = np.searchsorted(self.starts, rows, side="right")  # the end of a row's text is starts[text]
        wanted = rows + distance
        inside = wanted < self.starts[text]
        return np.where(inside, self.tokens[np.where(inside, wanted, 0)], -1).astype(np.int64)


def _read(path: Path, num_texts: int) -> tuple[torch.Tensor, Array, Array, Array]:
    """(hidden states, mapped from disk; next tokens; the target's likeliest tokens; ends of the prompts). Raises BadInputError."""
    try:
        with safe_open(path, framework="pt") as file:
            is_old = "prompt_ends" not in file.keys()  # noqa: SIM118, it is no mapping
            ends = np.full((num_texts, 2), -1, np.int32) if is_old else file.get_tensor("prompt_ends").numpy()
            return file.get_tensor("hidden"), file.get_tensor("tokens").numpy(), file.get_slice("top_ids")[:, 0].numpy(), ends
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path} is missing or damaged; delete its folder to capture the rows anew") from error
