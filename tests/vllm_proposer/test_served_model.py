"""The identity of a model from its checkpoint's files is that of the loaded model."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from outpace.errors import OutpaceError
from outpace.targets.identity import base_of, to_bfloat16
from outpace.vllm.served_model import ServedModel, base_of_checkpoint


def saved(folder, tied, dtype="float32", shard="5GB"):
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=tied)).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_is_that_of_the_loaded_model(tied, dtype, tmp_path):
    assert base_of_checkpoint(tmp_path, "m") is None, "an empty folder"
    model = saved(tmp_path, tied, dtype)
    assert base_of_checkpoint(tmp_path, "m") == base_of(model, "m")


def test_it_is_read_from_all_shards(tmp_path):
    model = saved(tmp_path, False, shard="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert base_of_checkpoint(tmp_path, "m") == base_of(model, "m")


def test_a_second_copy_of_tied_embeddings_changes_nothing(tmp_path):
    model = saved(tmp_path, True)
    save_file({"lm_head.weight": model.lm_head.weight.detach().numpy()}, tmp_path / "more.safetensors")
    assert base_of_checkpoint(tmp_path, "m") == base_of(model, "m")


def test_quantised_and_damaged_files_have_none(tmp_path):
    saved(tmp_path, True)
    save_file({"model.layers.0.packed": np.zeros(8, np.int32)}, tmp_path / "more.safetensors")
    assert base_of_checkpoint(tmp_path, "m") is None
    (tmp_path / "more.safetensors").write_bytes(b"\xff" * 20)
    assert base_of_checkpoint(tmp_path, "m") is None
    (tmp_path / "more.safetensors").unlink()
    assert base_of_checkpoint(tmp_path, "m") is not None
    (tmp_path / "config.json").write_text(json.dumps([]))
    assert base_of_checkpoint(tmp_path, "m") is None


def test_rounding_to_bfloat16_is_torchs():
    values = np.concatenate(
        [np.random.default_rng(0).normal(size=5000).astype(np.float32) * 1e3, [0.0, -0.0, np.inf, -np.inf, 3e38, 1e-40]]
    )
    expected = torch.from_numpy(values.astype(np.float32)).bfloat16().float().numpy()
    assert to_bfloat16(values.astype(np.float32)).tobytes() == expected.tobytes()


def test_it_cannot_be_run():
    with pytest.raises(OutpaceError, match="vLLM"):
        ServedModel(10, 20, None).forward([])
