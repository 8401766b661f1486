"""Small GGUF files of random weights, in any number format, with a vocabulary of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

LARGE = 2048  # width from which on it takes too long to make every matrix
HALVES = {"Q4_K": 2, "Q5_K": 2, "Q6_K": 1}  # float16 scales of a block whose other bytes may be any


@dataclass(frozen=True)
class Sizes:
    """Of a model; the widths are whole blocks of every number format."""

    num_layers: int = 2
    hidden: int = 256
    inner: int = 512
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 320
    context: int = 256


def alphabet() -> list[str]:
    """The letters that stand for the 256 bytes in byte-level vocabularies."""
    from outpace.byte_letters import byte_letters

    return [letter for letter, _ in sorted(byte_letters().items(), key=lambda item: item[1])]


def add_byte_tokenizer(writer: GGUFWriter, vocab: int, pre: str = "qwen2") -> None:
    """Bytes, a few merges of them, control tokens."""
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]
    tokens = [*alphabet(), *[merge.replace(" ", "") for merge in merges]]
    tokens += [f"<|{i}|>" for i in range(vocab - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (256 + len(merges)) + [3] * (vocab - 256 - len(merges)))
    writer.add_token_merges(merges)
    writer.add_eos_token_id(vocab - 1)
    writer.add_bos_token_id(vocab - 2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")


def random_rows(rng: np.random.Generator, shape: tuple[int, int], kind: str, scale: float) -> np.ndarray:
    """A random matrix in a number format of the file."""
    qtype = GGMLQuantizationType[kind]
    if kind not in HALVES:
        return quantize((rng.standard_normal(shape) * scale).astype(np.float32), qtype)
    length, size = GGML_QUANT_SIZES[qtype]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // length, size), np.uint8)  # gguf cannot quantise to these
    halves = np.full((*blocks.shape[:2], HALVES[kind]), scale / (600 if kind == "Q6_K" else 300), np.float16).view(np.uint8)
    place = slice(size - 2, size) if kind == "Q6_K" else slice(0, 2 * HALVES[kind])
    blocks[..., place] = halves
    return blocks.reshape(shape[0], -1)


def write_model(
    path: Path,
    architecture: str,
    kind: str,
    sizes: Sizes | None = None,
    *,
    is_tied: bool = True,
    factors: np.ndarray | None = None,
    window: int = 0,
    pattern: int | list[bool] | None = None,
) -> Path:
    """A model whose matrices are of one number format. `factors` of the rotary embedding are those of Llama 3's files; `pattern` says which
    layers have the sliding window."""
    sizes = sizes or Sizes(head_dim=128 if architecture == "qwen3" else 64)  # transformers knows no other of qwen3
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, architecture, use_temp_file=True)
    writer.add_context_length(sizes.context)
    writer.add_block_count(sizes.num_layers)
    writer.add_embedding_length(sizes.hidden)
    writer.add_feed_forward_length(sizes.inner)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(sizes.vocab)
    if window:
        writer.add_sliding_window(window)
    if pattern is not None:
        writer.add_sliding_window_pattern(pattern)
    if architecture == "llama":
        writer.add_rope_dimension_count(sizes.head_dim)
    if architecture == "qwen3":
        writer.add_key_length(sizes.head_dim)
        writer.add_value_length(sizes.head_dim)
    writer.add_string("general.name", "random")
    add_byte_tokenizer(writer, sizes.vocab)

    @lru_cache
    def numbers(rows: int, columns: int, name: str) -> np.ndarray:
        return random_rows(rng, (rows, columns), kind, 0.1)

    def matrix(name: str, rows: int, columns: int) -> None:
        data = numbers(rows, columns, name if sizes.hidden < LARGE else "")  # large matrices share their numbers
        writer.add_tensor(f"{name}.weight", data, raw_dtype=GGMLQuantizationType[kind])

    def vector(name: str, size: int, middle: float = 1.0) -> None:
        writer.add_tensor(name, (middle + 0.2 * rng.standard_normal(size)).astype(np.float32))

    matrix("token_embd", sizes.vocab, sizes.hidden)
    for layer in range(sizes.num_layers):
        add_layer(f"blk.{layer}", architecture, sizes, matrix, vector)
    vector("output_norm.weight", sizes.hidden)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    if not is_tied:
        matrix("output", sizes.vocab, sizes.hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_layer(name: str, architecture: str, sizes: Sizes, matrix, vector) -> None:
    """The tensors of one layer."""
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    for part, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
        matrix(f"{name}.{part}", rows, sizes.hidden)
        if architecture == "qwen2":
            vector(f"{name}.{part}.bias", rows, 0.0)
    matrix(f"{name}.attn_output", sizes.hidden, queries)
    for part in ("ffn_gate", "ffn_up"):
        matrix(f"{name}.{part}", sizes.inner, sizes.hidden)
    matrix(f"{name}.ffn_down", sizes.hidden, sizes.inner)
    for part in ("attn_norm", "ffn_norm"):
        vector(f"{name}.{part}.weight", sizes.hidden)
    if architecture == "qwen3":
        for part in ("attn_q_norm", "attn_k_norm"):
            vector(f"{name}.{part}.weight", sizes.head_dim)
