"""The proposer in vLLM itself, where vLLM is installed or OUTPACE_VLLM_PYTHON names the Python of an environment with it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[2]
FOUND = importlib.util.find_spec("vllm")
IS_HERE = FOUND is not None and FOUND.origin is not None  # a folder named vllm is not it
PYTHON = os.environ.get("OUTPACE_VLLM_PYTHON") or (sys.executable if IS_HERE else "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="vLLM is not installed")
OURS = {"method": "custom_class", "model": "outpace.vllm.Proposer", "num_speculative_tokens": 5}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model with random weights, which soon repeats itself."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 512}
    LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=512)).save_pretrained(folder)
    return folder


def run(model, **job):
    prompts = [np.random.default_rng(i).integers(3, 512, 20 + i).tolist() for i in range(6)]
    settings = {"model": str(model), "prompts": prompts, "max_tokens": 40, "at_once": 8, "max_model_len": 256, "without_tokenizer": True}
    done = subprocess.run(
        [PYTHON, ROOT / "dev" / "vllm" / "one_run.py"],
        input=json.dumps({**settings, **job}),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_texts_are_those_of_plain_decoding_in_fewer_passes(model):
    how = {"speculative": OURS, "options": {"drafter": "suffix+recycling:table=none"}}
    plain, ours, preempted = run(model), run(model, **how), run(model, **how, spare_blocks=2, max_model_len=96)
    assert ours["answers"] == preempted["answers"] == plain["answers"]
    assert ours["is_broken"] is preempted["is_broken"] is False
    assert ours["draft_tokens"] > 0
    assert ours["passes"] < plain["passes"]
    assert preempted["preemptions"] > 0
