"""A model that runs but is not trained, for blanks: one pass over a text, and many groups of blanks behind places of it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from outpace.core import Array
from outpace.helpers.format import Base
from outpace.helpers.identity import base_of
from outpace.models import locate
from outpace.models.transformers_io import load_model
from outpace.targets.hf import CACHE_NAMES
from outpace.training.loss import FrozenHead, has_fast_bfloat16


class Places(NamedTuple):
    """A text [L] of token ids, and the positions [A] in it behind which blanks stand."""

    token_ids: Sequence[int]
    anchors: Array


@dataclass(frozen=True)
class FrozenModel:
    """A transformers model in the type that its device multiplies fastest, its LM head, and its embeddings [V, H]."""

    base: Base
    live: Any
    head: FrozenHead
    embeddings: torch.Tensor

    @classmethod
    def of(cls, model: str, device: torch.device) -> FrozenModel:
        """Read with transformers. Raises BadInputError for a model that cannot be read."""
        source = locate(model)
        live = load_model(source.path, torch.float32)
        base = base_of(live, source.name)
        live = live.requires_grad_(False).to(device, torch.bfloat16 if has_fast_bfloat16(device) else torch.float32)
        if live.config._attn_implementation not in ("eager", "sdpa"):  # other kernels take no explicit mask
            live.set_attn_implementation("sdpa" if live._supports_sdpa else "eager")
        head = live.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return cls(base, live, FrozenHead(head.weight, None if bias is None else bias.float()), live.get_input_embeddings().weight)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.embeddings.device

    def next_tokens(self, token_ids: Sequence[int]) -> Array:
        """[L]: the likeliest token after each token of a text."""
        with torch.inference_mode():
            states = self.live.base_model(input_ids=torch.tensor([token_ids], device=self.device)).last_hidden_state[0]
            likeliest: Array = self.head.logits(states).argmax(dim=1).cpu().numpy()
            return likeliest

    def states(self, batch: Sequence[Places], blanks: torch.Tensor) -> torch.Tensor:
        """[B, A, m, H]: what the LM head reads at blanks [m, H] behind the A anchors of each of B texts, A being the most that a text has;
        what stands behind those that a text lacks means nothing. Gradients reach the blanks only.

        A blank sees the text up to its anchor and the blanks before it behind the same anchor, and nobody sees a blank.
        """
        ids, anchors = _padded([places.token_ids for places in batch]), _padded([places.anchors for places in batch])
        count, num_anchors = len(blanks), anchors.shape[1]
        module, cache = self.live.base_model, DynamicCache()
        name = next(name for name in CACHE_NAMES if name in inspect.signature(module.forward).parameters)
        with torch.no_grad():
            module(input_ids=ids.to(self.device), **{name: cache}, use_cache=True)
        positions = (anchors[:, :, None] + 1 + torch.arange(count)).flatten(1)
        visible = _visible(ids.shape[1], anchors, count).to(self.device)
        mask = torch.zeros(visible.shape, dtype=self.live.dtype, device=self.device)
        outputs = module(
            inputs_embeds=blanks.to(self.live.dtype).repeat(num_anchors, 1).expand(len(batch), -1, -1),
            attention_mask=mask.masked_fill_(~visible, torch.finfo(mask.dtype).min),
            position_ids=positions.to(self.device),
            **{name: cache},
            use_cache=True,
        )
        states: torch.Tensor = outputs.last_hidden_state
        return states.view(len(batch), num_anchors, count, -1)


def _padded(rows: Sequence[Sequence[int] | Array]) -> torch.Tensor:
    """[B, longest] int64; short rows go on with zeros, which no row before them sees."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded)


def _visible(length: int, anchors: torch.Tensor, count: int) -> torch.Tensor:
    """[B, 1, A * count, length + A * count] bool: which columns, the text's and then the blanks', each blank sees."""
    blanks = torch.arange(anchors.shape[1] * count)
    text = torch.arange(length) <= anchors.repeat_interleave(count, 1)[:, :, None]
    own = (blanks[:, None] // count == blanks // count) & (blanks[:, None] >= blanks)
    return torch.cat([text, own.expand(len(anchors), -1, -1)], 2)[:, None]
