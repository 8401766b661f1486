"""Parameters as Hugging Face knows them: their names, and the order of their rows, for what a GGUF file holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from gguf.quants import dequantize

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.models.gguf.file import GGUFFile, Tensor
from outpace.models.gguf.model_config import Config

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IGNORED = ("rope_freqs.weight",)  # read with the config
OPTIONAL = ("bias", "attn_q_norm", "attn_k_norm")  # parts of names that a model may lack


@dataclass(frozen=True)
class Parameter:
    """A tensor of the file with its Hugging Face name. `order`: which of the file's rows is row i of the parameter; None for the same."""

    name: str
    tensor: Tensor
    order: Array | None = None

    def rows(self, start: int, end: int) -> Array:
        """Values of rows start to end - 1, in order: [rows, columns] float32."""
        if self.order is None:
            return self.tensor.rows(start, end)
        values: Array = dequantize(self.tensor.raw()[self.order[start:end]], self.tensor.kind)
        return values

    def vector(self) -> Array:
        """Values of a vector, in order: [columns] float32."""
        values = self.tensor.vector()
        return values if self.order is None else values[self.order]


def parameters(file: GGUFFile, config: Config) -> dict[str, Parameter]:
    """All parameters of the model by name. Raises BadInputError when a tensor is missing, has another shape or is not known."""
    found = {}
    for gguf, name, part in _expected(config):
        tensor = file.tensors.get(gguf)
        if tensor is None:
            if not any(part in gguf for part in OPTIONAL):
                raise BadInputError(f"{file.path.name} has no tensor {gguf}")
            continue
        heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}.get(part)
        is_permuted = config.is_permuted and heads is not None
        found[name] = Parameter(name, tensor, _unpermuted(tensor.shape[0], heads) if is_permuted and heads else None)
    _check(found, config)
    return found


def unknown_tensors(file: GGUFFile, config: Config) -> list[str]:
    """Tensors of the file that the model has no use for as it is understood here: a sign that it is another model."""
    expected = {gguf for gguf, _, _ in _expected(config)} | set(IGNORED)
    return sorted(set(file.tensors) - expected)


def _expected(config: Config) -> Iterator[tuple[str, str, str]]:
    """(name in the file, Hugging Face name, the part's GGUF name) of all parameters that a model may have."""
    for part, name in TOP_NAMES.items():
        if part != "output" or not config.is_tied:
            yield f"{part}.weight", f"{name}.weight", part
    for layer in range(config.num_layers):
        for part, name in LAYER_NAMES.items():
            for kind in ("weight",) if "norm" in part else ("weight", "bias"):
                yield f"blk.{layer}.{part}.{kind}", f"model.layers.{layer}.{name}.{kind}", part


def _unpermuted(num_rows: int, heads: int) -> Array:
    """Rows of q or k: llama.cpp rotates neighbours, Hugging Face the halves of a head."""
    return np.arange(num_rows).reshape(heads, num_rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _check(found: dict[str, Parameter], config: Config) -> None:
    """Shapes that must agree, so that a wrong file is told by name and not by a graph that cannot be built."""
    widths = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads, "v_proj": config.num_kv_heads}
    for name, parameter in found.items():
        part, kind = name.split(".")[-2:]
        shape = parameter.tensor.shape
        if kind == "weight" and part in widths and shape != (widths[part] * config.head_dim, config.hidden_size):
            raise BadInputError(f"{parameter.tensor.name} has the shape {shape}, which does not fit its heads")
        if part in ("embed_tokens", "lm_head") and shape != (config.vocab_size, config.hidden_size):
            raise BadInputError(f"{parameter.tensor.name} has the shape {shape}, not {(config.vocab_size, config.hidden_size)}")
