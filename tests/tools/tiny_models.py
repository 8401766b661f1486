"""Tiny random models, saved as transformers would: made and converted once per test run, for all workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from outpace.models.find import converted

FAMILIES = ["llama", "qwen3"]


def tiny_folder(family: str, folder):
    """A tiny random model with its tokenizer, saved as transformers would; wide initial weights make its logits differ."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 96, "max_position_embeddings": 256, "initializer_range": 0.3, "head_dim": 16, "eos_token_id": 1}
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    config, model = kinds[family]
    model(config(**sizes)).save_pretrained(folder)
    vocab = {f"<{i}>": i for i in range(96)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocab, "<0>")), eos_token="<1>").save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class TinyModels:
    """Tiny models by family, which no test changes, and the cache that holds what is converted from them."""

    folder: Path

    @property
    def home(self) -> Path:
        """A value for OUTPACE_HOME."""
        return self.folder / "home"

    def __getitem__(self, family: str) -> Path:
        folder = self.folder / family
        with FileLock(self.folder / f"{family}.lock"):
            return folder if folder.exists() else tiny_folder(family, folder)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> TinyModels:
    """The same folder in every worker of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny_models"
    folder.mkdir(exist_ok=True)
    return TinyModels(folder)


@pytest.fixture(scope="module")
def tiny_home(tiny_models):
    """While a module runs: the cache of the tiny models, with what others of this test run have converted and measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_HOME", str(tiny_models.home))
        yield tiny_models.home


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tiny_models):
    """(family, f32 target, the same model in torch)."""
    from transformers import AutoModelForCausalLM

    from outpace.targets.openvino.target import OpenVINOTarget  # tests of other targets run without OpenVINO

    folder = tiny_models[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_HOME", str(tiny_models.home))
        found = converted(str(folder), "f32")
    facts = {"vocab_size": found.vocab_size, "max_len": found.max_len, "base": found.base}
    target = OpenVINOTarget(found.folder / "model.xml", precision="f32", kv_cache_tokens=4096, **facts)
    return request.param, target, AutoModelForCausalLM.from_pretrained(folder).eval()


def prompt(length: int, seed: int = 0, vocab_size: int = 96) -> list[int]:
    return np.random.default_rng(seed).integers(2, vocab_size, length).tolist()
