"""Tokens per second on real prompts: our plain decoding and drafters, and transformers' own plain and assisted generation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpu.machine import synchronize
from gpu.setting import Setting

from outpace.bench.builtin import load_prompts
from outpace.config import EngineConfig
from outpace.drafters.spec import ready_drafters
from outpace.llm import LLM
from outpace.models import transformers_io
from outpace.models.tokenizer import Tokenizer

DRAFTERS = ("none", "prompt_lookup", "suffix", "recycling", "medusa", "eagle", "suffix+recycling", "auto")
BATCH = 8  # prompts at once in the second part


def compare(setting: Setting, name: str, model: Any) -> dict[str, Any]:
    """Rows of name, tokens per second, tokens per step and answers identical to plain decoding of the same side. Alone, then BATCH at
    once."""
    num_prompts, num_tokens = (2, 8) if setting.is_cpu else (12, 128)
    prompts = prompts_of(setting, model, num_prompts)
    llm = llm_of(setting, model)
    ready = {"none", "prompt_lookup", "suffix", *ready_drafters(llm.target.base)}
    names = ("none", "prompt_lookup") if setting.is_cpu else tuple(each for each in DRAFTERS if set(each.split("+")) <= ready)
    rows = [_ours(setting, llm, each, prompts, num_tokens, 1) for each in names]
    rows += [_ours(setting, llm, each, prompts, num_tokens, BATCH) for each in names]
    exact = llm_of(setting, model, exact_width=8)
    rows += [_ours(setting, exact, each, prompts, num_tokens, 1) | {"exact_width": 8} for each in ("none", "prompt_lookup")]
    for label, options in (("plain", {}), ("prompt_lookup_num_tokens=8", {"prompt_lookup_num_tokens": 8})):
        rows.append(_theirs(setting, model, label, options, prompts, num_tokens))
    return {"model": name, "num_prompts": num_prompts, "max_tokens": num_tokens, "rows": _with_identity(rows)}


def llm_of(setting: Setting, model: Any, **options: Any) -> LLM:
    """An LLM over the live model, with its tokenizer if it has one."""
    tokenizer = Tokenizer.from_transformers(tokenizer_of(setting, model))
    return LLM(model, "none", tokenizer=tokenizer, target="hf", engine=EngineConfig(enable_prefix_caching=False), **options)


def tokenizer_of(setting: Setting, model: Any) -> Any:
    """The transformers tokenizer of the setting's model; for random weights one with the words `<0>`, `<1>`, ... as tokens."""
    if setting.model is not None:
        return transformers_io.load_tokenizer(setting.model)
    from tokenizers import Tokenizer as Fast
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    words = {f"<{i}>": i for i in range(model.config.vocab_size)}
    return PreTrainedTokenizerFast(tokenizer_object=Fast(models.WordLevel(words, "<0>")), eos_token="<1>")


def prompts_of(setting: Setting, model: Any, count: int) -> list[list[int]]:
    """Token ids: the built-in prompts, or random ones of some few words for random weights."""
    if setting.model is None:
        rng = np.random.default_rng(0)
        words = [rng.integers(2, model.config.vocab_size, 12) for _ in range(count)]
        return [rng.choice(few, 32).tolist() for few in words]
    tokenizer = Tokenizer.from_transformers(tokenizer_of(setting, model))
    return [tokenizer.encode_chat(workload.messages) for workload in load_prompts("builtin", count)]


def _ours(setting: Setting, llm: LLM, drafter: str, prompts: list[list[int]], num_tokens: int, at_once: int) -> dict[str, Any]:
    params = {"max_tokens": num_tokens, "ignore_eos": True}
    groups = [prompts[start : start + at_once] for start in range(0, len(prompts), at_once)]
    llm.generate(groups[0], params, speculative_config=drafter)  # warm up, capture, measure costs
    started = time.perf_counter()
    outputs = [output for group in groups for output in llm.generate(group, params, speculative_config=drafter)]
    synchronize(setting.device)
    seconds = time.perf_counter() - started
    num_new, num_steps = sum(len(output.token_ids) for output in outputs), sum(output.stats.num_steps for output in outputs)
    figures = {"tokens_per_second": round(num_new / seconds, 1), "tokens_per_step": round(num_new / num_steps, 3)}
    return {"side": "outpace", "name": drafter, "at_once": at_once, **figures, "answers": [output.token_ids for output in outputs]}


def _theirs(setting: Setting, model: Any, name: str, options: dict[str, Any], prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
    def answer(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt], device=model.device)
        fixed = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens, "do_sample": False, "pad_token_id": 0}
        return list(model.generate(ids, attention_mask=torch.ones_like(ids), **fixed, **options)[0, len(prompt) :].tolist())

    seconds, answers = _timed(setting, answer, prompts)
    figures = {"tokens_per_second": round(num_tokens * len(prompts) / seconds, 1)}
    return {"side": "transformers", "name": name, "at_once": 1, **figures, "answers": answers}


def _timed(setting: Setting, answer: Callable[[list[int]], list[int]], prompts: list[list[int]]) -> tuple[float, list[list[int]]]:
    answer(prompts[0])
    synchronize(setting.device)
    started = time.perf_counter()
    answers = [answer(prompt) for prompt in prompts]
    synchronize(setting.device)
    return time.perf_counter() - started, answers


def _with_identity(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers replaced by how many are those of the side's plain decoding, run alone with the same width."""
    plain: dict[Any, Any] = {}
    for row in rows:
        answers = row.pop("answers")
        expected = plain.setdefault((row["side"], row.get("exact_width")), answers)
        row["identical"] = sum(one == other for one, other in zip(answers, expected, strict=True))
    return rows
