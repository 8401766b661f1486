"""The model that vLLM serves, as drafters see it: its sizes, and its identity, which is read from the checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.targets.base import Capabilities, TargetModel, TargetOutput
from outpace.targets.identity import NUM_SAMPLES, Base, fingerprint_of_samples
from outpace.tree.segment import Slot, TreeBatch

MAX_HEADER_BYTES = 100_000_000  # of a safetensors file


class ServedModel(TargetModel):
    """A model that runs in vLLM: drafters may ask what it is, but not run it."""

    def __init__(self, vocab_size: int, max_len: int, base: Base | None):
        self.capabilities = Capabilities(tree=True, vocab_size=vocab_size, max_len=max_len)  # of a tree the best chain is used
        self.base = base

    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int] = (), cache_salt: str = "") -> Slot:
        raise _not_here()

    def extend(self, slot: Slot, num_tokens: int) -> None:
        raise _not_here()

    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        raise _not_here()

    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        raise _not_here()

    def free(self, slot: Slot) -> None:
        raise _not_here()


def _not_here() -> OutpaceError:
    return OutpaceError("this model runs in vLLM; only drafters that need no forward pass of it work there")


def base_of_checkpoint(folder: Path, name: str) -> Base | None:
    """The identity of a model from its safetensors files, of which a few values are read: the same as `base_of` of the loaded model. None
    if there are no such files, or if they are quantised."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        tensors = dict(item for file in sorted(folder.glob("*.safetensors")) for item in _samples(file))
    except (OSError, ValueError, KeyError, BadInputError):
        return None
    if not isinstance(config, dict):
        return None
    embeddings = [shape for tensor, (shape, _) in tensors.items() if tensor.endswith("embed_tokens.weight")]
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)  # the same parameter
    if len(embeddings) != 1 or len(embeddings[0]) != 2:
        return None
    vocab_size, hidden_size = embeddings[0]
    return Base(name, fingerprint_of_samples((name, shape, samples) for name, (shape, samples) in tensors.items()), hidden_size, vocab_size)


def _samples(file: Path) -> Iterator[tuple[str, tuple[tuple[int, ...], Array]]]:
    """(name, (shape, evenly spread values as float32)) of the parameters in a safetensors file. Raises BadInputError for other types."""
    with file.open("rb") as start:
        size = int.from_bytes(start.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise BadInputError(f"{file} is no safetensors file")
        header: dict[str, Any] = json.loads(start.read(size))
    data = np.memmap(file, np.uint8, "r", offset=8 + size)
    for name, entry in header.items():
        if name == "__metadata__" or name.endswith("inv_freq"):  # a buffer in old checkpoints
            continue
        if entry["dtype"] not in ("F32", "F16", "BF16"):
            raise BadInputError(f"{file}: {name} has the type {entry['dtype']}")
        begin, end = entry["data_offsets"]
        values = data[begin:end].view({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[entry["dtype"]])
        values = np.asarray(values[:: -(-len(values) // NUM_SAMPLES)])
        floats = (values.astype(np.uint32) << 16).view(np.float32) if entry["dtype"] == "BF16" else values.astype(np.float32)
        yield name, (tuple(entry["shape"]), floats)
