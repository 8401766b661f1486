"""Medusa heads in torch, on the device and in the data type of the target's LM head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from outpace.arrays import Array
from outpace.heads.medusa.weights import MedusaWeights
from outpace.targets.base import LMHead


class TorchHeads:
    """Runs the target's own LM head unless the heads have LM heads; for a reduced vocabulary the needed rows are copied."""

    def __init__(self, weights: MedusaWeights, lm_head: LMHead, top: int):
        self.lm_head, self.bias, self.run = lm_head.module, None, lm_head.run or self._directly
        like, self.top = self.lm_head.weight, top

        def tensor(array: Array) -> Any:
            return torch.from_numpy(array).to(like.device, like.dtype)

        self.blocks = [(tensor(w), tensor(b)[:, None]) for w, b in zip(weights.weights, weights.biases, strict=True)]
        self.projections = None if weights.projections is None else tensor(weights.projections)
        self.temperatures = torch.from_numpy(weights.temperatures)[:, None, None].to(like.device)
        self.vocab_ids = None if weights.vocab_ids is None else torch.from_numpy(weights.vocab_ids).to(like.device)
        self.lm_heads = None if weights.lm_heads is None else tensor(weights.lm_heads)
        if self.lm_heads is None and self.vocab_ids is not None:
            bias = getattr(self.lm_head, "bias", None)
            self.lm_heads = like.detach()[self.vocab_ids][None].expand(weights.num_heads, -1, -1)
            self.bias = None if bias is None else bias.detach()[self.vocab_ids]
        self.num_heads = weights.num_heads

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """See `runtime.Heads`."""
        with torch.inference_mode():
            tokens, confidences = self.run(len(hidden), self._likeliest, {"hidden": hidden})
            return tokens.cpu().numpy(), confidences.cpu().numpy()

    def _likeliest(self, hidden: Any) -> tuple[Any, Any]:
        """Tokens and confidences [n, K, top] of hidden states [n, H], on the device."""
        x = hidden.to(self.lm_head.weight.dtype).expand(self.num_heads, -1, -1)  # [K, n, H]
        for weight, bias in self.blocks:
            x = x + torch.nn.functional.silu(torch.baddbmm(bias, x, weight.mT))
        if self.projections is not None:
            x = torch.bmm(x, self.projections.mT)
        logits = self.lm_head(x) if self.lm_heads is None else torch.bmm(x, self.lm_heads.mT)
        logits = logits if self.bias is None else logits + self.bias
        confidences, best = torch.softmax(logits.float() / self.temperatures, dim=2).topk(self.top, dim=2)
        tokens = best if self.vocab_ids is None else self.vocab_ids[best]
        return tokens.transpose(0, 1), confidences.transpose(0, 1)

    def _directly(self, _: Any, function: Callable[..., tuple[Any, ...]], arrays: Mapping[str, Array]) -> tuple[Any, ...]:
        device = self.lm_head.weight.device
        return function(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()})
