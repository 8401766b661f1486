"""A live transformers model as a target: on CUDA, and as the reference on the CPU. The model's code is neither forked nor patched.

Each sequence has a slot in our own cache layers (`slot_layer`), with one row of K/V per token. An explicit 4-D mask says which rows a
token attends to, and explicit position ids say where it stands. Therefore trees, rollback and ragged batches work with any attention
model.
"""

from __future__ import annotations

import inspect
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.targets.base import Capabilities, Embeddings, KVUse, LMHead, TargetModel, TargetOutput
from outpace.targets.hf.borrow import masks_by_position, use_masked_attention
from outpace.targets.hf.call import ModelCall, Shape
from outpace.targets.hf.draws import UNDECIDED, DrawArrays
from outpace.targets.hf.graph_runner import GraphRunner, Runner
from outpace.targets.hf.kv_cache import KVCache
from outpace.targets.hf.lazy_rows import LazyRows
from outpace.targets.hf.live_models import is_static, refuse
from outpace.targets.hf.low_rank import add_low_rank, mlps
from outpace.targets.hf.masks import Windows
from outpace.targets.hf.passes import Pass, arrays_of, passes_of
from outpace.targets.identity import base_of
from outpace.targets.low_rank import LowRank
from outpace.targets.self_check import NUM_CACHED, check_tokens, error_of, is_exact, tree_error
from outpace.targets.text_length import chunks_of, max_length, windows_of
from outpace.targets.vectors import NUM_VECTORS, VectorTable
from outpace.tree.segment import Slot, TreeBatch

READ_BLOCK = 64  # forward passes read whole blocks of rows
STATIC_BLOCK = 256  # the least that captured ones read
MAX_STATIC_WIDTH = 64  # tokens of a sequence in a captured pass; longer ones, of prompts, keep the device busy by themselves
EXACT_BLOCK = 512  # the same with an exact width: attention on the CPU adds up keys in blocks of 512


class HFTarget(TargetModel):
    """A loaded causal language model of transformers; with `hidden` its forward passes also return the input of the LM head.

    The model is switched to evaluation mode, and to sdpa or eager attention (see `borrow` to switch back). With `is_borrowed` the target
    holds a weak reference to it and does not keep it in memory. With `exact_width` every forward pass runs one sequence and that many
    tokens, prompts too, so that logits do not depend on how the work is divided. With `static` calls run from fixed buffers, with a CUDA
    graph for each shape; None: on CUDA, but for a borrowed model. Raises BadInputError for a model that cannot roll back, takes no position
    ids, or fails a self-check of a few tokens.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_len: int | None = None,
        hidden: bool = True,
        device: str | None = None,
        max_slots: int = 64,
        kv_cache_tokens: int | None = None,
        is_borrowed: bool = False,
        exact_width: int | None = None,
        static: bool | None = None,
    ):
        refuse(model)
        use_masked_attention(model)
        model = (model if device is None else model.to(device)).eval()
        self._model: Callable[[], Any] = weakref.ref(model) if is_borrowed else lambda: model
        self._no_grad = torch.no_grad if is_borrowed else torch.inference_mode  # inference tensors must not stay in a model to be trained
        self.device = model.device
        config, self.windows = model.config.get_text_config(), Windows() if masks_by_position(model) else None
        self.widths = windows_of(config) | chunks_of(config)  # of its windows and chunks
        limit = max_length(config, max_len, set() if self.windows else self.widths)
        self.capabilities = Capabilities(tree=True, hidden=hidden, lookahead=True, vocab_size=config.vocab_size, max_len=limit)
        name = str(getattr(model.config, "_name_or_path", "")).strip("/").replace("/", "-")
        self.base = base_of(model, name or type(model).__name__)
        width = f"-w{exact_width}" if exact_width else ""
        device_name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{torch.get_num_threads()}"
        self.fingerprint = f"{name}-{model.num_parameters()}-{model.dtype}-{device_name}-torch{torch.__version__}{width}" if name else ""
        self.exact_width, self.is_static = exact_width, is_static(model) and not is_borrowed if static is None else static
        align = EXACT_BLOCK if exact_width else 1
        self.kv_cache = KVCache(config.num_hidden_layers, max_slots, kv_cache_tokens, align, self.is_static)
        self.call = ModelCall(self._model, self.kv_cache, self.windows, hidden, limit)
        self.direct = Runner(self.device)
        self.runner, self.generation = GraphRunner(self.device) if self.is_static else self.direct, 0
        if "inputs_embeds" in inspect.signature(model.forward).parameters:
            self.call.vectors = VectorTable(config.vocab_size, model.get_input_embeddings().weight.shape[1])
            self.capabilities = replace(self.capabilities, num_vectors=NUM_VECTORS)
        self._self_check()
        self.kv_cache.limit_to_free_memory(self.device)
        self.capabilities = replace(self.capabilities, draws=self.is_static)
        self.max_cached_tokens = self.kv_cache.max_slot
        if exact_width:
            self._prove_exact(exact_width)

    @property
    def model(self) -> Any:
        """The live model; None if it was borrowed and exists no more."""
        return self._model()

    def weight_bytes(self) -> int:
        config = self.model.config.get_text_config()
        is_sparse = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
        if is_sparse or self.device.type != "cpu":
            return 0
        table, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        looked_up = table.weight if head is None or head.weight is not table.weight else None
        return sum(weight.nbytes for weight in self.model.parameters() if weight is not looked_up)

    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int] = (), cache_salt: str = "") -> Slot:
        with self._no_grad():
            return self.kv_cache.allocate(num_tokens, prompt_token_ids, cache_salt)

    def extend(self, slot: Slot, num_tokens: int) -> None:
        with self._no_grad():
            self.kv_cache.extend(slot, num_tokens)

    def free(self, slot: Slot) -> None:
        self.kv_cache.free(slot)

    @property
    def kv_use(self) -> KVUse:
        return self.kv_cache.use

    def drop_buffers(self) -> None:
        """Give the memory of all K/V back, unless a slot is in use; the next forward pass allocates what it needs."""
        self.kv_cache.drop()

    @property
    def vectors(self) -> VectorTable | None:
        """The trained vectors that lookahead tokens may have as input."""
        return self.call.vectors

    def add_vectors(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        table = self.vectors
        if table is None:
            return super().add_vectors(vectors, low_rank)
        if low_rank:
            mlps(self.model, low_rank.num_layers)  # raises before anything is stored
        had, first = table.low_rank, table.add(vectors, low_rank)
        if low_rank and had is None:
            down, up = (list(self._tensor(weights).to(self.model.dtype)) for weights in (low_rank.down, low_rank.up))
            add_low_rank(self.model, down, up, lambda: self.call.gate)
        return first

    def lm_head(self) -> LMHead:
        """The model's own module, on its own device."""
        module = self.model.get_output_embeddings()
        run = GraphRunner(self.device).run if self.is_static else None
        return LMHead("torch", module, module.weight.shape[0], run=run)

    def embeddings(self) -> Embeddings:
        """The model's own module, on its own device."""
        return Embeddings(self.model.get_input_embeddings())

    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        base, place = slot.num_cached, self.kv_cache.places[slot.index]
        stay = next((i for i, node in enumerate(nodes) if node != i), len(nodes))  # rows before it are in place already
        if stay < len(nodes):
            with self._no_grad():
                source = self._tensor(base + np.array(nodes[stay:]))
                for layer in self.kv_cache.layers:
                    layer.move(place, source, base + stay)
        slot.token_ids.extend(token_ids)

    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        found: list[Found] = []
        places: list[dict[int, list[Array]]] = [defaultdict(list), defaultdict(list)]  # segment -> its rows in the logits and hidden states
        num_rows = [0, 0]
        draws = self.capabilities.draws and any(segment.drawing for segment in batch)
        with self._no_grad():
            for one in map(self._prepared, passes := list(passes_of(batch, self.exact_width))):
                results = self._run(one, draws)
                found.append(results if len(passes) == 1 else results.copied())
                for kind, length in enumerate((one.keep, one.read)):
                    for b, piece in enumerate(one.pieces):
                        places[kind][piece.index].append(num_rows[kind] + b * length + np.arange(len(piece)))
                    num_rows[kind] += one.num_seqs * length
            decoded = [i for i, segment in enumerate(batch) if segment.wants_output]
            prompts = [i for i, segment in enumerate(batch) if segment.wants_hidden]
            logit_rows = _joined(places[0], decoded)
            hidden_rows = [_joined(places[1], segments) for segments in (decoded, prompts)]
            return self._output(Found.joined(found), logit_rows, hidden_rows, bool(prompts))

    def _output(self, found: Found, logit_rows: Array, hidden_rows: list[Array], has_prompts: bool) -> TargetOutput:
        """These rows on the host; those of the logits when they are read, if tokens were drawn. `hidden_rows` [2]: of the decoded segments,
        and of the prompts."""
        wanted = [found.logits[self._tensor(logit_rows)].float() if found.draws is None else found.draws]
        if found.hidden is not None:
            wanted += [found.hidden[self._tensor(rows)].float() for rows in hidden_rows]
        first, *states = self._on_host(wanted)
        drawn = None if found.draws is None else first[logit_rows]
        kept: Any = first if drawn is None else LazyRows.of(found.logits, torch.from_numpy(logit_rows))
        hidden, prompts = states or (None, None)
        return TargetOutput(kept, hidden, prompt_hidden=prompts if has_prompts else None, draws=drawn)

    def _on_host(self, tensors: Sequence[Any]) -> list[Array]:
        """The tensors on the host; the device is waited for once."""
        copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into pinned memory
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return [copy.numpy() for copy in copies]

    def _prepared(self, one: Pass) -> Pass:
        """The pass with its pieces in the order of their places in the K/V cache, where they are brought together; of a size that few other
        passes differ from, if passes are captured."""
        is_captured = self.is_static and one.width <= MAX_STATIC_WIDTH
        by_slot = {piece.segment.slot.index: piece for piece in one.pieces}
        order = self.kv_cache.bring_together(list(by_slot), is_captured and not self.exact_width)
        one = replace(one, pieces=[by_slot[index] for index in order])
        return one.rounded(self.kv_cache.place.num_places) if is_captured else one

    def _run(self, one: Pass, draws: bool) -> Found:
        """One forward pass on [B, T]: logits of the first columns [B * keep, V], hidden states of the first columns [B * read, H] and, with
        `draws`, tokens. The next pass may overwrite them."""
        place, slots = self.kv_cache.place, [piece.segment.slot.index for piece in one.pieces]
        arrays = arrays_of(one, place.num_rows, self._read_len(max(piece.base for piece in one.pieces) + one.width))
        given = {"numbers": arrays.numbers, "visible": arrays.visible}
        has_vectors, kinds = bool(arrays.numbers[0].max() >= self.capabilities.vocab_size), None
        if draws and one.keep:
            how = DrawArrays.of([piece.segment.drawing for piece in one.pieces], arrays.numbers[1][:, : one.keep])
            given, kinds = {**given, "whole": how.whole, "real": how.real}, how.kinds
        num_seqs, width, read_len = arrays.visible.shape
        shape = Shape(self.kv_cache.places[slots[0]], num_seqs, width, read_len, one.keep, one.read, has_vectors, kinds)
        if self.kv_cache.generation != self.generation:
            self.generation = self.kv_cache.generation
            self.runner.forget()
        runner = self.direct if has_vectors or one.width > MAX_STATIC_WIDTH else self.runner
        logits, *others = runner.run(shape, partial(self.call, shape), given)
        drawn = others.pop(0) if kinds is not None else torch.full_like(logits[:, 0], UNDECIDED, dtype=torch.int64) if draws else None
        return Found(logits, drawn, others[0] if others else None)

    def _read_len(self, length: int) -> int:
        """How many rows a pass reads that needs `length` of them: whole blocks, or powers of two where each size is captured."""
        block = EXACT_BLOCK if self.exact_width else STATIC_BLOCK if self.is_static else READ_BLOCK
        size = max(block, 1 << (length - 1).bit_length()) if self.is_static else -(-length // block) * block
        return min(size, self.kv_cache.place.num_rows)

    def _tensor(self, array: Array) -> Any:
        """The array on the device, which is not waited for."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor.to(self.device)

    def _prove_exact(self, width: int) -> None:
        """Raise BadInputError if the bits of logits depend on the place of a token in a pass of this width."""
        self.capabilities = replace(self.capabilities, exact_logits=True, max_tokens=width)
        with self._no_grad():
            if not is_exact(self, width):
                name = type(self.model).__name__
                raise BadInputError(f"exact_width {width}: logits of {name} depend on the other tokens of a forward pass on this device")

    def _self_check(self) -> None:
        """Raise BadInputError for a model whose logits depend on later tokens, or in a tree are not those of a plain forward pass. Windows
        that its layers did not ask a mask for limit the length of texts."""
        tokens, is_wide = check_tokens(self.capabilities.vocab_size), self.model.dtype.itemsize >= 4
        expected = self._plain_logits(tokens)
        if not error_of(self._plain_logits(tokens[:NUM_CACHED]), expected[:NUM_CACHED]) < (1e-3 if is_wide else 0.3):
            raise BadInputError(f"{type(self.model).__name__} lets tokens see later ones, so it is no causal language model")
        error = tree_error(self, expected)
        if self.windows and (missed := self.widths - self.windows.asked):
            limit = max_length(self.model.config.get_text_config(), self.capabilities.max_len, missed)
            self.capabilities = replace(self.capabilities, max_len=limit)
        if not error < (0.01 if is_wide else 0.3):
            raise BadInputError(f"{type(self.model).__name__} {self._fault(tokens, expected)} (logits {error:.0%} off); use another model")

    def _fault(self, tokens: list[int], expected: Array) -> str:
        """What a model does that fails the self-check."""
        counted = self._plain_logits(tokens, position_ids=self._tensor(np.arange(len(tokens))[None]))
        return "ignores the mask or positions" if np.allclose(counted, expected) else "does not count positions from 0"

    def _plain_logits(self, tokens: list[int], **inputs: Any) -> Array:
        """Logits [tokens, V] of a forward pass without a cache, as the model itself does it."""
        with self._no_grad():
            outputs = self.model(input_ids=self._tensor(np.array([tokens])), use_cache=False, **inputs)
        logits: Array = outputs.logits[0].float().cpu().numpy()
        return logits


@dataclass(frozen=True)
class Found:
    """What forward passes gave, on the device: logits [n, V], drawn tokens [n] or None, hidden states [m, H] or None."""

    logits: Any
    draws: Any
    hidden: Any

    def copied(self) -> Found:
        """The same in memory that no later pass overwrites."""
        return Found(*(None if part is None else part.clone() for part in (self.logits, self.draws, self.hidden)))

    @classmethod
    def joined(cls, found: Sequence[Found]) -> Found:
        """One after the other."""
        if len(found) == 1:
            return found[0]
        columns = zip(*((one.logits, one.draws, one.hidden) for one in found), strict=True)
        return cls(*(None if parts[0] is None else torch.cat(parts) for parts in columns))


def _joined(places: dict[int, list[Array]], segments: Sequence[int]) -> Array:
    """The rows of these segments, one after the other."""
    return np.concatenate([np.empty(0, np.int64), *(part for i in segments for part in places[i])])
