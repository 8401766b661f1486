"""OpenVINO GenAI on the model that outpace has converted: plain decoding, prompt lookup, and a draft model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("openvino-genai==2026.4.1.0", "numpy", "transformers>=5.16,<6")
MODEL = "openvino"
WAYS = ("plain", "lookup:num_assistant_tokens=4", "lookup:num_assistant_tokens=7")
DEFAULTS = {"lookup": {"num_assistant_tokens": 4, "max_ngram_size": 3}, "draft": {"num_assistant_tokens": 4}}
CACHE_GIGABYTES = 1


def load(
    model: str, draft_model: str | None, way: str, options: dict[str, str], threads: int
) -> tuple[dict[str, Any], Callable[[list[int], int], dict[str, Any]]]:
    """A pipeline without a tokenizer. `options` are integer fields of GenAI's GenerationConfig."""
    import numpy
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = CACHE_GIGABYTES, False
    settings = {**DEFAULTS.get(way, {}), **{key: int(value) for key, value in options.items()}}
    facts = json.loads(Path(model, "config.json").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        extra: dict[str, Any] = {"lookup": {"prompt_lookup": True}}.get(way, {})
        if draft_model is not None:  # GenAI compares the two tokenizers
            extra = {"draft_model": openvino_genai.draft_model(_folder(folder, "draft", draft_model, with_tokenizer=True), "CPU")}
        found = _folder(folder, "model", model, with_tokenizer=draft_model is not None)
        pipeline = openvino_genai.LLMPipeline(found, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads, **extra)

    def ask(prompt: list[int], max_tokens: int) -> dict[str, Any]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample = max_tokens, False
        config.eos_token_id, config.stop_token_ids = facts["eos_token_ids"][0], set(facts["eos_token_ids"])
        for key, value in settings.items():
            setattr(config, key, value)
        tokens = numpy.array([prompt], numpy.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(tokens), openvino.Tensor(numpy.ones_like(tokens)))
        answer = pipeline.generate(inputs, config)
        metrics, token_ids = answer.perf_metrics, [int(token) for token in answer.tokens[0]]
        milliseconds = metrics.get_generate_duration().mean - metrics.get_ttft().mean
        return {"token_ids": token_ids, "num_decoded": len(token_ids) - 1, "decode_seconds": max(0.0, milliseconds) / 1e3}

    return {"version": openvino_genai.__version__, "settings": settings}, ask


def _folder(parent: str, name: str, model: str, with_tokenizer: bool) -> str:
    """A folder with the converted model, and on request its tokenizer, under the file names that GenAI expects."""
    folder = Path(parent, name)
    folder.mkdir()
    for ending in ("xml", "bin"):
        (folder / f"openvino_model.{ending}").symlink_to(Path(model, f"model.{ending}"))
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if Path(model, file).exists():
            (folder / file).symlink_to(Path(model, file))
    if with_tokenizer:
        import openvino
        from openvino_tokenizers import convert_tokenizer
        from transformers import AutoTokenizer

        for kind, graph in zip(("", "de"), convert_tokenizer(AutoTokenizer.from_pretrained(model), with_detokenizer=True), strict=True):
            openvino.save_model(graph, folder / f"openvino_{kind}tokenizer.xml")
    return str(folder)
