"""Cross-entropy through an LM head, computed in pieces so that the logits of a batch, 50,000 numbers per row, never exist all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from outpace.arrays import Array

PIECE_ROWS = 512


@dataclass(frozen=True)
class FrozenHead:
    """An LM head that is not trained: weight [R, H] in the type used for multiplication, bias [R] float32 or None.

    `vocab_ids` [R] int64 are the tokens of its rows; None means that row i is token i.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    vocab_ids: torch.Tensor | None = None

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [n, R] float32."""
        return logits_of(states, self.weight, self.bias)

    def places(self, vocab_size: int) -> torch.Tensor:
        """[V] int64: the row of the head for each token, -1 if it has none."""
        if self.vocab_ids is None:
            return torch.arange(vocab_size, device=self.weight.device)
        places = torch.full((vocab_size,), -1, device=self.weight.device)
        places[self.vocab_ids] = torch.arange(len(self.vocab_ids), device=self.weight.device)
        return places

    def loss(self, states: torch.Tensor, labels: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `piecewise_loss`."""
        return piecewise_loss(states, self.weight, self.bias, labels, importance)


def logits_of(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """States [n, H] times weight [R, H], in its type, plus bias [R]: [n, R] float32."""
    logits = (states.to(weight.dtype) @ weight.T).float()
    return logits if bias is None else logits.add_(bias)


def piecewise_loss(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, importance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum over the rows of importance times cross-entropy, whether the likeliest token is the right one [n] bool).

    states [n, H]; weight [R, H] and bias [R] of the LM head, whose weight is trained if it requires a gradient; labels [n] int64 are rows
    of the head, -1 for none; importance [n] float32.
    """
    loss, hits = _PiecewiseLoss.apply(states, weight, bias, labels, importance)
    return loss, hits


class _PiecewiseLoss(torch.autograd.Function):
    """Computes the gradients together with the loss, which already needs the softmax."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, importance: torch.Tensor
    ) -> Any:
        importance = torch.where(labels >= 0, importance, 0.0)
        gradient = torch.empty_like(states, dtype=torch.float32)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        losses = torch.empty(len(states), device=states.device)
        hits = torch.empty(len(states), dtype=torch.bool, device=states.device)
        for start in range(0, len(states), PIECE_ROWS):
            piece = slice(start, start + PIECE_ROWS)
            right_rows = labels[piece].clamp(min=0)
            logits = logits_of(states[piece], weight, bias)
            highest = logits.amax(1)
            right = logits.gather(1, right_rows[:, None])[:, 0]
            shares = logits.sub_(highest[:, None]).exp_()
            total = shares.sum(1)
            losses[piece] = total.log() + highest - right
            hits[piece] = (right == highest) & (labels[piece] >= 0)
            pull = (shares.to(weight.dtype) @ weight).float() / total[:, None] - weight[right_rows].float()
            gradient[piece] = pull * importance[piece, None]
            if weight_gradient is not None:
                share_of_row = (importance[piece] / total)[:, None]
                weight_gradient += (shares.mul_(share_of_row).to(weight.dtype).T @ states[piece].to(weight.dtype)).float()
                weight_gradient.index_add_(0, right_rows, states[piece].float() * -importance[piece, None])
        ctx.save_for_backward(gradient.to(states.dtype), None if weight_gradient is None else weight_gradient.to(weight.dtype))
        ctx.mark_non_differentiable(hits)
        return (losses * importance).sum(), hits

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        of_states, of_weight = ctx.saved_tensors
        return of_states * gradients[0], None if of_weight is None else of_weight * gradients[0], None, None, None


def tensors_of(module: torch.nn.Module, head: FrozenHead) -> dict[str, Array]:
    """The weights of a module that uses this head, under the names of the file format."""
    tensors = {name: parameter.detach().float().cpu().numpy() for name, parameter in module.named_parameters()}
    return tensors if head.vocab_ids is None else {**tensors, "vocab_ids": head.vocab_ids.cpu().numpy()}


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type != "cpu":
        return True
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
