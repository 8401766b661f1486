"""llama.cpp, through the package xllamacpp: plain decoding, its n-gram drafters, and a draft model. Reads .gguf files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

PACKAGES = ("xllamacpp==2026.10.11549",)
MODEL = "gguf"
WAYS = ("plain", "ngram-simple", "ngram-simple:size_n=3:size_m=8", "ngram-mod", "ngram-cache")
CONTEXT = 4096


def load(
    model: str, draft_model: str | None, way: str, options: dict[str, str], threads: int
) -> tuple[dict[str, Any], Callable[[list[int], int], dict[str, Any]]]:
    """A server of llama.cpp inside this process. `options` are fields of its settings for the way, such as size_n or n_max."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = model, CONTEXT, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_prompt, params.verbosity, params.warmup = False, -1, True
    settings = _speculate(params.speculative, xllamacpp.common_speculative_type, draft_model, way, options, threads)
    server = xllamacpp.Server(params)

    def ask(prompt: list[int], max_tokens: int) -> dict[str, Any]:
        request = {"prompt": prompt, "n_predict": max_tokens, "temperature": 0.0, "top_k": 1, "repeat_penalty": 1.0, "cache_prompt": False}
        answer = server.handle_completions(request)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        if "timings" not in answer:
            raise RuntimeError(str(answer)[:300])
        timings = answer["timings"]
        text = answer["choices"][0]["text"]
        # its clock starts at the first token, which it counts
        return {"text": text, "num_decoded": timings["predicted_n"] - 1, "decode_seconds": timings["predicted_ms"] / 1e3}

    about = {"version": f"xllamacpp {xllamacpp.__version__}", "settings": {**settings, "system": xllamacpp.get_system_info()}}
    return about, ask


def _speculate(speculative: Any, types: Any, draft_model: str | None, way: str, options: dict[str, str], threads: int) -> dict[str, Any]:
    """Set the way to speculate; returns its settings, defaults included."""
    if way == "plain":
        return {}
    if way == "draft":
        chosen, name = speculative.draft, "DRAFT_SIMPLE"
        chosen.mparams.path, chosen.n_gpu_layers = draft_model or "", 0
        chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = threads
    else:
        chosen, name = getattr(speculative, way.replace("-", "_")), way.replace("-", "_").upper()
    speculative.types = [getattr(types, f"COMMON_SPECULATIVE_TYPE_{name}")]
    for key, value in options.items():
        setattr(chosen, key, type(getattr(chosen, key))(value))
    fields = {field: getattr(chosen, field) for field in dir(chosen) if not field.startswith("_")}
    return {field: value for field, value in fields.items() if isinstance(value, (int, float, str))}
