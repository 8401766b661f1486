"""The interface of a target model: it turns tokens, positions and attention masks into logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.targets.identity import Base
from outpace.targets.low_rank import LowRank
from outpace.tree.segment import Slot, TreeBatch


@dataclass(frozen=True)
class Capabilities:
    """What a target can do, or what a drafter requires of its target. Code branches on these fields, never on names."""

    tree: bool = False  # the tokens of one sequence may form a tree, not only a chain
    hidden: bool = False  # forward() also returns hidden states
    lookahead: bool = False  # a forward pass may include lookahead tokens, which are never accepted
    exact_logits: bool = False  # measured: a token right behind its ancestors has the same bits in every forward pass
    exact_trees: bool = False  # measured: it has them wherever its ancestors stand in the forward pass
    draws: bool = False  # forward() also draws the tokens after those of segments with `drawing`
    vocab_size: int = 0
    max_len: int = 0  # longest sequence, in tokens
    max_tokens: int = 0  # of one sequence in a forward pass; more take several of them; 0: any number
    num_vectors: int = 0  # trained vectors that lookahead tokens may have as input; their ids follow the vocabulary
    num_frequent: int = 0  # the first tokens of the vocabulary, whose logits forward_frequent() returns alone; 0: those of all

    @property
    def confirms_branches(self) -> bool:
        """Whether tokens accepted on a side branch are run again behind their ancestors, where their bits are certain."""
        return self.exact_logits and not self.exact_trees


# (key, function of tensors, arrays by the names of its arguments) -> its results, valid until the next call; see targets/hf/graph_runner.py
Run = Callable[[Hashable, Callable[..., tuple[Any, ...]], Mapping[str, Array]], tuple[Any, ...]]


@dataclass(frozen=True)
class LMHead:
    """The LM head of a target, which maps a hidden state to logits, in the form of its backend.

    `module` is a matrix [V, H] for numpy, a module for torch, a model [1, n, H] -> [1, n, V] for openvino; the caller owns the openvino
    model and may change it. `threads` is the number of threads the target was told to use; None leaves it to the backend. `run`: how torch
    heads run functions of arrays, as captured CUDA graphs for example; None: directly.
    """

    backend: str
    module: Any
    vocab_size: int
    threads: int | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of a target, which map token ids to the input of its first layer, in the form of its backend.

    `module` is a matrix [V, H] for numpy, a module for torch, a model [B, n] int64 -> [B, n, H] for openvino; the caller owns the openvino
    model and may change it.
    """

    module: Any


@dataclass(frozen=True)
class TargetOutput:
    """Outputs for the tokens of all segments with `wants_output`, in order. Valid until the next forward().

    logits [n, V] float32; hidden [n, H], the output of the final norm, or None. `token_ids` [n] are the tokens themselves, set when the
    engine passes one request's outputs to its drafter. prompt_hidden [m, H]: the hidden states of the segments with `wants_hidden`, in
    order; None if there is no such segment. draws [n]: the tokens drawn, -1 where the target leaves it to the sampler; `logits` may then
    stay on a device until they are read.
    """

    logits: Array
    hidden: Array | None = None
    token_ids: Sequence[int] = ()
    prompt_hidden: Array | None = None
    draws: Array | None = None


@dataclass(frozen=True)
class KVUse:
    """The K/V cache: tokens that requests hold, and the bytes of memory it takes, with the largest possible values (0: no limit)."""

    num_tokens: int = 0
    max_tokens: int = 0
    num_bytes: int = 0
    max_bytes: int = 0

    @property
    def share(self) -> float:
        """Share of the tokens that are held, 0 to 1; 0 without a limit."""
        return self.num_tokens / self.max_tokens if self.max_tokens else 0.0


class OutOfSlots(Exception):
    """The K/V cache has no room for another sequence now; retry after free()."""


class TargetModel(ABC):
    """A causal language model with a K/V cache that can keep some of the tokens it has just run and drop the others.

    In a forward pass the tokens of a segment follow the `num_cached` tokens of its slot. Each attends to the cached prefix, to its
    ancestors and to itself. After forward() the caller names the tokens to keep with accept(); the K/V of the others is dropped.
    """

    capabilities: Capabilities
    max_cached_tokens: int = 1 << 60  # tokens that the largest slot can cache, drafts included
    fingerprint: str = ""  # identifies model, settings and versions as a key for stored measurements; "" stores none
    base: Base | None = None  # identity of the model, which trained heads must match; None if it takes no heads

    @property
    def kv_use(self) -> KVUse:
        """How full the K/V cache is."""
        return KVUse()

    @abstractmethod
    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int] = (), cache_salt: str = "") -> Slot:
        """Reserve a slot with room for `num_tokens` tokens. Its `num_cached` is above 0 if the K/V of a prefix of the prompt is already
        stored by a slot of the same `cache_salt`; the last prompt token is always run. Raises OutOfSlots."""

    @abstractmethod
    def extend(self, slot: Slot, num_tokens: int) -> None:
        """Give a slot room for `num_tokens` tokens in all. Raises OutOfSlots, and then changes nothing."""

    @abstractmethod
    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        """Run all segments in one forward pass. `num_tokens` is a hint: a target for which changing the number of tokens costs time pads
        the batch to at least this many."""

    def forward_frequent(self, batch: TreeBatch) -> TargetOutput:
        """As `forward`, but the logits are [n, num_frequent] only, those of the first tokens. In a vocabulary made by merging these are the
        frequent ones, and a small draft model spends much of its time on the logits of all others (FR-Spec, arXiv 2502.14856)."""
        output = self.forward(batch, sum(map(len, batch)))
        return replace(output, logits=output.logits[:, : self.capabilities.num_frequent or None])

    @abstractmethod
    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        """Keep the K/V of `nodes` (ascending) among the tokens that were run in this slot behind the cached ones, in order; `token_ids` are
        their tokens. Several forward passes may have run them, each behind those of the ones before."""

    @abstractmethod
    def free(self, slot: Slot) -> None:
        """Release the slot."""

    def settle(self) -> None:
        """Wait for what the target still prepares in the background, so that forward passes can be timed."""
        return None

    def weight_bytes(self) -> int:
        """Bytes of weights that each forward pass reads from the machine's memory, however few tokens it has; 0 if that is not known."""
        return 0

    def add_vectors(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        """Add trained vectors [n, H] float32 that stand for mask tokens, and by option weights that act on those tokens alone.

        Returns the id of the first vector; the others follow it. Ids start after the vocabulary; vectors added again keep their ids.
        Raises BadInputError if there is no room for the vectors or the model cannot take such weights.
        """
        raise BadInputError("this target takes no vectors in place of tokens")

    def lm_head(self) -> LMHead:
        """The LM head, for trained heads that share it; its input is the hidden states of TargetOutput. Raises BadInputError if it cannot
        be shared."""
        raise BadInputError("this target does not share its LM head")

    def embeddings(self) -> Embeddings:
        """The embeddings, for trained heads that share them. Raises BadInputError if they cannot be shared."""
        raise BadInputError("this target does not share its embeddings")
