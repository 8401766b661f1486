"""Hugging Face transformers' `generate` on CPU in bfloat16: plain decoding, prompt lookup, and assisted generation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("torch==2.13.0", "transformers>=5.16,<6", "accelerate>=1.10", "gguf>=0.17")
MODEL = "folder"
WAYS = ("plain", "lookup:prompt_lookup_num_tokens=7")
DEFAULTS = {"lookup": {"prompt_lookup_num_tokens": 7, "max_matching_ngram_size": 3}, "draft": {"num_assistant_tokens": 5}}


def load(
    model: str, draft_model: str | None, way: str, options: dict[str, str], threads: int
) -> tuple[dict[str, Any], Callable[[list[int], int], dict[str, Any]]]:
    """A model from a folder or a .gguf file. `options` are integer arguments of `generate`, or of the draft model's."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    settings = {**DEFAULTS.get(way, {}), **{key: int(value) for key, value in options.items()}}
    target = _read(model)
    extra: dict[str, Any] = dict(settings)
    if draft_model is not None:
        extra = {"assistant_model": _read(draft_model)}
        for key, value in settings.items():
            setattr(extra["assistant_model"].generation_config, key, value)

    def ask(prompt: list[int], max_tokens: int) -> dict[str, Any]:
        watch = _Watch()
        inputs = torch.tensor([prompt])
        limits = {"max_new_tokens": max_tokens, "do_sample": False, "streamer": watch}
        output = target.generate(inputs, attention_mask=torch.ones_like(inputs), **limits, **extra)
        token_ids = output[0, len(prompt) :].tolist()
        return {"token_ids": token_ids, "num_decoded": len(token_ids) - watch.num_first, "decode_seconds": watch.seconds}

    about = {"version": f"transformers {transformers.__version__}, torch {torch.__version__}"}
    return {**about, "settings": {"dtype": "bfloat16", **settings}}, ask


class _Watch:
    """A streamer that notes when the first tokens arrive (with a draft model several do) and when the last one did."""

    def __init__(self) -> None:
        self.num_puts, self.num_first, self.first_at, self.last_at = 0, 0, 0.0, 0.0

    def put(self, tokens: Any) -> None:
        """Called with the prompt, then with the tokens of every step."""
        self.num_puts += 1
        self.last_at = time.perf_counter()
        if self.num_puts == 2:
            self.first_at, self.num_first = self.last_at, int(tokens.numel())

    def end(self) -> None:
        """Called after the last token; there is nothing left to do."""

    @property
    def seconds(self) -> float:
        """From the first tokens to the last ones."""
        return self.last_at - self.first_at


def _read(model: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(model)
    where, file = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    return AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16, **file).eval()
