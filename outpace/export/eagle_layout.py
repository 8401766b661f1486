"""EAGLE heads in vLLM's layout (`EagleLlamaForCausalLM`): a Llama of one layer that shares the model's embeddings and LM head.

The weights are the same in both layouts. vLLM drafts chains over the whole vocabulary, so the reduced vocabulary and the temperatures are
omitted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.export.base import BaseModel
from outpace.heads.eagle.weights import TENSORS, EagleWeights, eagle_weights
from outpace.heads.format import DraftHeads


def plain_eagle(source: Path, model: BaseModel) -> EagleWeights:
    """Read the head in a folder. Raises BadInputError for a head of another model, and for tensors that vLLM would silently ignore."""
    heads = DraftHeads.from_pretrained(source, model.base)
    try:
        return eagle_weights(heads)
    except BadInputError as error:
        raise BadInputError(f"the heads in {source} do not fit: {error}") from error


def eagle_config(weights: EagleWeights, model: BaseModel) -> dict[str, Any]:
    """The config from which vLLM builds the layer, with the keys of transformers' Llama."""
    base = model.live.config.get_text_config()
    return {
        "architectures": ["EagleLlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": weights.hidden_size,
        "intermediate_size": len(weights.gate_proj),
        "num_hidden_layers": 1,
        "num_attention_heads": weights.num_heads,
        "num_key_value_heads": weights.num_kv_heads,
        "head_dim": weights.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": weights.norm_eps,
        "rope_theta": weights.rope_theta,
        "max_position_embeddings": base.max_position_embeddings,
        "vocab_size": model.base.vocab_size,
        "tie_word_embeddings": bool(base.tie_word_embeddings),
    }


def eagle_tensors(weights: EagleWeights) -> dict[str, Array]:
    """The matrices under vLLM's names, which are also those of the file format."""
    return {name: getattr(weights, field) for field, name in TENSORS.items()}
