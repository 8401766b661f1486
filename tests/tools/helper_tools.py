"""Helpers for tests: random Medusa and EAGLE heads, and Medusa heads fitted to the toy model, which are partly right."""

from __future__ import annotations

from typing import Any

import numpy as np

from outpace.heads.eagle.weights import TENSORS
from outpace.heads.format import DraftHeads
from outpace.params import SamplingParams
from outpace.targets.base import Embeddings, LMHead
from outpace.targets.identity import Base
from outpace.targets.toy import ToyTarget
from outpace.testing import generate


def random_medusa(
    base: Base, heads: int = 3, layers: int = 1, own: bool = False, reduced: int | None = None, seed: int = 0, **more: Any
) -> DraftHeads:
    """Heads whose blocks and projections are random; `own` LM heads, or the target's; over `reduced` tokens, or all."""
    rng, size = np.random.default_rng(seed), base.hidden_size
    tensors: dict[str, np.ndarray] = {}
    for head in range(heads):
        for layer in range(layers):
            tensors[f"heads.{head}.blocks.{layer}.weight"] = rng.normal(0, 1 / size**0.5, (size, size)).astype(np.float16)
            tensors[f"heads.{head}.blocks.{layer}.bias"] = rng.normal(0, 0.1, size).astype(np.float16)
        tensors[f"heads.{head}.projection.weight"] = (np.eye(size) + rng.normal(0, 0.02, (size, size))).astype(np.float16)
        if own:
            tensors[f"heads.{head}.lm_head.weight"] = rng.normal(0, 0.2, (reduced or base.vocab_size, size)).astype(np.float16)
    if reduced:
        tensors["vocab_ids"] = rng.choice(base.vocab_size, reduced, replace=False)
    settings = {"num_heads": heads, "num_layers": layers, "num_draft_vocab": reduced, **more.pop("settings", {})}
    return DraftHeads("medusa", base, settings, tensors, **more)


def fitted_medusa(target: ToyTarget, prompts: list[list[int]], heads: int = 3, tree: list[list[int]] | None = None) -> DraftHeads:
    """One projection a head, fitted by least squares to the greedy text of a toy model: better than chance, far from always right."""
    rows: list[np.ndarray] = []
    texts = [[*prompt, *generate(target, [prompt], SamplingParams(max_tokens=200))[0]] for prompt in prompts]
    tensors = {}
    for head in range(heads):
        rows = [(target.logits_after(text[: i + 1]), text[i + 2 + head]) for text in texts for i in range(1, len(text) - 2 - head)]
        hidden, wanted = np.array([row for row, _ in rows]), np.eye(target.capabilities.vocab_size)[[token for _, token in rows]]
        tensors[f"heads.{head}.projection.weight"] = (6 * np.linalg.lstsq(hidden, wanted, rcond=None)[0].T).astype(np.float32)
    assert target.base is not None
    return DraftHeads("medusa", target.base, {"num_heads": heads, "num_layers": 0, "num_draft_vocab": None}, tensors, tree)


def random_eagle(base: Base, heads: int = 4, kv_heads: int = 2, head_dim: int = 8, reduced: int | None = None, seed: int = 0) -> DraftHeads:
    """An EAGLE head of random weights, wide enough for its attention to count; over `reduced` tokens, or all."""
    rng, size, inner = np.random.default_rng(seed), base.hidden_size, 24
    shapes = {"fc": (size, 2 * size), "gate_proj": (inner, size), "up_proj": (inner, size), "down_proj": (size, inner)}
    shapes |= {"q_proj": (heads * head_dim, size), "o_proj": (size, heads * head_dim)}
    shapes |= {"k_proj": (kv_heads * head_dim, size), "v_proj": (kv_heads * head_dim, size)}
    tensors = {TENSORS[name]: rng.normal(0, 1 / shape[1] ** 0.5, shape).astype(np.float16) for name, shape in shapes.items()}
    tensors[TENSORS["norm"]] = rng.uniform(0.5, 1.5, size).astype(np.float16)
    if reduced:
        tensors["vocab_ids"] = rng.choice(base.vocab_size, reduced, replace=False)
    settings = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": inner}
    settings |= {"rope_theta": 10000.0, "rms_norm_eps": 1e-5, "num_draft_vocab": reduced, "temperatures": [1.0, 2.0]}
    return DraftHeads("eagle", base, settings, tensors)


def fitted_eagle(target: ToyTarget, prompts: list[list[int]]) -> DraftHeads:
    """A head without attention, fitted to the greedy text of a toy model by ridge regression of the next hidden state on the ones before:
    better than chance, far from always right."""
    assert target.base is not None
    helper, size = random_eagle(target.base), target.base.hidden_size
    texts = [[*prompt, *generate(target, [prompt], SamplingParams(max_tokens=200))[0]] for prompt in prompts]
    rows, wanted = [], []
    for text in texts:
        states = [target.logits_after(text[: i + 1]) for i in range(len(text))]
        rows += [np.concatenate([np.eye(size)[text[i + 1]], states[i]]) for i in range(len(text) - 1)]
        wanted += states[1:]
    x, y = np.array(rows), np.array(wanted)
    helper.tensors["fc.weight"] = np.linalg.solve(x.T @ x + np.eye(2 * size), x.T @ y).T.astype(np.float32)
    for name in ("o_proj", "down_proj"):
        helper.tensors[TENSORS[name]] *= 0
    return helper


def lent_forms(size: int, vocab_size: int, seed: int = 0) -> dict[str, tuple[Embeddings, LMHead]]:
    """What a target lends, the same in three forms; those of OpenVINO with 8-bit weights."""
    import openvino as ov
    import openvino.opset13 as ops
    import torch

    rng = np.random.default_rng(seed)
    rows, scales = rng.integers(-127, 128, (vocab_size, size), np.int8), rng.uniform(0.001, 0.003, (vocab_size, 1)).astype(np.float32)
    matrix = rows * scales
    hidden = ops.parameter(ov.PartialShape([-1, -1, size]), dtype=np.float32, name="hidden")
    wide = ops.multiply(ops.convert(ops.constant(rows), "f32"), ops.constant(scales))
    lm_head = ov.Model([ops.result(ops.matmul(hidden, wide, False, True))], [hidden])
    token_ids = ops.parameter(ov.PartialShape([-1, -1]), dtype=np.int64, name="token_ids")
    table = ops.multiply(ops.convert(ops.constant(rows), "f32"), ops.constant(scales))
    embeddings = ov.Model([ops.result(ops.gather(table, token_ids, ops.constant(np.int64(0))))], [token_ids])
    linear = torch.nn.Linear(size, vocab_size, bias=False)
    linear.weight.data = torch.from_numpy(matrix)
    embed = torch.nn.Embedding(vocab_size, size, _weight=torch.from_numpy(matrix))
    forms = {"numpy": (matrix, matrix), "torch": (embed, linear), "openvino": (embeddings, lm_head)}
    return {backend: (Embeddings(first), LMHead(backend, last, vocab_size)) for backend, (first, last) in forms.items()}
