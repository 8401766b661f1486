"""A live transformers model as a target: CUDA, and the reference on CPU. The model is never forked or patched.

Our own cache layers hold one row of K/V per token in a slot per sequence; an explicit 4-D mask says which rows a token may
see and explicit position ids say where it stands. So trees, rollback and ragged batches work with any attention model.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.targets.base import Capabilities, Embeddings, LMHead, OutOfSlots, TargetModel, TargetOutput
from outpace.targets.hf.low_rank import add_low_rank, mlps
from outpace.targets.identity import base_of
from outpace.targets.low_rank import LowRank
from outpace.targets.vectors import NUM_VECTORS, VectorTable
from outpace.tree.segment import Segment, Slot, TreeBatch

logger = logging.getLogger("outpace")

ROW_BLOCK, READ_BLOCK = 256, 64  # buffers grow, and passes read, by whole blocks of rows
CACHE_NAMES = ("past_key_values", "cache")  # what models call their cache: transformers up to 5.23, and from 5.24 on
MAX_PADDING = 128  # rows of padding that cost less than another pass over the weights


@dataclass
class Place:
    """Where the running pass lives in the buffers; one object, shared by all layers."""

    num_slots: int = 0
    num_rows: int = 0
    slots: Any = None  # [B, 1] slot of each sequence
    rows: Any = None  # [B, T] row of each token
    read: Any = None  # the slots read: a slice when they are neighbours (no copy), else [B] indices
    read_len: int = 0


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """K/V of one layer, [slots, kv_heads, rows, head_dim], shaped by the first tensors seen: every head layout works.

    Rows are never cleared, the mask hides stale ones. New buffers are zeros, for even a hidden NaN would spread.
    """

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, place: Place):
        super().__init__()
        self.place = place

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Make the buffers, or larger ones with the same content; both arguments are [B, kv_heads, T, head_dim]."""
        self.keys, self.values = self._grown(self.keys, key_states), self._grown(self.values, value_states)
        self.is_initialized = True

    def _grown(self, old: Any, like: Any) -> Any:
        new = like.new_zeros(self.place.num_slots, like.shape[1], self.place.num_rows, like.shape[3])
        if old is not None:
            new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store [B, kv_heads, T, head_dim] at the pass's rows; returns all rows [B, kv_heads, read_len, head_dim]."""
        place, device = self.place, key_states.device
        if not self.is_initialized or self.keys.shape[0] < place.num_slots or self.keys.shape[2] < place.num_rows:
            self.lazy_initialization(key_states, value_states)
        slots, rows = place.slots.to(device), place.rows.to(device)  # layers may live on different devices
        self.keys[slots, :, rows] = key_states.transpose(1, 2)
        self.values[slots, :, rows] = value_states.transpose(1, 2)
        read = place.read if isinstance(place.read, slice) else place.read.to(device)
        return self.keys[read, :, : place.read_len], self.values[read, :, : place.read_len]

    def move(self, slot: int, source: list[int], target: int) -> None:
        """Copy the slot's rows `source` to target, target + 1, …"""
        if self.is_initialized:  # a layer that shares another layer's K/V never is
            for buffer in (self.keys, self.values):
                buffer[slot, :, target : target + len(source)] = buffer[slot][:, source]

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.place.read_len, 0

    def get_seq_length(self, *args: Any) -> int:
        return 0  # differs by sequence; models use it only when no positions are given

    def get_max_length(self) -> int:
        return -1


class HFTarget(TargetModel):
    """A loaded transformers causal LM; with `hidden` what the LM head reads comes back too.

    Raises BadInputError for a model that cannot roll back, takes no positions, or fails a self-check of a few tokens.
    """

    def __init__(self, model: Any, *, max_len: int | None = None, hidden: bool = True, device: str | None = None, max_slots: int = 64):
        _refuse(model)
        if model.config._attn_implementation not in ("eager", "sdpa"):  # flash, flex and paged kernels take no explicit mask
            model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
        self.model = (model if device is None else model.to(device)).eval()
        self.device, self.max_slots = model.device, max_slots
        config, limit = model.config.get_text_config(), _max_len(model.config.get_text_config(), max_len)
        self.capabilities = Capabilities(tree=True, hidden=hidden, lookahead=True, vocab_size=config.vocab_size, max_len=limit)
        inputs = inspect.signature(model.forward).parameters
        self.can_skip_logits = "logits_to_keep" in inputs
        self.cache_name = next(name for name in CACHE_NAMES if name in inputs)
        name = str(getattr(model.config, "_name_or_path", "")).strip("/").replace("/", "-")
        self.base = base_of(model, name or type(model).__name__)
        device_name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{torch.get_num_threads()}"
        self.fingerprint = f"{name}-{model.num_parameters()}-{model.dtype}-{device_name}-torch{torch.__version__}" if name else ""
        self.vectors: VectorTable | None = None
        self.gate: Any = None  # [B, T, 1] bool: rows of the running pass that low-rank weights act on; None for none
        if "inputs_embeds" in inputs:
            self.vectors = VectorTable(config.vocab_size, model.get_input_embeddings().weight.shape[1])
            self.capabilities = replace(self.capabilities, num_vectors=NUM_VECTORS)
        self.place = Place()
        self.cache = Cache(layers=[SlotLayer(self.place) for _ in range(config.num_hidden_layers)])
        self.used: set[int] = set()
        self._self_check()

    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int] = ()) -> Slot:
        free = set(range(self.max_slots)) - self.used
        if not free:
            raise OutOfSlots
        self.used.add(min(free))
        return Slot(min(free), num_tokens, [], [])

    def free(self, slot: Slot) -> None:
        self.used.remove(slot.index)

    def add_vectors(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        if self.vectors is None:
            return super().add_vectors(vectors, low_rank)
        if low_rank:
            mlps(self.model, low_rank.num_layers)  # what is wrong is told before anything is taken
        had, first = self.vectors.low_rank, self.vectors.add(vectors, low_rank)
        if low_rank and had is None:
            down, up = (list(self._tensor(weights).to(self.model.dtype)) for weights in (low_rank.down, low_rank.up))
            add_low_rank(self.model, down, up, lambda: self.gate)
        return first

    def lm_head(self) -> LMHead:
        """The model's own module, wherever it lives."""
        module = self.model.get_output_embeddings()
        return LMHead("torch", module, module.weight.shape[0])

    def embeddings(self) -> Embeddings:
        """The model's own module, wherever it lives."""
        return Embeddings(self.model.get_input_embeddings())

    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        base = slot.num_cached
        stay = next((i for i, node in enumerate(nodes) if node != i), len(nodes))  # the first rows are in place already
        if stay < len(nodes):
            with torch.inference_mode():
                for layer in self.cache.layers:
                    layer.move(slot.index, [base + node for node in nodes[stay:]], base + stay)
        slot.token_ids.extend(token_ids)

    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        passes: list[tuple[Any, ...]] = []
        places: list[dict[int, Array]] = [{}, {}]  # segment -> where its rows are in the logits, and in the hidden states, of all passes
        num_rows = [0, 0]
        with torch.inference_mode():
            for group in _groups(batch):
                keep = max((len(batch[i]) for i in group if batch[i].wants_output), default=0)
                read = max((len(batch[i]) for i in group if batch[i].wants_hidden), default=0)
                passes.append(self._run([batch[i] for i in group], keep, max(keep, read)))
                for kind, length in enumerate((keep, max(keep, read))):
                    for b, i in enumerate(group):
                        places[kind][i] = num_rows[kind] + b * length + np.arange(len(batch[i]))
                    num_rows[kind] += len(group) * length
            outputs = [i for i, segment in enumerate(batch) if segment.wants_output]
            prompts = [i for i, segment in enumerate(batch) if segment.wants_hidden]
            logits, *hidden = (torch.cat(parts) for parts in zip(*passes, strict=True))
            kept = self._rows(logits, [places[0][i] for i in outputs])
            if not hidden:
                return TargetOutput(kept)
            states = self._rows(hidden[0], [places[1][i] for i in outputs])
            prompt_states = self._rows(hidden[0], [places[1][i] for i in prompts]) if prompts else None
            return TargetOutput(kept, states, prompt_hidden=prompt_states)

    def _rows(self, found: Any, places: list[Array]) -> Array:
        """The rows of a tensor at these places, one after the other."""
        index = self._tensor(np.concatenate([np.empty(0, np.int64), *places]))
        rows: Array = found[index].float().cpu().numpy()
        return rows

    def _run(self, segments: list[Segment], keep: int, read: int) -> tuple[Any, ...]:
        """One call of the model on [B, T], T = the longest segment. Logits of the first columns [B * keep, V], and hidden states, if there
        are to be any, [B * read, H]."""
        width, bases = max(len(segment) for segment in segments), [segment.slot.num_cached for segment in segments]
        self._take_place([segment.slot.index for segment in segments], bases, width)
        token_ids, position_ids = np.zeros((2, len(segments), width), np.int64)
        visible = np.zeros((len(segments), 1, width, self.place.read_len), bool)
        for b, (segment, base) in enumerate(zip(segments, bases, strict=True)):
            n, padding = len(segment), np.arange(len(segment), width)
            token_ids[b, :n], position_ids[b, :n] = segment.token_ids, segment.position_ids
            visible[b, 0, :n, :base] = True
            visible[b, 0, :n, base : base + n] = segment.mask
            visible[b, 0, padding, base + padding] = True  # itself only; a row that sees nothing may be NaN
        position_ids = np.minimum(position_ids, self.capabilities.max_len - 1)  # probes past the end: a position table has no such row
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=self.device)
        columns = torch.arange(keep, device=self.device) if keep else 1  # of the logits; 1 = the last one, as few as can be
        limit = max(keep, 1) if read > keep else None
        with self._read_by_head(limit) as hidden:
            outputs = self.model(
                **self._inputs(token_ids),
                attention_mask=mask.masked_fill_(self._tensor(~visible), torch.finfo(mask.dtype).min),
                position_ids=self._tensor(position_ids),
                **{self.cache_name: self.cache},
                use_cache=True,
                **({"logits_to_keep": columns} if self.can_skip_logits and limit is None else {}),
            )
        self.gate = None  # others may run this model too
        kept = (outputs.logits[:, :keep], *(states[:, :read] for states in hidden))
        return tuple(part.flatten(0, 1).to(self.device) for part in kept)

    def _inputs(self, token_ids: Array) -> dict[str, Any]:
        """What the model is given for ids [B, T]: the ids, or embeddings [B, T, H] where some rows have a helper's vector."""
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
        """What the LM head is given while this lasts, or nothing if hidden states are not wanted; with `limit` it reads so many of the
        first columns only. No other layer's states are held."""
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

    def _take_place(self, slots: list[int], bases: list[int], width: int) -> None:
        """Tell the layers which rows to write and read, and how many to have. Padding is written behind a segment's own rows."""
        place, stop = self.place, slots[0] + len(slots)
        place.slots = self._tensor(np.array(slots)[:, None])
        place.rows = self._tensor(np.array(bases)[:, None] + np.arange(width))
        place.read = slice(slots[0], stop) if slots == list(range(slots[0], stop)) else place.slots[:, 0]
        place.read_len = -(-(max(bases) + width) // READ_BLOCK) * READ_BLOCK
        place.num_slots = max(place.num_slots, max(slots) + 1)
        place.num_rows = max(place.num_rows, -(-place.read_len // ROW_BLOCK) * ROW_BLOCK)

    def _tensor(self, array: Array) -> Any:
        return torch.from_numpy(array).to(self.device)

    def _self_check(self) -> None:
        """Compare a tree behind a cached prefix with a plain pass: a model may accept a mask and positions, and ignore them."""
        tokens = [(7 * i + 1) % self.capabilities.vocab_size for i in range(8)]
        slot = self.allocate(8)
        self.forward([Segment(slot, tokens[:3], wants_output=False)])
        self.accept(slot, tokens[:3], range(3))
        got = self.forward([Segment(slot, [*tokens[3:4], *tokens[6:], *tokens[4:6]], [-1, 0, 1, 0, 3])]).logits[[0, 3, 4]]
        self.free(slot)
        with torch.inference_mode():
            expected = self.model(input_ids=self._tensor(np.array([tokens[:6]])), use_cache=False).logits[0, 3:].float().cpu().numpy()
        error = float(np.linalg.norm(got - expected) / np.linalg.norm(expected - expected.mean()))
        if not error < (0.01 if self.model.dtype.itemsize >= 4 else 0.3):  # ignored masks are off by about 1
            raise BadInputError(f"{type(self.model).__name__} ignores the mask or positions (logits {error:.0%} off); use another model")


def _groups(batch: TreeBatch) -> list[list[int]]:
    """Segments to run together, in slot order: apart from others, a prefill chunk does not pad their decode steps to its width."""
    groups: list[list[int]] = []
    padding = 0
    for i in sorted(range(len(batch)), key=lambda i: -len(batch[i])):
        padding += len(batch[groups[-1][0]]) - len(batch[i]) if groups else MAX_PADDING + 1
        if padding > MAX_PADDING:
            groups.append([])
            padding = 0
        groups[-1].append(i)
    return [sorted(group, key=lambda i: batch[i].slot.index) for group in groups]


def _refuse(model: Any) -> None:
    """Raise BadInputError for a model whose declared facts rule out rollback or trees."""
    config, inputs = model.config.get_text_config(), inspect.signature(model.forward).parameters
    layer_types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()
    other = sorted(set(layer_types) - {"full_attention", "sliding_attention", "global"})
    reason = ""
    if model.config.is_encoder_decoder:
        reason = "is an encoder-decoder model; use a decoder-only one"
    elif getattr(model, "_is_stateful", False) or other:
        state = f"layers of type {', '.join(other)}" if other else "a recurrent state"
        reason = f"has {state}, so wrong guesses cannot be rolled back; use a model with attention layers only"
    elif "position_ids" not in inputs or getattr(config, "alibi", False):
        reason = "takes no position ids (ALiBi, for example), so a draft tree has no place; use a model with rotary or learned positions"
    elif not inputs.keys() & set(CACHE_NAMES) or model.get_output_embeddings() is None:
        reason = "is no causal language model with a K/V cache; load it with AutoModelForCausalLM"
    if reason:
        raise BadInputError(f"{type(model).__name__} {reason}")


def _max_len(config: Any, asked: int | None) -> int:
    """The longest exact text: what is asked for, within the context, the sliding window and the first rotary scale."""
    limits = {"context": getattr(config, "max_position_embeddings", None), "given max_len": asked}
    layer_types = getattr(config, "layer_types", None)
    if "sliding_attention" in layer_types if layer_types else getattr(config, "use_sliding_window", True):
        limits["sliding window"] = getattr(config, "sliding_window", None)  # within it, sliding attention is full attention
    rope = getattr(config, "rope_parameters", None) or {}
    for entry in (rope, *rope.values()):  # one for all layers, or one per layer type
        if isinstance(entry, dict) and entry.get("rope_type") == "longrope":  # past it, a long text changes all others in its batch
            limits["longrope switch"] = entry.get("original_max_position_embeddings")
    name, limit = min(((name, limit) for name, limit in limits.items() if limit), key=lambda item: item[1], default=("", 0))
    if not limit:
        raise BadInputError("the model's config declares no max_position_embeddings; pass max_len")
    if name in ("sliding window", "longrope switch"):
        logger.warning("texts are limited to %d tokens by the model's %s", limit, name)
    return int(limit)
