"""Mixtures of experts in a form that can be traced: every expert sees every token, and those not chosen weigh nothing.

The loop of transformers bakes in the experts that the example chose. Gathering the weights of each token's experts (its "batched_mm")
is right but takes the memory of all gathered weights, gigabytes for a prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations.moe import ExpertsInterface

NAME = "every_expert"


def every_expert(experts: Any, states: Any, chosen: Any, weights: Any) -> Any:
    """The output [T, H] of the experts for `states` [T, H], from the experts `chosen` [T, k] with their `weights` [T, k]."""
    shares = torch.zeros(states.shape[0], experts.num_experts, dtype=states.dtype).scatter(1, chosen, weights.to(states.dtype))
    tiled = states.repeat(experts.num_experts, 1).view(experts.num_experts, -1, states.shape[1])

    def project(rows: Any, name: str) -> Any:
        matrix = getattr(experts, name)
        out = torch.bmm(rows, matrix if experts.is_transposed else matrix.transpose(1, 2))
        return out + getattr(experts, f"{name}_bias")[:, None] if experts.has_bias else out

    inner = experts._apply_gate(project(tiled, "gate_up_proj")) if experts.has_gate else experts.act_fn(project(tiled, "up_proj"))
    out = project(inner, "down_proj")
    out = experts.post_expert_norm(out) if experts.has_post_expert_norm else out
    return (out * shares.transpose(0, 1)[..., None]).sum(0)


ExpertsInterface.register(NAME, every_expert)
