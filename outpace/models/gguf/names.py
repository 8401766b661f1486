"""Maps the tensors of a GGUF file to Hugging Face parameters: their names and the order of their rows."""

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
OPTIONAL = ("bias", "attn_q_norm", "attn_k_norm")  # substrings of the names of tensors that a model may lack


@dataclass(frozen=True)
class Parameter:
    """A tensor with its Hugging Face name. `order`[i] is the file's row of row i of the parameter; None means the order is the same."""

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
    """All parameters of the model by Hugging Face name. Raises BadInputError if a tensor is missing or has the wrong shape."""
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
    """Sorted names of tensors that this architecture does not use. Their presence means that the model is a different one."""
    expected = {gguf for gguf, _, _ in _expected(config)} | set(IGNORED)
    return sorted(set(file.tensors) - expected)


def _expected(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield (GGUF name, Hugging Face name, GGUF name of the module) for every parameter that a model may have."""
    for part, name in TOP_NAMES.items():
        if part != "output" or not config.is_tied:
            yield f"{part}.weight", f"{name}.weight", part
    for layer in range(config.num_layers):
        for part, name in LAYER_NAMES.items():
            for kind in ("weight",) if "norm" in part else ("weight", "bias"):
                yield f"blk.{layer}.{part}.{kind}", f"model.layers.{layer}.{name}.{kind}", part


def _unpermuted(num_rows: int, heads: int) -> Array:
    """Row order of q or k in Hugging Face: llama.cpp rotates adjacent rows in pairs, Hugging Face pairs the two halves of a head."""
    return np.arange(num_rows).reshape(heads, num_rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _check(found: dict[str, Parameter], config: Config) -> None:
    """Check that shapes agree, so that the error names the tensor instead of coming from the graph builder."""
    widths = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads, "v_proj": config.num_kv_heads}
    for name, parameter in found.items():
        part, kind = name.split(".")[-2:]
        shape = parameter.tensor.shape
        if kind == "weight" and part in widths and shape != (widths[part] * config.head_dim, config.hidden_size):
            raise BadInputError(f"{parameter.tensor.name} has the shape {shape}, which does not match the number of heads")
        if part in ("embed_tokens", "lm_head") and shape != (config.vocab_size, config.hidden_size):
            raise BadInputError(f"{parameter.tensor.name} has the shape {shape}, not {(config.vocab_size, config.hidden_size)}")
