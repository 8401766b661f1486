"""The divergence of a student's next-token distribution from its teacher's, through one frozen LM head, in pieces as in loss.py."""

from __future__ import annotations

from typing import Any

import torch

from outpace.training.loss import FrozenHead

PIECE_LOGITS = 1 << 23  # logits of a piece, of student and teacher each


def divergence(states: torch.Tensor, teacher: torch.Tensor, head: FrozenHead) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean over the rows of KL(teacher || student) in nats, the student's likeliest rows of the head [n] int64) (1503.02531).

    states and teacher [n, H], n >= 1: the inputs of the head from student and teacher. Gradients flow to `states` only.
    """
    loss, likeliest = _Divergence.apply(states, teacher, head)
    return loss, likeliest


class _Divergence(torch.autograd.Function):
    """Computes the gradient together with the loss, which already needs both softmaxes."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, teacher: torch.Tensor, head: FrozenHead) -> Any:
        gradient = torch.empty_like(states, dtype=torch.float32)
        losses = torch.empty(len(states), device=states.device)
        likeliest = torch.empty(len(states), dtype=torch.int64, device=states.device)
        num_rows = max(1, PIECE_LOGITS // len(head.weight))
        for start in range(0, len(states), num_rows):
            piece = slice(start, start + num_rows)
            mine = head.logits(states[piece]).log_softmax(1)
            wanted = head.logits(teacher[piece]).log_softmax(1)
            likeliest[piece] = mine.max(1).indices  # argmax takes three times as long
            shares = wanted.exp()
            losses[piece] = wanted.sub_(mine).mul_(shares).sum(1)
            gradient[piece] = (mine.exp_().sub_(shares).to(head.weight.dtype) @ head.weight).float()
        ctx.save_for_backward(gradient.div_(len(states)).to(states.dtype))
        ctx.mark_non_differentiable(likeliest)
        return losses.mean(), likeliest

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None
