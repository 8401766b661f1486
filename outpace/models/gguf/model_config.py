"""The configuration of a Llama-family model, read from GGUF metadata. Unsupported features are rejected by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.models.gguf.file import GGUFFile

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # values of general.architecture; Mistral's files use llama
PERMUTED = ("llama",)  # architectures whose q and k rows are in the order of llama.cpp's rotary embedding
_DEFAULT_THETA = 10_000.0


@dataclass(frozen=True)
class Config:
    """Sizes and constants of a model."""

    model_type: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_len: int
    epsilon: float  # of the RMS norms
    inverse_frequencies: Array  # [head_dim / 2] float32: rotation per position of each pair of dimensions, in radians
    is_tied: bool  # the LM head is the embedding table
    windows: tuple[int, ...]  # of the layers, in tokens; 0: full attention

    @property
    def is_permuted(self) -> bool:
        return self.model_type in PERMUTED

    def first_layers(self, num_layers: int) -> Config:
        """The configuration of the first `num_layers` layers. Raises BadInputError if the model has fewer."""
        if not 1 <= num_layers <= self.num_layers:
            raise BadInputError(f"the model has {self.num_layers} layers; its first {num_layers} cannot be had")
        return replace(self, num_layers=num_layers, windows=self.windows[:num_layers])


def reason_against(file: GGUFFile) -> str:
    """Reason why this reader does not support the file, as one phrase; empty if it does. Another reader may support it."""
    architecture = file.facts.get("general.architecture")
    if architecture not in ARCHITECTURES:
        return f"architecture {architecture!r} is none of {', '.join(ARCHITECTURES)}"
    if file.facts.get(f"{architecture}.expert_count"):
        return "it is a mixture of experts"
    if isinstance(file.facts.get(f"{architecture}.attention.head_count_kv"), list):
        return "its layers differ in their numbers of heads"
    return ""


def config_of(file: GGUFFile) -> Config:
    """Read the configuration. Raises BadInputError if metadata is missing or describes an unsupported model."""
    architecture = file.facts["general.architecture"]

    def fact(name: str, default: Any = None) -> Any:
        value = file.facts.get(f"{architecture}.{name}", default)
        if value is None:
            raise BadInputError(f"{file.path.name} does not say {architecture}.{name}")
        return value

    heads, hidden = fact("attention.head_count"), fact("embedding_length")
    head_dim = fact("attention.key_length", hidden // heads)
    if fact("attention.value_length", head_dim) != head_dim or fact("rope.dimension_count", head_dim) != head_dim:
        raise BadInputError(f"{file.path.name}: keys, values and rotary embedding differ in width, which cannot be expressed")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise BadInputError(f"{file.path.name} has no tensor token_embd.weight")
    return Config(
        model_type=architecture,
        num_layers=fact("block_count"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=fact("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=embedding.shape[0],
        max_len=fact("context_length"),
        epsilon=fact("attention.layer_norm_rms_epsilon"),
        inverse_frequencies=_inverse_frequencies(file, head_dim, fact("rope.freq_base", _DEFAULT_THETA)),
        is_tied="output.weight" not in file.tensors,
        windows=_windows(fact("block_count"), fact("attention.sliding_window", 0), fact("attention.sliding_window_pattern", 0)),
    )


def _windows(num_layers: int, width: int, pattern: int | Sequence[bool]) -> tuple[int, ...]:
    """The sliding window of each layer. `pattern`: which layers have one; or every how many layers one has none, 0: all have it."""
    if isinstance(pattern, int):
        return tuple(width if not pattern or layer % pattern < pattern - 1 else 0 for layer in range(num_layers))
    if len(pattern) < num_layers:
        raise BadInputError(f"the file's sliding_window_pattern names {len(pattern)} of {num_layers} layers")
    return tuple(width if slides else 0 for slides in pattern[:num_layers])


def _inverse_frequencies(file: GGUFFile, head_dim: int, theta: float) -> Array:
    """[head_dim / 2] float32, with the file's rope scaling: one factor for all (linear) or one per frequency (Llama 3's tensor)."""
    frequencies = (1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))).astype(np.float32)
    architecture = file.facts["general.architecture"]
    kind = file.facts.get(f"{architecture}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise BadInputError(f"{file.path.name}: rope scaling {kind!r} is not supported; supported: none, linear, Llama 3's factors")
    if kind == "linear":
        frequencies /= np.float32(file.facts.get(f"{architecture}.rope.scaling.factor", 1.0))
    factors = file.tensors.get("rope_freqs.weight")
    return frequencies / factors.vector() if factors else frequencies
