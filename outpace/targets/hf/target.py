"""A live transformers model as a target: on CUDA, and as the reference on the CPU. The model's code is neither forked nor patched.

Each sequence has a slot in our own cache layers (`slot_layer`), with one row of K/V per token. An explicit 4-D mask says which rows a
token attends to, and explicit position ids say where it stands. Therefore trees, rollback and ragged batches work with any attention
model.
"""

from __future__ import annotations

import inspect
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.targets.base import Capabilities, Embeddings, KVUse, LMHead, TargetModel, TargetOutput
from outpace.targets.hf.borrow import masks_by_position, use_masked_attention
from outpace.targets.hf.kv_cache import KVCache
from outpace.targets.hf.low_rank import add_low_rank, mlps
from outpace.targets.hf.masks import Windows, by_position
from outpace.targets.hf.passes import Pass, PassArrays, arrays_of, passes_of
from outpace.targets.identity import base_of
from outpace.targets.low_rank import LowRank
from outpace.targets.self_check import NUM_CACHED, check_tokens, error_of, is_exact, tree_error
from outpace.targets.text_length import chunks_of, max_length, windows_of
from outpace.targets.vectors import NUM_VECTORS, VectorTable
from outpace.tree.segment import Slot, TreeBatch

READ_BLOCK = 64  # forward passes read whole blocks of rows
CACHE_NAMES = ("past_key_values", "cache")  # the cache argument of models: transformers up to 5.23, and from 5.24 on
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "attention", "global", "local"}
EXACT_BLOCK = 512  # the same with an exact width: attention on the CPU adds up keys in blocks of 512


class HFTarget(TargetModel):
    """A loaded causal language model of transformers; with `hidden` its forward passes also return the input of the LM head.

    The model is switched to evaluation mode, and to sdpa or eager attention (see `borrow` to switch back). With `is_borrowed` the target
    holds a weak reference to it and does not keep it in memory. With `exact_width` every forward pass runs one sequence and that many
    tokens, prompts too, so that logits do not depend on how the work is divided. Raises BadInputError for a model that cannot roll back,
    takes no position ids, or fails a self-check of a few tokens.
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
        inputs = inspect.signature(model.forward).parameters
        self.can_skip_logits = "logits_to_keep" in inputs
        self.cache_name = cache_name_of(model)
        name = str(getattr(model.config, "_name_or_path", "")).strip("/").replace("/", "-")
        self.base = base_of(model, name or type(model).__name__)
        width = f"-w{exact_width}" if exact_width else ""
        device_name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{torch.get_num_threads()}"
        self.fingerprint = f"{name}-{model.num_parameters()}-{model.dtype}-{device_name}-torch{torch.__version__}{width}" if name else ""
        self.vectors: VectorTable | None = None
        self.gate: Any = None  # [B, T, 1] bool: tokens of the running forward pass that low-rank weights act on; None for none
        if "inputs_embeds" in inputs:
            self.vectors = VectorTable(config.vocab_size, model.get_input_embeddings().weight.shape[1])
            self.capabilities = replace(self.capabilities, num_vectors=NUM_VECTORS)
        self.exact_width = exact_width
        self.kv_cache = KVCache(config.num_hidden_layers, max_slots, kv_cache_tokens, align=EXACT_BLOCK if exact_width else 1)
        self.cache = Cache(layers=self.kv_cache.layers)
        self._self_check()
        self.kv_cache.limit_to_free_memory(self.device)
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

    def add_vectors(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        if self.vectors is None:
            return super().add_vectors(vectors, low_rank)
        if low_rank:
            mlps(self.model, low_rank.num_layers)  # raises before anything is stored
        had, first = self.vectors.low_rank, self.vectors.add(vectors, low_rank)
        if low_rank and had is None:
            down, up = (list(self._tensor(weights).to(self.model.dtype)) for weights in (low_rank.down, low_rank.up))
            add_low_rank(self.model, down, up, lambda: self.gate)
        return first

    def lm_head(self) -> LMHead:
        """The model's own module, on its own device."""
        module = self.model.get_output_embeddings()
        return LMHead("torch", module, module.weight.shape[0])

    def embeddings(self) -> Embeddings:
        """The model's own module, on its own device."""
        return Embeddings(self.model.get_input_embeddings())

    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        base = slot.num_cached
        stay = next((i for i, node in enumerate(nodes) if node != i), len(nodes))  # rows before it are in place already
        if stay < len(nodes):
            with self._no_grad():
                for layer in self.cache.layers:
                    layer.move(self.kv_cache.places[slot.index], [base + node for node in nodes[stay:]], base + stay)
        slot.token_ids.extend(token_ids)

    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        outputs: list[tuple[Any, ...]] = []
        places: list[dict[int, list[Array]]] = [defaultdict(list), defaultdict(list)]  # segment -> its rows in the logits and hidden states
        num_rows = [0, 0]
        with self._no_grad():
            for unordered in passes_of(batch, self.exact_width):
                one = self._in_order(unordered)
                outputs.append(self._run(one))
                for kind, length in enumerate((one.keep, one.read)):
                    for b, piece in enumerate(one.pieces):
                        places[kind][piece.index].append(num_rows[kind] + b * length + np.arange(len(piece)))
                    num_rows[kind] += len(one.pieces) * length
            decoded = [i for i, segment in enumerate(batch) if segment.wants_output]
            prompts = [i for i, segment in enumerate(batch) if segment.wants_hidden]
            logits, *hidden = (torch.cat(parts) for parts in zip(*outputs, strict=True))
            kept = self._rows(logits, [place for i in decoded for place in places[0][i]])
            if not hidden:
                return TargetOutput(kept)
            states = self._rows(hidden[0], [place for i in decoded for place in places[1][i]])
            prompt_rows = [place for i in prompts for place in places[1][i]]
            return TargetOutput(kept, states, prompt_hidden=self._rows(hidden[0], prompt_rows) if prompts else None)

    def _in_order(self, one: Pass) -> Pass:
        """The pass with its pieces in the order of their places in the K/V cache, where they are brought together."""
        by_slot = {piece.segment.slot.index: piece for piece in one.pieces}
        return replace(one, pieces=[by_slot[index] for index in self.kv_cache.bring_together(list(by_slot))])

    def _rows(self, found: Any, places: list[Array]) -> Array:
        """The rows of a tensor at these places, concatenated, as a float32 array of their own (never a view of a buffer)."""
        index = self._tensor(np.concatenate([np.empty(0, np.int64), *places]))
        rows: Array = found[index].float().cpu().numpy()
        return rows

    def _run(self, one: Pass) -> tuple[Any, ...]:
        """One forward pass on [B, T]. Returns the logits of the first columns [B * keep, V] and, if the target has hidden states, those of
        the first columns [B * read, H]."""
        bases = [piece.base for piece in one.pieces]
        self._take_place([piece.segment.slot.index for piece in one.pieces], max(bases) + one.width)
        place, keep = self.kv_cache.place, one.keep
        arrays = arrays_of(one.pieces, one.width, place.num_rows, place.read_len)
        place.rows = self._tensor(arrays.rows)
        position_ids = np.minimum(arrays.positions, self.capabilities.max_len - 1)  # lookahead tokens past the end of a position table
        columns = torch.arange(keep, device=self.device) if keep else 1  # of the logits; 1 = the last column, the least a model can compute
        limit = max(keep, 1) if one.read > keep else None
        with self._read_by_head(limit) as hidden, self._masked(arrays, bases) as mask:
            outputs = self.model(
                **self._inputs(arrays.token_ids),
                attention_mask=mask,
                position_ids=self._tensor(position_ids),
                **{self.cache_name: self.cache},
                use_cache=True,
                **({"logits_to_keep": columns} if self.can_skip_logits and limit is None else {}),
            )
        self.gate = None  # others may run this model too
        kept = (outputs.logits[:, :keep], *(states[:, : one.read] for states in hidden))
        return tuple(part.flatten(0, 1).to(self.device) for part in kept)

    @contextmanager
    def _masked(self, arrays: PassArrays, bases: list[int]) -> Iterator[Any]:
        """The mask to pass to the model. It is None if the model asks for the masks of its layers inside the `with` block."""
        visible, positions = arrays.visible, arrays.positions
        if self.windows is None:
            mask = torch.zeros(visible[:, None].shape, dtype=self.model.dtype, device=self.device)
            yield mask.masked_fill_(self._tensor(~visible[:, None]), torch.finfo(mask.dtype).min)
            return
        places = np.tile(np.arange(visible.shape[2]), (len(bases), 1))  # [B, R]: where the key of each row stands
        for b, base in enumerate(bases):
            places[b, base : base + positions.shape[1]] = positions[b]
        keys = np.where(visible, places[:, None], -1)
        with by_position(self._tensor(positions), self._tensor(keys), self.windows):
            yield None

    def _inputs(self, token_ids: Array) -> dict[str, Any]:
        """The model's input for ids [B, T]: the ids themselves, or embeddings [B, T, H] if some ids name vectors of heads."""
        self.gate, places = None, token_ids - self.capabilities.vocab_size
        if self.vectors is None or places.max() < 0:
            return {"input_ids": self._tensor(token_ids)}
        embeddings = self.model.get_input_embeddings()(self._tensor(np.minimum(token_ids, self.capabilities.vocab_size - 1)))
        vectors = self._tensor(self.vectors.rows[places[places >= 0]])
        embeddings[self._tensor(places >= 0)] = vectors.to(embeddings.device, embeddings.dtype)
        if self.vectors.low_rank:
            self.gate = self._tensor((places >= 0) & (self.vectors.gates[np.maximum(places, 0)] > 0))[..., None]
        return {"inputs_embeds": embeddings}

    @contextmanager
    def _read_by_head(self, limit: int | None) -> Iterator[list[Any]]:
        """Collect the inputs of the LM head inside the `with` block; the list stays empty if the target returns no hidden states. With
        `limit` the head reads only that many first columns. No other layer's states are kept."""
        seen: list[Any] = []
        if not self.capabilities.hidden:
            yield seen
            return

        def read(_: Any, inputs: tuple[Any, ...]) -> Any:
            seen.append(inputs[0])
            return None if limit is None else (inputs[0][:, :limit], *inputs[1:])

        hook = self.model.get_output_embeddings().register_forward_pre_hook(read)
        try:
            yield seen
        finally:
            hook.remove()

    def _take_place(self, slots: list[int], length: int) -> None:
        """Tell the layers which places to write, and to read the first `length` rows in whole blocks."""
        place, places = self.kv_cache.place, np.array([self.kv_cache.places[slot] for slot in slots])
        place.first, place.places = int(places[0]), self._tensor(places[:, None])
        block = EXACT_BLOCK if self.exact_width else READ_BLOCK
        place.read_len = min(-(-length // block) * block, place.num_rows)

    def _tensor(self, array: Array) -> Any:
        return torch.from_numpy(array).to(self.device)

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


def cache_name_of(model: Any) -> str:
    """The name of the model's argument for a cache."""
    inputs = inspect.signature(model.forward).parameters
    return next(name for name in CACHE_NAMES if name in inputs)


def refuse(model: Any) -> None:
    """Raise BadInputError for a model whose config or signature rules out rollback or trees."""
    config, inputs = model.config.get_text_config(), inspect.signature(model.forward).parameters
    layer_types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()
    other = sorted(set(layer_types) - ATTENTION_LAYERS)
    reason = ""
    if model.config.is_encoder_decoder:
        reason = "is an encoder-decoder model; use a decoder-only one"
    elif other or (getattr(model, "_is_stateful", False) and not layer_types):
        state = f"layers of type {', '.join(other)}" if other else "a recurrent state"
        reason = f"has {state}, so rejected draft tokens cannot be rolled back; use a model with attention layers only"
    elif "position_ids" not in inputs or getattr(config, "alibi", False):
        reason = "takes no position ids (ALiBi, for example), which draft trees need; use a model with rotary or learned positions"
    elif not inputs.keys() & set(CACHE_NAMES) or model.get_output_embeddings() is None:
        reason = "is no causal language model with a K/V cache; load it with AutoModelForCausalLM"
    if reason:
        raise BadInputError(f"{type(model).__name__} {reason}")
