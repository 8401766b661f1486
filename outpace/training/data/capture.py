"""Run the target over all texts once and store its hidden states and likeliest tokens on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.progress import meter
from outpace.targets.base import TargetModel, TargetOutput
from outpace.training.data.shards import INDEX, SHARD_BYTES, Index, Origin, add_shard
from outpace.training.data.texts import Text
from outpace.tree.segment import Segment, Slot

NUM_TOP = 8  # likeliest tokens stored per row
MAX_ROWS = 512  # tokens of a forward pass; more are slower
MAX_LOGITS_BYTES = 256 << 20  # of a forward pass
MAX_TEXTS = 16  # in a forward pass

Tensors = dict[str, Array]


def capture(target: TargetModel, texts: Sequence[Text], origin: Origin, folder: Path, shard_bytes: int = SHARD_BYTES) -> Index:
    """Store the rows of all texts in `folder` (see shards.py); resumes an earlier run of the same texts.

    Raises BadInputError if the folder contains rows of another model or other texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = begin(folder, origin, len(texts))
    max_rows, todo = _max_rows(target), texts[index.num_done :]
    num_rows = [text.num_rows for text in todo]
    total = sum(text.num_rows for text in texts)
    first = done = total - sum(num_rows)
    start = time.monotonic()
    with meter("hidden states", total, done) as show:
        for shard in _groups(todo, num_rows, shard_bytes // (origin.hidden_size * 2 + 4 + NUM_TOP * 6)):
            parts = []
            for group in _pass_groups(shard, max_rows):
                parts.append(run(target, group, max_rows))
                done += len(parts[-1]["tokens"])
                show(done, f"{done:,} rows, {(done - first) / (time.monotonic() - start):.0f} rows/s")
            tensors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            index = add_shard(folder, index, [(text.id, text.num_rows, len(text.prompt_ids) - 1) for text in shard], tensors)
    return index


def begin(folder: Path, origin: Origin, num_texts: int) -> Index:
    """Load the index of a folder, or create one if it has none. Raises BadInputError if it belongs to another model or other texts."""
    if not (folder / INDEX).exists():
        return Index(origin, num_texts)
    index = Index.load(folder)
    for name, value in vars(origin).items():
        if (found := getattr(index.origin, name)) != value:
            raise BadInputError(f"the rows in {folder} have another {name.replace('_', ' ')}: {found}, not {value}; choose another --out")
    return index


def run(target: TargetModel, texts: Sequence[Text], max_rows: int) -> Tensors:
    """The rows of one text, or of several with at most `max_rows` rows in total, in order, as the tensors of a shard."""
    whole = [[*text.prompt_ids, *text.token_ids] for text in texts]
    slots: list[Slot] = []
    try:
        slots += [target.allocate(len(tokens)) for tokens in whole]
        parts = [_kept(output) for output in _passes(target, slots, [tokens[:-1] for tokens in whole], max_rows)]
    finally:
        for slot in slots:
            target.free(slot)
    tensors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tensors["tokens"] = np.array([token for tokens in whole for token in tokens[1:]], np.int32)
    tensors["first_tokens"] = np.array([tokens[0] for tokens in whole], np.int32)
    return tensors


def _passes(target: TargetModel, slots: Sequence[Slot], sequences: Sequence[Sequence[int]], max_rows: int) -> Iterator[TargetOutput]:
    """Fill every slot with its sequence, at most `max_rows` tokens of it per forward pass."""
    for start in range(0, max(map(len, sequences)), max_rows):
        pieces = [(slot, sequence[start : start + max_rows]) for slot, sequence in zip(slots, sequences, strict=True)]
        batch = [Segment(slot, piece) for slot, piece in pieces if piece]
        yield target.forward(batch)
        for segment in batch:
            target.accept(segment.slot, segment.token_ids, range(len(segment)))


def _kept(output: TargetOutput) -> Tensors:
    """Copy what is stored of a forward pass with hidden states [n, H] and logits [n, V]."""
    assert output.hidden is not None
    scores = torch.tensor(output.logits)  # a copy: the target lends its memory read-only
    top = scores.topk(min(NUM_TOP, scores.shape[1]))
    logprobs = top.values - scores.logsumexp(1, keepdim=True)
    return {
        "hidden": output.hidden.astype(np.float16),
        "top_ids": top.indices.numpy().astype(np.int32),
        "top_logprobs": logprobs.numpy().astype(np.float16),
    }


def _max_rows(target: TargetModel) -> int:
    """Maximum number of tokens of a forward pass, which bounds the size of its logits."""
    return max(2, min(MAX_ROWS, MAX_LOGITS_BYTES // (4 * target.capabilities.vocab_size)))


def _pass_groups(texts: Sequence[Text], max_rows: int) -> Iterator[list[Text]]:
    """Texts that share a forward pass: at most MAX_TEXTS with at most `max_rows` rows, unless a single text has more."""
    for group in _groups(texts, [text.num_rows for text in texts], max_rows):
        yield from (group[start : start + MAX_TEXTS] for start in range(0, len(group), MAX_TEXTS))


def _groups(texts: Sequence[Text], lengths: Sequence[int], limit: int) -> Iterator[list[Text]]:
    """Groups of consecutive texts whose lengths add up to at most `limit`; a longer text is a group by itself."""
    group: list[Text] = []
    total = 0
    for text, length in zip(texts, lengths, strict=True):
        if group and total + length > limit:
            yield group
            group, total = [], 0
        group.append(text)
        total += length
    if group:
        yield group
