"""A language model for tests whose distributions are known exactly: no weights, no kernels, no rounding.

It reads its context only through its cache and the tree mask, so a token kept by mistake, a mask that shows too much or a position that
is off by one changes its output. Each forward pass overwrites the outputs of the one before with NaN, so that a view that is kept is
caught.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.targets.base import Capabilities, Embeddings, LMHead, OutOfSlots, TargetModel, TargetOutput
from outpace.targets.identity import Base
from outpace.targets.low_rank import LowRank
from outpace.targets.vectors import NUM_VECTORS, VectorTable
from outpace.tree.segment import Slot, TreeBatch


class ToyTarget(TargetModel):
    """Logits are a fixed random table indexed by the last two tokens, plus a small term from a hash of the whole context.

    `sharpness` scales the table: large values give repetitive text, of which lookup drafts are partly right. With exact_trees=False, the
    logits of a token whose ancestors do not stand directly before it are wrong, by far more than those of real kernels.
    """

    def __init__(
        self,
        vocab_size: int = 12,
        max_len: int = 512,
        max_slots: int = 64,
        kv_cache_tokens: int | None = None,
        sharpness: float = 2.0,
        seed: int = 0,
        tree: bool = True,
        exact_trees: bool = True,
    ):
        self.base = Base("toy", f"toy-{sharpness:g}-{seed}", vocab_size, vocab_size)
        rng = np.random.default_rng(seed)
        self.capabilities = Capabilities(
            tree=tree,
            hidden=True,
            lookahead=tree,
            exact_logits=True,
            exact_trees=exact_trees,
            vocab_size=vocab_size,
            max_len=max_len,
            num_vectors=NUM_VECTORS,
        )
        self.table = rng.normal(0, sharpness, (vocab_size, vocab_size, vocab_size)).astype(np.float32)
        self.detail = rng.normal(0, 0.5, (251, vocab_size)).astype(np.float32)
        self.vectors = VectorTable(vocab_size, vocab_size)
        self.max_slots = max_slots
        self.max_cached_tokens = kv_cache_tokens or self.max_cached_tokens
        self.capacities: dict[int, int] = {}  # slot -> tokens reserved
        self.cache: dict[int, list[tuple[int, int]]] = {}  # slot -> (token, position) of each cached token, the last forward pass included
        self.num_passes = 0
        self.lent: list[Array] = []  # the outputs of the last forward pass

    def logits_after(self, context: Sequence[int]) -> Array:
        """The exact logits [V] of the token after `context`."""
        code = 0
        for token in context:
            code = (code * 31 + token + 1) % 251
        before = context[-2] if len(context) > 1 else 0
        return np.asarray(self.table[before, context[-1]] + self.detail[code])

    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int] = (), cache_salt: str = "") -> Slot:
        free = [i for i in range(self.max_slots) if i not in self.cache]
        if not free:
            raise OutOfSlots
        self._reserve(free[0], num_tokens)
        self.cache[free[0]] = []
        return Slot(free[0], num_tokens, [], [])

    def extend(self, slot: Slot, num_tokens: int) -> None:
        self._reserve(slot.index, num_tokens)
        slot.capacity = num_tokens

    def _reserve(self, index: int, num_tokens: int) -> None:
        """Reserve so many tokens for a slot in all. Raises OutOfSlots."""
        others = sum(self.capacities.values()) - self.capacities.get(index, 0)
        if others + num_tokens > self.max_cached_tokens:
            raise OutOfSlots
        self.capacities[index] = num_tokens

    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        self.num_passes += 1
        for output in self.lent:
            output.fill(np.nan)
        rows: list[Array] = []
        prompt_rows: list[Array] = []
        for segment in batch:
            cached = self.cache[segment.slot.index][: segment.slot.num_cached]
            new = list(zip(map(self._meant, segment.token_ids), segment.position_ids, strict=True))
            self.cache[segment.slot.index] = cached + new
            if len(cached) + len(new) > segment.slot.capacity:
                raise BadInputError("the forward pass has more tokens than its slot has room for")
            if not (segment.wants_output or segment.wants_hidden):
                continue
            wanted = rows if segment.wants_output else prompt_rows
            for row, visible in enumerate(segment.mask):
                seen = cached + [entry for entry, see in zip(new, visible, strict=True) if see]
                if [position for _, position in seen] != list(range(len(seen))):
                    raise AssertionError(f"positions are not 0, 1, 2, … but {[p for _, p in seen]}")
                answer = self.logits_after([token for token, _ in seen])
                is_displaced = len(seen) != len(cached) + row + 1
                wanted.append(np.roll(answer, 1) if is_displaced and not self.capabilities.exact_trees else answer)
        logits = np.array(rows, np.float32).reshape(len(rows), self.capabilities.vocab_size)
        prompt_hidden = np.array(prompt_rows, np.float32)
        self.lent = [logits, prompt_hidden]
        return TargetOutput(logits, logits, prompt_hidden=prompt_hidden if prompt_rows else None)

    def _meant(self, token: int) -> int:
        """The token that an input id stands for: itself, or for a vector the index of its largest component."""
        vocab_size = self.capabilities.vocab_size
        return token if token < vocab_size else int(self.vectors.rows[token - vocab_size].argmax())

    def add_vectors(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        if low_rank:
            raise BadInputError("the toy target has no layers for low-rank weights")
        return self.vectors.add(vectors)

    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        rows = self.cache[slot.index]
        base = slot.num_cached
        self.cache[slot.index] = rows[:base] + [rows[base + node] for node in nodes]
        slot.token_ids.extend(token_ids)

    def free(self, slot: Slot) -> None:
        del self.cache[slot.index], self.capacities[slot.index]

    def lm_head(self) -> LMHead:
        """The identity matrix, as hidden states are the logits themselves."""
        vocab_size = self.capabilities.vocab_size
        return LMHead("numpy", np.eye(vocab_size, dtype=np.float32), vocab_size)

    def embeddings(self) -> Embeddings:
        """The identity matrix: one-hot embeddings."""
        return Embeddings(np.eye(self.capabilities.vocab_size, dtype=np.float32))
