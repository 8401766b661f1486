"""A frozen model that trains mask tokens: one forward pass over a text, and many groups of mask tokens after positions of it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from transformers.cache_utils import DynamicCache

from outpace.arrays import Array
from outpace.models.transformers_io import load_in_f32
from outpace.targets.hf.live_models import CACHE_NAMES
from outpace.targets.hf.low_rank import add_low_rank
from outpace.targets.identity import Base, base_of
from outpace.training.loss import FrozenHead, has_fast_bfloat16

LowRankTensors: TypeAlias = tuple[torch.Tensor, torch.Tensor]


class Places(NamedTuple):
    """A text [L] of token ids, and the positions [A] in it that mask tokens follow."""

    token_ids: Sequence[int]
    anchors: Array


@dataclass(frozen=True)
class FrozenModel:
    """A transformers model in the type that its device multiplies fastest, with its LM head and its embeddings [V, H]."""

    base: Base
    live: Any
    head: FrozenHead
    embeddings: torch.Tensor

    @classmethod
    def of(cls, model: str, device: torch.device) -> FrozenModel:
        """Load with transformers. Raises BadInputError if the model cannot be loaded."""
        live, source = load_in_f32(model)
        base = base_of(live, source.name)
        live = live.requires_grad_(False).to(device, torch.bfloat16 if has_fast_bfloat16(device) else torch.float32)
        if live.config._attn_implementation not in ("eager", "sdpa"):  # other kernels accept no explicit mask
            live.set_attn_implementation("sdpa" if live._supports_sdpa else "eager")
        head = live.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return cls(base, live, FrozenHead(head.weight, None if bias is None else bias.float()), live.get_input_embeddings().weight)

    @property
    def num_layers(self) -> int:
        """Number of layers of the model."""
        return int(self.live.config.get_text_config().num_hidden_layers)

    @property
    def device(self) -> torch.device:
        """The device it runs on."""
        return self.embeddings.device

    def next_tokens(self, token_ids: Sequence[int]) -> Array:
        """[L] int64: the likeliest token after each token of a text."""
        with torch.inference_mode():
            states = self.live.base_model(input_ids=torch.tensor([token_ids], device=self.device)).last_hidden_state[0]
            likeliest: Array = self.head.logits(states).argmax(dim=1).cpu().numpy()
            return likeliest

    def states(self, places: Places, blanks: torch.Tensor, low_rank: LowRankTensors | None = None) -> torch.Tensor:
        """The inputs of the LM head [A, m, H] at mask tokens `blanks` [m, H] after each of the A anchors.

        A mask token attends to the text up to its anchor and to the mask tokens before it after the same anchor; no text token attends to
        a mask token. Gradients reach only the mask tokens and their low-rank weights (down [layers, H, r], up [layers, r, H]).
        """
        num_anchors, count = len(places.anchors), len(blanks)
        ids, anchors = torch.tensor([places.token_ids], device=self.device), torch.from_numpy(places.anchors).to(self.device)
        module, cache = self.live.base_model, DynamicCache()
        name = next(name for name in CACHE_NAMES if name in inspect.signature(module.forward).parameters)
        with torch.no_grad():
            module(input_ids=ids, **{name: cache}, use_cache=True)
        visible = _visible(ids.shape[1], anchors, count)
        mask = torch.zeros(visible.shape, dtype=self.live.dtype, device=self.device)
        hooks = add_low_rank(module, list(low_rank[0]), list(low_rank[1])) if low_rank else []
        try:
            outputs = module(
                inputs_embeds=blanks.to(self.live.dtype).repeat(num_anchors, 1)[None],
                attention_mask=mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)[None, None],
                position_ids=(anchors[:, None] + 1 + torch.arange(count, device=self.device)).view(1, -1),
                **{name: cache},
                use_cache=True,
            )
        finally:
            for hook in hooks:
                hook.remove()
        states: torch.Tensor = outputs.last_hidden_state
        return states.view(num_anchors, count, -1)


def _visible(length: int, anchors: torch.Tensor, count: int) -> torch.Tensor:
    """[A * count, length + A * count] bool: the columns, first the text's, then the mask tokens', that each mask token attends to."""
    blanks = torch.arange(len(anchors) * count, device=anchors.device)
    text = torch.arange(length, device=anchors.device) <= anchors.repeat_interleave(count)[:, None]
    own = (blanks[:, None] // count == blanks // count) & (blanks[:, None] >= blanks)
    return torch.cat([text, own], 1)
