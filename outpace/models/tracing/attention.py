"""The attention of a transformers model during conversion: which calls it makes, and the form in which they are traced.

Each call of the attention function gets past K/V of its own and concatenates them itself. So the shapes that count are those that the
attention sees, whatever the model caches: layers that share K/V, latent attention and layers of unequal heads need nothing special. The
windows and sinks of the calls are recorded, for the paged graph (`targets/openvino/graphs.py`) to set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from outpace.errors import BadInputError
from outpace.targets.hf.own_attention import Attend, replace_attention, restore_attention, rule_of

NAME = "traced"  # of the attention implementation
TORCH_ATTENTION = torch.nn.functional.scaled_dot_product_attention
KINDS = ("key", "value")


@dataclass(frozen=True)
class AttentionCall:
    """One call of the attention function: K/V heads and widths, its sliding window (0: none) and its sinks, one per query head."""

    num_heads: int
    widths: tuple[int, int]  # of keys and values
    window: int
    sinks: tuple[float, ...]


class PassingLayer(CacheLayerMixin):  # type: ignore[misc]
    """A cache layer that hands on the K/V it is given and keeps nothing."""

    is_sliding = False

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Nothing to allocate."""

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The tensors given."""
        return key_states, value_states

    def get_mask_sizes(self, query_length: int, *args: Any) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self, *args: Any) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class Attention:
    """The attention function and the mask function of one forward pass, which begins with `begin`."""

    def __init__(self) -> None:
        self.calls: list[AttentionCall] = []
        self.past: Sequence[Any] = ()
        self.present: list[Any] = []
        self.mask: Any = None
        self.windows: dict[int, int] = {}  # address of a mask that the model was given -> its window
        self.given: list[Any] = []  # those masks, so that no other tensor gets their address

    @contextmanager
    def used_by(self, model: Any) -> Iterator[None]:
        """Inside the `with` block the model attends by this object; one that takes no attention function, where it calls torch's own."""
        if model._can_set_attn_implementation():
            AttentionInterface.register(NAME, self.attend)
            AttentionMaskInterface.register(NAME, self.mask_for)
            model.set_attn_implementation(NAME)
            for module in model.modules():  # layers that another model lends have the config of that model
                if hasattr(module, "config"):
                    module.config._attn_implementation = NAME
            yield
            return
        replace_attention(model, self._own)
        mask = AttentionMaskInterface()["sdpa"]
        torch.nn.functional.scaled_dot_product_attention = self._attend_as_torch
        AttentionMaskInterface.register("sdpa", self.mask_for)
        try:
            yield
        finally:
            restore_attention(model)
            torch.nn.functional.scaled_dot_product_attention = TORCH_ATTENTION
            AttentionMaskInterface.register("sdpa", mask)

    def begin(self, mask: Any, past: Sequence[Any]) -> None:
        """Attend by `mask` [1, 1, T, past + T], behind the keys and values `past` of each call in turn."""
        self.mask, self.past, self.calls, self.present, self.windows, self.given = mask, past, [], [], {}, []

    def mask_for(self, *args: Any, mask_function: Any = causal_mask_function, local_size: int | None = None, **options: Any) -> Any:
        """A mask for the layers of one kind. It only names the kind; the trace attends by the mask of `begin`."""
        mask = torch.zeros_like(self.mask)
        self.given.append(mask)
        self.windows[mask.data_ptr()] = window_of(mask_function, local_size)
        return mask

    def attend(
        self, module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, **kwargs: Any
    ) -> tuple[Any, None]:
        """Attention of [B, heads, T, width] as [B, T, heads, width]. Raises BadInputError for variants that the converted graph cannot
        express."""
        for name in ("softcap", "position_bias", "score_mod"):
            if kwargs.get(name) is not None:
                raise BadInputError(f"its attention uses {name}, which OpenVINO cannot express; use --target hf")
        if attention_mask is None or attention_mask.data_ptr() not in self.windows:
            raise BadInputError("its attention makes a mask of its own, which the converter cannot follow; use --target hf")
        sinks = kwargs.get("s_aux")
        kept = tuple(sinks.detach().float().flatten().tolist()) if sinks is not None else ()
        self.calls.append(AttentionCall(key.shape[1], (key.shape[3], value.shape[3]), self.windows[attention_mask.data_ptr()], kept))
        if self.past:
            place = len(self.present)
            key, value = torch.cat([self.past[place], key], -2), torch.cat([self.past[place + 1], value], -2)
        self.present += [key, value]
        groups = query.shape[1] // key.shape[1]
        out = TORCH_ATTENTION(query, _repeated(key, groups), _repeated(value, groups), attn_mask=self.mask, scale=scaling)
        return out.transpose(1, 2).contiguous(), None

    def _own(self, module: Any, window: int) -> Attend:
        """The attention of a layer that brings its own: scores are not scaled."""

        def attend(query: Any, key: Any, value: Any, _: Any = None) -> tuple[Any, None]:
            mask = self.mask_for(mask_function=rule_of(window), local_size=window)
            return self.attend(module, query, key, value, mask, scaling=1.0)[0].transpose(1, 2), None

        return attend

    def _attend_as_torch(
        self, query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, scale: Any = None, **kwargs: Any
    ) -> Any:
        """The same with the arguments and the result of torch's function."""
        return self.attend(None, query, key, value, attn_mask, scale)[0].transpose(1, 2)


def _repeated(states: Any, groups: int) -> Any:
    """K or V [B, kv_heads, T, width] with every head repeated."""
    if groups == 1:
        return states
    batch, heads, length, width = states.shape
    return states[:, :, None].expand(batch, heads, groups, length, width).reshape(batch, heads * groups, length, width)


def window_of(rule: Any, width: int | None) -> int:
    """The sliding window of a mask function, in tokens; 0 for full attention and for chunks, within whose first one attention is full.
    Raises BadInputError for a mask that is not causal."""
    batch, place = torch.zeros(1, dtype=torch.long), 3 * (width or 1)

    def allows(query: int, key: int) -> bool:
        return bool(rule(batch, batch, torch.tensor([query]), torch.tensor([key])).item())

    if allows(place, place + 1):
        raise BadInputError("its attention sees later tokens; use a causal language model")
    if not width or allows(place, place - width):
        return 0
    return width if allows(place, place - width + 1) else 0
