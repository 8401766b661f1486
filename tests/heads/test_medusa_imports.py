"""Medusa heads in the layouts of others are imported, or refused in one line."""

import json

import numpy as np
import pytest
import torch
from heads_tools import BASE
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.heads.medusa.imports import load_medusa
from outpace.heads.medusa.weights import medusa_weights
from outpace.heads.runtime import build_heads
from outpace.targets.base import LMHead


def originals(layers: int = 1, heads: int = 2, prefix: str = "") -> dict[str, torch.Tensor]:
    """The state of the original's heads: residual blocks, then a linear layer without bias."""
    torch.manual_seed(0)
    state = {}
    for head in range(heads):
        for layer in range(layers):
            state[f"{prefix}{head}.{layer}.linear.weight"], state[f"{prefix}{head}.{layer}.linear.bias"] = torch.randn(8, 8), torch.randn(8)
        state[f"{prefix}{head}.{layers}.weight"] = torch.randn(20, 8)
    return state


def reference(state, head: int, layers: int, hidden: np.ndarray) -> np.ndarray:
    """Probabilities of one head as the original computes them."""
    x = torch.from_numpy(hidden)
    for layer in range(layers):
        x = x + torch.nn.functional.silu(state[f"{head}.{layer}.linear.weight"] @ x + state[f"{head}.{layer}.linear.bias"])
    return torch.softmax(state[f"{head}.{layers}.weight"] @ x, 0).numpy()


def guesses(helper: DraftHeads, hidden: np.ndarray, top: int = 20):
    heads = build_heads(medusa_weights(helper), LMHead("numpy", np.zeros((20, 8), np.float32), 20), top)
    return [found[0] for found in heads(hidden[None])]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("name", "dtype"), [("medusa_lm_head.pt", None), ("medusa_lm_head.safetensors", torch.float16), ("model.safetensors", torch.bfloat16)]
)
def test_original_heads_are_imported(tmp_path, layers, name, dtype):
    state = originals(layers)
    state = state if dtype is None else {key: tensor.to(dtype) for key, tensor in state.items()}
    torch.save(state, tmp_path / name) if dtype is None else save_torch(state, tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"medusa_num_heads": 2, "medusa_num_layers": layers, "base_model_name_or_path": "x"}))
    helper = load_medusa(tmp_path, BASE)
    assert (helper.base, helper.settings["num_heads"]) == (BASE, 2)
    hidden = np.random.default_rng(0).normal(size=8).astype(np.float32)
    tokens, confidences = guesses(helper, hidden)
    for head in range(2):
        want = reference({key: tensor.float() for key, tensor in state.items()}, head, layers, hidden)
        np.testing.assert_allclose(confidences[head], want[tokens[head]], rtol=1e-4)
        assert (np.diff(confidences[head]) <= 0).all()


def vllm_form(state, layers: int = 1) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        head, layer, *rest = name.split(".")
        renamed[f"blocks.{head}.layers.{layer}.{rest[1]}" if rest[0] == "linear" else f"lm_heads.{head}.weight"] = tensor
    return renamed


@pytest.mark.parametrize("prefix", ["", "medusa_heads."])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_of_vllm_are_imported(tmp_path, prefix, bias):
    """Without medusa_fc_bias vLLM leaves biases out, so heads that ran there are what they were."""
    state = originals()
    save_torch({prefix + name: tensor for name, tensor in vllm_form(state).items()}, tmp_path / "model.safetensors")
    config = {"model_type": "medusa", "num_heads": 2, "num_hidden_layers": 1, "medusa_fc_bias": bias, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    hidden = np.ones(8, np.float32)
    tokens, confidences = guesses(load_medusa(tmp_path, BASE), hidden)
    state = state if bias else {name: tensor * (not name.endswith("bias")) for name, tensor in state.items()}
    np.testing.assert_allclose(confidences[1], reference(state, 1, 1, hidden)[tokens[1]], rtol=1e-4)


@pytest.mark.parametrize("is_cut", [True, False])
def test_reduced_vocabularies_of_vllm_are_imported(tmp_path, is_cut):
    kept, state = torch.tensor([3, 19, 0, 7]), originals()
    whole = vllm_form(state)
    whole = {name: tensor[kept].contiguous() if is_cut and "lm_heads" in name else tensor for name, tensor in whole.items()}
    save_torch({**whole, "token_map": kept}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2, "num_hidden_layers": 1, "medusa_fc_bias": True}))
    helper = load_medusa(tmp_path, BASE)
    assert helper.settings["num_draft_vocab"] == 4
    hidden = np.ones(8, np.float32)
    tokens, confidences = guesses(helper, hidden, 4)
    assert sorted(tokens[0].tolist()) == [0, 3, 7, 19]
    want = reference(state, 0, 1, hidden)
    np.testing.assert_allclose(confidences[0], want[tokens[0]] / want[kept.numpy()].sum(), rtol=1e-4)


def test_one_lm_head_for_all_heads_is_imported(tmp_path):
    state = vllm_form(originals())
    del state["lm_heads.1.weight"]
    save_torch(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2, "num_hidden_layers": 1, "original_lm_head": True}))
    tensors = load_medusa(tmp_path, BASE).tensors
    np.testing.assert_array_equal(tensors["heads.1.lm_head.weight"], tensors["heads.0.lm_head.weight"])


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"medusa_num_heads": 2}, {}, "no number medusa_num_layers"),
        ({"medusa_num_heads": 2, "medusa_num_layers": 1}, {"fc.weight": np.zeros((2, 2))}, "'fc.weight' belongs to no layout"),
        ({"medusa_num_heads": 2, "medusa_num_layers": 1}, {"0.0.linear.weight": np.zeros((9, 9))}, r"must be \[8, 8\], not \[9, 9\]"),
        ({"medusa_num_heads": 2, "medusa_num_layers": 1}, {"0.0.linear.weight": np.zeros((8, 8), np.int8)}, "type 'I8' cannot be read"),
    ],
)
def test_imports_that_do_not_fit_are_refused(tmp_path, config, tensors, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.astype(np.float32) if tensor.dtype == float else tensor for name, tensor in tensors.items()},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(BadInputError, match=message) as caught:
        load_medusa(tmp_path, BASE)
    assert "\n" not in str(caught.value)


class Evil:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("content", [Evil(), {"0.0.linear.weight": Evil()}, [1, 2], {"a": 3}])
def test_pickles_with_anything_but_tensors_are_refused(tmp_path, content, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"medusa_num_heads": 1, "medusa_num_layers": 1}))
    torch.save(content, tmp_path / "medusa_lm_head.pt")
    with pytest.raises(BadInputError, match="cannot read"):
        load_medusa(tmp_path, BASE)
    assert capsys.readouterr().out == ""


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"medusa_num_heads": 1, "medusa_num_layers": 1}))
    with pytest.raises(BadInputError, match="there are no weights, none of medusa_lm_head"):
        load_medusa(tmp_path, BASE)
    with pytest.raises(BadInputError, match="there are no heads in"):
        load_medusa(tmp_path / "nowhere", BASE)
