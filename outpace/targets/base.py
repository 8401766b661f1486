"""The face of a target model: given tokens, positions and who sees whom, what are the logits?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.targets.identity import Base
from outpace.targets.low_rank import LowRank
from outpace.tree.segment import Slot, TreeBatch


@dataclass(frozen=True)
class Capabilities:
    """What a target can do, or what a drafter needs of it. Code branches on these, never on names."""

    tree: bool = False  # rows of one sequence may form a tree, not only a chain
    hidden: bool = False  # forward() also returns hidden states
    lookahead: bool = False  # rows that are never accepted may ride along
    exact_trees: bool = True  # a row's bits do not depend on where in the pass its ancestors stand
    vocab_size: int = 0
    max_len: int = 0  # longest sequence, in tokens
    num_vectors: int = 0  # vectors of helpers that probes may have as input; their ids follow those of the vocabulary


@dataclass(frozen=True)
class LMHead:
    """The last step of a target, from a hidden state to logits, in the form its backend works with: a matrix [V, H] for numpy, a module
    for torch, a model [1, rows, H] -> [1, rows, V] for openvino. Whoever takes an openvino model may change it. `threads` is how many
    the target was told to use, None for as many as it likes."""

    backend: str
    module: Any
    vocab_size: int
    threads: int | None = None


@dataclass(frozen=True)
class Embeddings:
    """The first step of a target, from token ids to what its first layer reads, in the form its backend works with: a matrix [V, H] for
    numpy, a module for torch, a model [B, rows] int64 -> [B, rows, H] for openvino, which whoever takes it may change."""

    module: Any


@dataclass(frozen=True)
class TargetOutput:
    """Outputs of the rows of all segments with `wants_output`, in order. Valid until the next forward().

    logits [rows, V] float32; hidden [rows, H] (the final norm's output) or None. `token_ids` are the rows' tokens where the engine
    hands one request's rows to its drafter. prompt_hidden [rows, H]: the hidden states of the segments with `wants_hidden`, in order;
    None where no segment has it.
    """

    logits: Array
    hidden: Array | None = None
    token_ids: Sequence[int] = ()
    prompt_hidden: Array | None = None


class OutOfSlots(Exception):
    """No room for another sequence right now; try again when one has been freed."""


class TargetModel(ABC):
    """A causal language model with a K/V cache that can keep some of the rows it has just run.

    Rows of a pass: `num_cached` rows are in the slot, the segment's rows come after them. After forward() the caller names
    the survivors by keep(); the others are gone. A segment's rows see the cached prefix and their ancestors, nothing else.
    """

    capabilities: Capabilities
    max_cached_tokens: int = 1 << 60  # cache rows that the largest slot can have, drafts included
    fingerprint: str = ""  # names model, settings and versions, so that measurements can be kept; "" keeps none
    base: Base | None = None  # the model it runs, for trained helpers; None where they cannot be used

    @property
    def kv_usage(self) -> float:
        """Share of the K/V cache that requests hold, 0 to 1; 0 where the cache has no fixed size."""
        return 0.0

    @abstractmethod
    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int] = ()) -> Slot:
        """A slot with room for `num_tokens` rows. Its `num_cached` may be above 0 where a prefix of the prompt is already stored
        (never the whole prompt: its last token is always run). Raises OutOfSlots."""

    @abstractmethod
    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        """Run all segments in one pass. `num_tokens` is a wish: where a change of width costs time, pad to at least so many rows."""

    @abstractmethod
    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        """Of the slot's rows just run, `nodes` (ascending) survive, in order; `token_ids` are their tokens."""

    @abstractmethod
    def free(self, slot: Slot) -> None:
        """Give the slot back."""

    def add_vectors(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        """Take vectors [n, H] float32 of a helper, to be the input of rows in place of tokens, and weights that act on these rows alone;
        returns the id of the first one, the others follow it. Ids lie behind the vocabulary; the same vectors keep theirs. Raises
        BadInputError where there is no room for them or no place for such weights."""
        raise BadInputError("this target takes no vectors in place of tokens")

    def lm_head(self) -> LMHead:
        """What turns the hidden states of TargetOutput into logits, for helpers that share it. Raises BadInputError where there is none."""
        raise BadInputError("this target does not lend its LM head")

    def embeddings(self) -> Embeddings:
        """What turns token ids into the vectors that the first layer reads, for helpers that share it. Raises BadInputError where there
        is none."""
        raise BadInputError("this target does not lend its embeddings")
