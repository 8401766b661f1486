"""One call of a live model on a rectangle of tokens. Everything that differs from call to call of one shape is in two tensors, and
nothing waits for the device, so that a call can be captured as a CUDA graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from outpace.targets.hf.draws import draw
from outpace.targets.hf.kv_cache import KVCache
from outpace.targets.hf.live_models import cache_name_of
from outpace.targets.hf.masks import Windows, by_position
from outpace.targets.vectors import VectorTable


@dataclass(frozen=True)
class Shape:
    """The shape of a call: `num_seqs` sequences in the places from `first` on, of `width` tokens each, which read `read_len` rows.

    `keep` first columns give logits, `read` first ones hidden states; `has_vectors`: some tokens are vectors of heads; `kinds` of draws
    from the logits, see DrawArrays; None: no draws.
    """

    first: int
    num_seqs: int
    width: int
    read_len: int
    keep: int
    read: int
    has_vectors: bool
    kinds: tuple[bool, bool] | None = None


class ModelCall:
    """Calls the model of a target, with its K/V cache."""

    def __init__(self, model: Callable[[], Any], kv_cache: KVCache, windows: Windows | None, hidden: bool, max_len: int):
        """`model` returns the live model. Positions past `max_len` - 1, of lookahead tokens, are cut to it."""
        self.model, self.windows, self.hidden, self.max_len = model, windows, hidden, max_len
        live = model()
        self.device, self.dtype = live.device, live.dtype
        self.can_skip_logits = "logits_to_keep" in inspect.signature(live.forward).parameters
        self.cache_name = cache_name_of(live)
        self.place, self.cache = kv_cache.place, Cache(layers=kv_cache.layers)
        self.vectors: VectorTable | None = None
        self.gate: Any = None  # [B, T, 1] bool: tokens of the running forward pass that low-rank weights act on; None for none

    def __call__(self, shape: Shape, numbers: Any, visible: Any, whole: Any = None, real: Any = None) -> tuple[Any, ...]:
        """Logits [B * keep, V], tokens drawn from them [B * keep] if any are to be, and hidden states [B * read, H] if the target has some.

        `numbers` [3, B, T] int64 are token ids, positions and rows, `visible` [B, T, R] bool the rows that each token attends to, `whole`
        [4, B, keep] and `real` [3, B, keep] how tokens are drawn."""
        token_ids, positions, rows = numbers
        place, keep = self.place, shape.keep
        place.first, place.read_len, place.rows = shape.first, shape.read_len, rows
        place.places = torch.arange(shape.first, shape.first + shape.num_seqs, device=self.device)[:, None]
        columns = torch.arange(keep, device=self.device) if keep else 1  # of the logits; 1 = the last column, the least a model can compute
        limit = max(keep, 1) if shape.read > keep else None
        inputs = self._inputs(token_ids, shape.has_vectors)
        with self._read_by_head(limit) as hidden, self._masked(positions, rows, visible) as mask:
            outputs = self.model()(
                **inputs,
                attention_mask=mask,
                position_ids=positions.clamp(max=self.max_len - 1),
                **{self.cache_name: self.cache},
                use_cache=True,
                **({"logits_to_keep": columns} if self.can_skip_logits and limit is None else {}),
            )
        self.gate = None  # others may run this model too
        logits, *states = (part.flatten(0, 1).to(self.device) for part in (outputs.logits[:, :keep], *(h[:, : shape.read] for h in hidden)))
        draws = () if shape.kinds is None else (draw(logits.float(), whole.flatten(1), real.flatten(1), shape.kinds),)
        return logits, *draws, *states

    @contextmanager
    def _masked(self, positions: Any, rows: Any, visible: Any) -> Iterator[Any]:
        """The mask to pass to the model. It is None if the model asks for the masks of its layers inside the `with` block."""
        if self.windows is None:
            mask = torch.zeros(visible[:, None].shape, dtype=self.dtype, device=self.device)
            yield mask.masked_fill_(~visible[:, None], torch.finfo(self.dtype).min)
            return
        last = visible.shape[2] - 1
        stands = torch.arange(last + 1, device=self.device).repeat(len(rows), 1)  # [B, R]: where the key of each row stands
        stands.scatter_(1, rows.clamp(max=last), positions)
        keys = torch.where(visible, stands[:, None], -1)
        with by_position(positions, keys, self.windows):
            yield None

    def _inputs(self, token_ids: Any, has_vectors: bool) -> dict[str, Any]:
        """The model's input for ids [B, T]: the ids themselves, or embeddings [B, T, H] if some ids name vectors of heads."""
        self.gate = None
        if self.vectors is None or not has_vectors:
            return {"input_ids": token_ids}
        places = token_ids - self.vectors.vocab_size
        is_vector, places = places >= 0, places.clamp(min=0)
        embeddings = self.model().get_input_embeddings()(token_ids.clamp(max=self.vectors.vocab_size - 1))
        vectors = torch.from_numpy(self.vectors.rows).to(embeddings.device, embeddings.dtype)[places]
        if self.vectors.low_rank:
            gates = torch.from_numpy(self.vectors.gates).to(self.device)[places] > 0
            self.gate = (is_vector & gates)[..., None]
        return {"inputs_embeds": torch.where(is_vector[..., None], vectors, embeddings)}

    @contextmanager
    def _read_by_head(self, limit: int | None) -> Iterator[list[Any]]:
        """Collect the inputs of the LM head inside the `with` block; the list stays empty if the target returns no hidden states. With
        `limit` the head reads only that many first columns. No other layer's states are kept."""
        seen: list[Any] = []
        if not self.hidden:
            yield seen
            return

        def read(_: Any, inputs: tuple[Any, ...]) -> Any:
            seen.append(inputs[0])
            return None if limit is None else (inputs[0][:, :limit], *inputs[1:])

        hook = self.model().get_output_embeddings().register_forward_pre_hook(read)
        try:
            yield seen
        finally:
            hook.remove()
