"""Training of Medusa heads, from texts that the model has written to heads and their accuracy."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu.decoding import llm_of, prompts_of, tokenizer_of
from gpu.setting import Setting

from outpace.training.loop import LoopSettings
from outpace.training.medusa.module import MedusaSettings
from outpace.training.medusa.run import train_medusa
from outpace.training.stages import Source

NUM_TEXTS, NUM_TOKENS = 96, 128


def medusa(setting: Setting, name: str, model: Any) -> dict[str, Any]:
    """Seconds of writing texts and of training, steps, and the share of right tokens of each head on texts held out."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        texts = _texts(setting, model)
        data, written = Path(folder) / "texts.jsonl", time.perf_counter()
        data.write_text("".join(json.dumps(text) + "\n" for text in texts), "utf-8")
        loop = LoopSettings(epochs=1 if setting.is_cpu else 8, batch_size=64 if setting.is_cpu else 512)
        settings = MedusaSettings(num_heads=3, num_draft_vocab=None)
        source = Source(str(_saved(setting, model, Path(folder) / "model")), data, target="hf")
        heads = train_medusa(source, Path(folder) / "out", settings, loop)
    record = heads.training
    return {
        "model": name,
        "num_texts": len(texts),
        "num_steps": record["num_steps"],
        "seconds_writing": round(written - started, 1),
        "seconds_training": round(time.perf_counter() - written, 1),
        "first_token_right": [row[0] for row in record["held_out"]["accuracies"]],
    }


def _texts(setting: Setting, model: Any) -> list[dict[str, Any]]:
    """Prompts and answers in tokens; random weights get random ones, because their own answers repeat themselves."""
    count, length = (24, 24) if setting.is_cpu else (NUM_TEXTS, NUM_TOKENS)
    if setting.model is None:
        rows = np.random.default_rng(2).integers(2, model.config.vocab_size, (count, 8 + length)).tolist()
        return [{"id": str(i), "prompt_ids": row[:8], "token_ids": row[8:]} for i, row in enumerate(rows)]
    prompts = prompts_of(setting, model, count)
    outputs = llm_of(setting, model).generate(prompts, {"max_tokens": length, "temperature": 0.8, "seed": 1})
    return [{"id": str(i), "prompt_ids": list(o.prompt_token_ids), "token_ids": list(o.token_ids)} for i, o in enumerate(outputs)]


def _saved(setting: Setting, model: Any, folder: Path) -> Path:
    """The model as a file or a folder."""
    if setting.model is not None:
        return setting.model
    model.save_pretrained(folder)
    tokenizer_of(setting, model).save_pretrained(folder)
    return folder
