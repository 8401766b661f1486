"""An EAGLE head (2401.15077): one transformer layer that predicts the target's next hidden state, and thereby the token after the next.

Input t is the feature g_t [H], which is the hidden state that the target's LM head read at position t, and the embedding of token t + 1:
`x = fc([embedding, g_t])`, followed by one Llama layer without its input norm, at position t, which attends to the inputs before it. The
target's LM head maps the output a_t [H] to a prediction of token t + 2; for the next draft token a_t replaces g_(t+1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads import checks
from outpace.heads.format import DraftHeads

MAX_HEADS, MAX_HEAD_DIM, MAX_INTERMEDIATE, MAX_TEMPERATURES = 1024, 1024, 1 << 20, 32
TENSORS = {  # names of the matrices of EagleWeights on disk, the same as vLLM's
    "fc": "fc.weight",
    **{f"{part}_proj": f"layers.0.self_attn.{part}_proj.weight" for part in "qkvo"},
    **{f"{part}_proj": f"layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")},
    "norm": "layers.0.post_attention_layernorm.weight",
}


@dataclass(frozen=True)
class EagleWeights:
    """Weights in float32; matrices are [out, in], as in torch. D is the size of an attention head.

    fc [H, 2H], the embedding's half first; q_proj [heads * D, H], k_proj and v_proj [kv_heads * D, H], o_proj [H, heads * D]; gate_proj and
    up_proj [I, H], down_proj [H, I]; norm [H], of the MLP's input; vocab_ids [R], the tokens of a reduced vocabulary, or None;
    temperatures [n], divisors of the logits at depth 1, 2, …, the last one for all deeper levels.
    """

    fc: Array
    q_proj: Array
    k_proj: Array
    v_proj: Array
    o_proj: Array
    gate_proj: Array
    up_proj: Array
    down_proj: Array
    norm: Array
    vocab_ids: Array | None
    temperatures: Array
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float

    @property
    def hidden_size(self) -> int:
        return int(self.fc.shape[0])


def eagle_weights(heads: DraftHeads) -> EagleWeights:
    """The weights of heads of kind eagle. Raises BadInputError for settings or tensors that are missing, surplus or of a wrong shape."""
    if heads.kind != "eagle":
        raise BadInputError(f"these heads are of kind {heads.kind!r}, not eagle")
    settings, size = heads.settings, heads.base.hidden_size
    num_heads = checks.count(settings, "num_attention_heads", 1, MAX_HEADS)
    num_kv_heads = checks.count(settings, "num_key_value_heads", 1, num_heads)
    head_dim = checks.count(settings, "head_dim", 2, MAX_HEAD_DIM)
    inner = checks.count(settings, "intermediate_size", 1, MAX_INTERMEDIATE)
    if num_heads % num_kv_heads or head_dim % 2:
        raise BadInputError(f"{num_heads} attention heads must be a multiple of {num_kv_heads} key heads, and the size {head_dim} even")
    shapes = {
        "fc": (size, 2 * size),
        "q_proj": (num_heads * head_dim, size),
        "k_proj": (num_kv_heads * head_dim, size),
        "v_proj": (num_kv_heads * head_dim, size),
        "o_proj": (size, num_heads * head_dim),
        "gate_proj": (inner, size),
        "up_proj": (inner, size),
        "down_proj": (size, inner),
        "norm": (size,),
    }
    return EagleWeights(
        **_matrices(heads, shapes),
        vocab_ids=checks.vocab_ids(heads),
        temperatures=checks.temperatures(settings.get("temperatures", [1.0]), None, MAX_TEMPERATURES),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope_theta=checks.number(settings, "rope_theta", 1.0, 1e12),
        norm_eps=checks.number(settings, "rms_norm_eps", 1e-12, 0.1),
    )


def _matrices(heads: DraftHeads, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """The tensors of these shapes in float32, under the names of EagleWeights."""
    found: dict[str, Array] = {}
    for name, shape in shapes.items():
        tensor = heads.tensors.get(TENSORS[name])
        if tensor is None or tensor.shape != shape:
            is_there = "missing" if tensor is None else list(tensor.shape)
            raise BadInputError(f"{TENSORS[name]} must be {list(shape)}, not {is_there}")
        found[name] = tensor.astype(np.float32)
    unused = set(heads.tensors) - {TENSORS[name] for name in shapes} - {"vocab_ids"}
    if unused:
        raise BadInputError(f"tensors that an eagle head does not use: {', '.join(sorted(unused))[:200]}")
    return found
