"""EAGLE heads as vLLM has them (`EagleLlamaForCausalLM`): a Llama of one layer, without the embeddings and LM head, which are the model's.

Ours are of the same form, so the weights stay as they are. vLLM guesses over the whole vocabulary, a chain without a tree: the reduced
vocabulary and the temperatures are left out.
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
    """The head in a folder. Raises BadInputError for one of another model, or with anything that vLLM would pass over in silence."""
    helper = DraftHeads.from_pretrained(source)
    try:
        helper.base.check(model.base)
        return eagle_weights(helper)
    except BadInputError as error:
        raise BadInputError(f"the head in {source} does not fit: {error}") from error


def eagle_config(weights: EagleWeights, model: BaseModel) -> dict[str, Any]:
    """What vLLM builds the layer from, in the words of transformers' Llama."""
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
    """The matrices by the names they have in vLLM, which are ours."""
    return {name: getattr(weights, field) for field, name in TENSORS.items()}
