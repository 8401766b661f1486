"""The CPU target: a converted model with paged attention, whose logits are bit-identical however the work is divided.

Ragged batches, chunked prefill and token trees are one call: each sequence has a block table, a number of cached tokens and a mask over
its new tokens. Measured: the logits of a token are bit-identical in a forward pass with any number of tokens and any other sequences, if
K/V are bf16 or f32 and each sequence has at least 2 tokens in the pass. A sequence with 1 token would take another attention kernel
(logits then differ by up to 1), so it is padded with a dummy token that no real token attends to. Some CPUs need more tokens; the
constructor measures how many. In a tree, the chain that starts at the first token has the same bits too; side branches do not always,
because their keys stand elsewhere and sums are taken in another order. Hence `exact_trees=False`: the engine runs tokens that were
accepted on a side branch again to confirm them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.machine import processor_mark
from outpace.reason import reason_of
from outpace.targets.base import Capabilities, Embeddings, KVUse, LMHead, TargetModel, TargetOutput
from outpace.targets.identity import Base
from outpace.targets.low_rank import LowRank
from outpace.targets.openvino import graphs, sizes
from outpace.targets.openvino.fork import check_process
from outpace.targets.openvino.hugepages import Range, anonymous_ranges, collapse_in_background
from outpace.targets.openvino.kv_cache import BLOCK_SIZE, KVCache
from outpace.targets.openvino.padding import room, rounded, widened, with_dummies
from outpace.targets.openvino.sizes import MIN_TOKENS, Sizes
from outpace.targets.openvino.split_batch import join, split
from outpace.targets.openvino.vectors import GATES, VECTORS, add_vectors
from outpace.targets.vectors import NUM_VECTORS, VectorTable
from outpace.tree.segment import Segment, Slot, TreeBatch

STEADY_TOKENS = 64  # forward passes of up to this many tokens are padded to a steady number
QUANTIZATION_GROUP = "64"  # activations that share a scale when weights are int8


class OpenVINOTarget(TargetModel):
    """Runs the converted model at `path` (models/convert.py). Precision bf16 computes and caches in bf16, int8 and f32 in f32.

    `hidden` also returns the hidden states that the LM head reads; it costs no measurable time and leaves the logits bit-identical.
    `num_frequent`: forward_frequent() returns the logits of the first so many tokens, which needs memory for their rows of the LM head.
    `meanwhile` is called once, just before a second or more in which only OpenVINO works: what it starts costs little time.
    """

    def __init__(
        self,
        path: Path,
        *,
        vocab_size: int,
        max_len: int,
        precision: str = "int8",
        threads: int | None = None,
        kv_cache_tokens: int | None = None,
        prefix_cache_tokens: int | None = None,
        hidden: bool = True,
        num_frequent: int = 0,
        base: Base | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ):
        check_process()
        self.capabilities = Capabilities(
            tree=True, hidden=hidden, lookahead=True, exact_logits=True, vocab_size=vocab_size, max_len=max_len, num_frequent=num_frequent
        )
        self.path, self.base, self.threads = path, base, threads
        self.lock = threading.RLock()  # of the model; another thread may add vectors
        self.former: Any = None  # the infer request before that, until its last outputs are no longer valid
        memory = anonymous_ranges()
        has_bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        kv_type = "bf16" if precision == "bf16" and has_bf16 else "f32"  # the type that attention computes in
        self.settings = _settings(kv_type, threads)
        self.fingerprint = f"{path.parent.name}-{kv_type}-{threads or 'all'}-{QUANTIZATION_GROUP}"
        self.request, vector_size = self._compiled(meanwhile=meanwhile)
        self.vectors = self._create_vectors(vector_size)
        self.cache = self._create_cache(kv_type, kv_cache_tokens, prefix_cache_tokens)
        self.recent_sizes: deque[int] = deque(maxlen=8)
        self.recent_slots: list[Slot] = []
        self.sizes = Sizes()
        self.max_cached_tokens = self.cache.num_tokens - max(sizes.EXACT_SIZES)
        self.feed: dict[str, Array] = {}  # the input arrays, shared with the model
        self._warm_up(self.request, memory)
        key = f"{processor_mark()}-{self.fingerprint}-{ov.__version__}-{self.max_cached_tokens >= 2 * max(sizes.LARGE)}"
        self.sizes = sizes.kept(path.with_name("sizes.json"), key, lambda: sizes.measured(self))
        self.capabilities = replace(self.capabilities, exact_logits=self.sizes.is_exact)
        self.cache.padding = self.sizes.min_tokens
        self.recent_sizes.clear()

    def _compiled(self, low_rank: LowRank | None = None, meanwhile: Callable[[], None] = lambda: None) -> tuple[Any, int]:
        """(an infer request of the model, the size H of vectors in place of tokens or 0 if it takes none). Raises OutpaceError if OpenVINO
        cannot load the model."""
        core = ov.Core()
        try:
            model = graphs.paged(core.read_model(self.path), self.capabilities.hidden, self.capabilities.num_frequent)
            if graphs.FREQUENT_ROWS not in {parameter.get_friendly_name() for parameter in model.get_parameters()}:
                self.capabilities = replace(self.capabilities, num_frequent=0)
            size = add_vectors(model, self.capabilities.vocab_size, low_rank)
            meanwhile()
            return core.compile_model(model, "CPU", self.settings).create_infer_request(), size
        except RuntimeError as error:
            raise OutpaceError(f"OpenVINO cannot load {self.path}: {reason_of(error)}") from error

    def _create_vectors(self, size: int) -> VectorTable | None:
        """The table of trained vectors, which the model reads in place; None for a model that takes none."""
        if not size:
            return None
        self.capabilities = replace(self.capabilities, num_vectors=NUM_VECTORS)
        table = VectorTable(self.capabilities.vocab_size, size)
        self.request.set_tensor(VECTORS, ov.Tensor(table.rows, shared_memory=True))
        return table

    def _warm_up(self, request: Any, memory: set[Range]) -> None:
        """Run once, so that the weights reach their final layout, then begin to move them to huge pages."""
        inputs = self._inputs([Segment(self.cache.scratch, [0])], [1])
        for name, value in inputs.items():
            request.set_tensor(name, ov.Tensor(value, shared_memory=True))  # until the next pass sets its own
        request.start_async()
        request.wait()
        spared = [(rows.ctypes.data, rows.ctypes.data + rows.nbytes) for rows in self.cache.arrays]
        self.moving = collapse_in_background(memory, spared, request)

    def settle(self) -> None:
        self.moving.join()

    def _create_cache(self, kv_type: str, num_tokens: int | None, stored_tokens: int | None) -> KVCache:
        """Reserve address space for the K/V of all layers. Raises BadInputError if there is not so much."""
        ports = {port.any_name: port.partial_shape for port in self.request.model_inputs}
        shapes = {name: shape for name, shape in ports.items() if name.startswith(("key_cache", "value_cache"))}
        blocks = {name: tuple(size.get_length() for size in list(shape)[1:]) for name, shape in shapes.items()}
        try:
            cache = KVCache(blocks, kv_type, MIN_TOKENS, self.capabilities.max_len, num_tokens, stored_tokens)
        except (MemoryError, OverflowError, ValueError, OSError) as error:
            raise BadInputError(f"no memory can be reserved for the K/V of kv_cache_tokens={num_tokens}: name a smaller number") from error
        cache.bind(self.request)
        return cache

    @property
    def kv_use(self) -> KVUse:
        return self.cache.use

    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int] = (), cache_salt: str = "") -> Slot:
        return self.cache.allocate(num_tokens, prompt_token_ids, cache_salt)

    def extend(self, slot: Slot, num_tokens: int) -> None:
        self.cache.extend(slot, num_tokens)

    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        with self.lock:
            if sum(map(len, batch)) <= self.sizes.pass_tokens:
                return self._run(batch, num_tokens)
            return join(self._run(piece, num_tokens) for piece in split(batch, self.sizes.pass_tokens))

    def forward_frequent(self, batch: TreeBatch) -> TargetOutput:
        if not self.capabilities.num_frequent or sum(map(len, batch)) > self.sizes.pass_tokens:
            return super().forward_frequent(batch)
        with self.lock:
            return self._run(batch, sum(map(len, batch)), is_frequent=True)

    def _run(self, batch: TreeBatch, num_tokens: int, is_frequent: bool = False) -> TargetOutput:
        """One forward pass of the model; `is_frequent`: for the logits of the frequent tokens instead of all."""
        self.former = None
        num_rows = sum(len(segment) for segment in batch if segment.wants_output)
        for name, value in self._inputs(self._padded(batch, num_tokens), [len(segment) for segment in batch], is_frequent).items():
            self._set(name, value)
        self.request.start_async()  # infer() would copy all outputs
        self.request.wait()
        logits = self._output(1 + self.capabilities.hidden if is_frequent else 0)[:num_rows]
        if not self.capabilities.hidden:
            return TargetOutput(logits)
        hidden = self._output(1)
        num_prompt_rows = sum(len(segment) for segment in batch if segment.wants_hidden)
        prompt_hidden = hidden[-num_prompt_rows:] if num_prompt_rows else None
        return TargetOutput(logits, hidden[:num_rows], prompt_hidden=prompt_hidden)

    def _inputs(self, batch: TreeBatch, num_outputs: Sequence[int], is_frequent: bool = False) -> dict[str, Array]:
        """The inputs of this model for a forward pass (see `_pack`)."""
        inputs = _pack(batch, num_outputs)
        if not self.capabilities.hidden:
            del inputs["hidden_rows"]
        if self.capabilities.num_frequent:
            rows = inputs["logit_rows"]
            inputs["logit_rows"], inputs[graphs.FREQUENT_ROWS] = (rows[:0], rows) if is_frequent else (rows, rows[:0])
        return inputs

    def _output(self, index: int) -> Array:
        """An output [rows, …] in the model's own memory, not to be written."""
        rows: Array = self.request.get_output_tensor(index).data[:, 0]
        rows.flags.writeable = False
        return rows

    def _padded(self, batch: TreeBatch, num_tokens: int) -> TreeBatch:
        """Pad the batch with dummy tokens that no real token attends to, up to `num_tokens` or the largest of the last few forward passes;
        a large one up to a rounded size.

        A forward pass with another number of tokens than the one before takes longer, because OpenVINO prepares its buffers again (4 to 5
        ms with 135M parameters). Dummy tokens are added only as long as they cost less.
        """
        size = sum(max(len(segment), MIN_TOKENS) for segment in batch)
        if size > STEADY_TOKENS:
            return widened(batch, min(rounded(size), self.sizes.pass_tokens) - size)
        slots = [segment.slot for segment in batch]
        if slots != self.recent_slots or num_tokens:  # other requests are running: their usual number of tokens is not known yet
            self.recent_slots = slots
            self.recent_sizes.clear()
        self.recent_sizes.append(max(size, num_tokens))
        steady = max(self.recent_sizes) if num_tokens or max(self.recent_sizes) - size <= self.sizes.max_padding else size
        first = batch[0]
        least, usual = (max(len(first), MIN_TOKENS) + max(0, total - size) for total in (self.sizes.min_tokens, steady))
        length = usual if least <= usual <= room(first) else least
        if length in (len(first), MIN_TOKENS):
            return batch
        return [with_dummies(first, length), *batch[1:]]

    def _set(self, name: str, value: Array) -> None:
        """Set an input of the model, in place while its shape stays the same."""
        bound = self.feed.get(name)
        if bound is not None and bound.shape == value.shape:
            bound[...] = value
        else:
            self.feed[name] = value = np.array(value)
            self.request.set_tensor(name, ov.Tensor(value, shared_memory=True))

    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        self.cache.accept(slot, token_ids, nodes)

    def free(self, slot: Slot) -> None:
        self.cache.free(slot)

    def add_vectors(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        if self.vectors is None:
            return super().add_vectors(vectors, low_rank)
        if low_rank and self.vectors.low_rank is None:
            self._add_low_rank(self.vectors, low_rank)
        return self.vectors.add(vectors, low_rank)

    def _add_low_rank(self, table: VectorTable, low_rank: LowRank) -> None:
        """Recompile the model with these weights in it, and run it once, while other threads use the former one; K/V and all other state
        stay."""
        memory = anonymous_ranges()
        request, _ = self._compiled(low_rank)
        self.cache.bind(request)
        request.set_tensor(VECTORS, ov.Tensor(table.rows, shared_memory=True))
        request.set_tensor(GATES, ov.Tensor(table.gates, shared_memory=True))
        self._warm_up(request, memory)
        with self.lock:
            self.former, self.request = self.request, request
            self.feed.clear()

    def weight_bytes(self) -> int:
        return graphs.weight_bytes(ov.Core().read_model(self.path))

    def lm_head(self) -> LMHead:
        """A separate model, read from the same file, with the weights in the precision of the file."""
        return LMHead("openvino", graphs.lm_head(ov.Core().read_model(self.path)), self.capabilities.vocab_size, self.threads)

    def embeddings(self) -> Embeddings:
        """A separate model, read from the same file, with the weights in the precision of the file."""
        return Embeddings(graphs.embeddings(ov.Core().read_model(self.path)))


def _settings(kv_type: str, threads: int | None) -> dict[str, Any]:
    """Compile settings: compute in the type of the K/V cache. In f32, activations that meet int8 weights are quantized token by token, so
    the logits of a token do not depend on the others."""
    settings = {"KV_CACHE_PRECISION": kv_type, "INFERENCE_PRECISION_HINT": kv_type, "PERFORMANCE_HINT": "LATENCY"}
    settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = QUANTIZATION_GROUP
    return {**settings, "INFERENCE_NUM_THREADS": threads} if threads else settings


def _pack(batch: TreeBatch, num_outputs: Sequence[int]) -> dict[str, Array]:
    """The inputs of the paged model for these segments; logits or hidden states are wanted of the first `num_outputs` tokens of each.

    A single token is followed by a copy of itself that it does not attend to. Lists, converted to arrays once, because this runs in
    every step.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    begins, table_begins, mask_begins = [0], [0], [0]
    blocks: list[int] = []
    logit_rows: list[int] = []
    prompt_rows: list[int] = []  # tokens of which only hidden states are wanted
    masks: list[Array] = []
    longest = 0
    for segment, num_wanted in zip(batch, num_outputs, strict=True):
        alone = len(segment) == 1
        rows = Segment(segment.slot, [*segment.token_ids] * MIN_TOKENS, [-1] * MIN_TOKENS) if alone else segment
        start, past, count = len(token_ids), rows.slot.num_cached, len(rows)
        if segment.wants_output:
            logit_rows += range(start, start + num_wanted)
        if segment.wants_hidden:
            prompt_rows += range(start, start + num_wanted)
        token_ids += rows.token_ids
        positions += rows.position_ids
        masks.append(rows.mask.reshape(-1))
        blocks += rows.slot.blocks[: -(-(past + count) // BLOCK_SIZE)]
        begins.append(len(token_ids))
        table_begins.append(len(blocks))
        mask_begins.append(mask_begins[-1] + count * count)
        longest = max(longest, past + count)
    past_lens = [segment.slot.num_cached for segment in batch]
    if len(logit_rows) < MIN_TOKENS:
        logit_rows = [*logit_rows, *range(MIN_TOKENS)][:MIN_TOKENS]
    return {
        "input_ids": np.array(token_ids, np.int64),
        "position_ids": np.array(positions, np.int64),
        "past_lens": np.array(past_lens, np.int32),
        "subsequence_begins": np.array(begins, np.int32),
        "block_indices": np.array(blocks, np.int32),
        "block_indices_begins": np.array(table_begins, np.int32),
        "max_context_len": np.array(longest, np.int32),
        "qq_bias": masks[0] if len(masks) == 1 else np.concatenate(masks),
        "qq_bias_begins": np.array(mask_begins, np.int32),
        "logit_rows": np.array(logit_rows, np.int32),
        "hidden_rows": np.array([*logit_rows, *prompt_rows], np.int32),
    }
