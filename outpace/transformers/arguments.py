"""What the arguments of `model.generate` mean here: which ones are honoured, which have no effect, and which are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.transformers.live import ASSISTANT

DRAFTING = ("speculative_config", "assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")  # at most one of them
HONOURED: dict[str, Any] = {  # options with transformers' defaults
    **dict.fromkeys(("max_length", "max_new_tokens", "min_length", "min_new_tokens", "eos_token_id", "pad_token_id")),
    **dict.fromkeys(("min_p", "suppress_tokens", "stop_strings", "num_assistant_tokens", "max_matching_ngram_size", *DRAFTING)),
    **{"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0, "num_return_sequences": 1},
}
NO_EFFECT = {  # options that change no token, at least without beams
    *("use_cache", "cache_config", "max_cache_len", "low_memory", "prefill_chunk_size", "compile_config", "disable_compile"),
    *("early_stopping", "length_penalty", "diversity_penalty", "renormalize_logits", "bos_token_id", "decoder_start_token_id"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind"),
    *("is_assistant", "continuous_batching_config", "transformers_version"),
}
SAMPLING_ONLY = {"typical_p": 1.0, "top_h": None, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}  # without effect on greedy decoding
REFUSED: dict[str, Any] = {  # the value that each may have besides None; options that are in no table may only be None or empty
    **SAMPLING_ONLY,
    **{"num_beams": 1, "num_beam_groups": 1, "penalty_alpha": 0, "guidance_scale": 1, "cache_implementation": ("dynamic", "hybrid")},
    **{"encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0},
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states"), False),
    **dict.fromkeys(("remove_invalid_values", "token_healing", "use_mtp", "synced_gpus", "trust_remote_code"), False),
    **dict.fromkeys(("logits_processor", "prefix_allowed_tokens_fn", "negative_prompt_ids", "negative_prompt_attention_mask")),
    **dict.fromkeys(("custom_generate", "cache", "past_key_values", "inputs_embeds", "position_ids", "token_type_ids")),
}
NEW_TOKENS = 20  # unless an option limits the length


def resolve(model_config: GenerationConfig | None, config: GenerationConfig | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the HONOURED options, by precedence. Raises BadInputError for any other option whose value has an effect."""
    if config is not None and not isinstance(config, GenerationConfig):
        raise BadInputError(f"generation_config must be a GenerationConfig, not {type(config).__name__}")
    known, options = vars(GenerationConfig()), dict(HONOURED)  # what transformers does not know has no effect there either
    for each in (model_config, config):
        entries = vars(each).items() if each is not None else ()
        options |= {name: value for name, value in entries if value is not None and name in known and not name.startswith("_")}
    chosen = [name for name in DRAFTING if kwargs.get(name) is not None]
    if len(chosen) > 1:
        raise BadInputError(f"{chosen[0]} and {chosen[1]} both choose a drafter; pass one of them")
    options |= dict.fromkeys(DRAFTING if chosen else ())
    options |= {name: value for name, value in kwargs.items() if name != "inputs"}
    for name, value in options.items():
        if name in HONOURED or name in NO_EFFECT or (name in SAMPLING_ONLY and not options["do_sample"]):
            continue
        if name not in known and name not in REFUSED and value is not None:
            raise BadInputError(f"{name!r} is not an argument of generate that is supported; use model.generate")
        if not _has_no_effect(value, REFUSED.get(name)):
            shown = f"{name}={value!r}" if isinstance(value, (bool, int, float, str)) else name
            raise BadInputError(f"{shown} is not supported; leave it out, or use model.generate")
    return {name: options[name] for name in HONOURED}


def _has_no_effect(value: Any, neutral: Any) -> bool:
    if isinstance(value, (bool, int, float, str)):
        return value in (neutral if isinstance(neutral, tuple) else (neutral,))
    return value is None or (isinstance(value, (list, tuple, dict)) and not value)


def prompts_of(input_ids: Any, attention_mask: Any, options: Mapping[str, Any]) -> tuple[torch.Tensor, list[list[int]]]:
    """(prompts int64 [sequences, length], padding included; the tokens of each sequence without padding). Raises BadInputError."""
    if not isinstance(input_ids, torch.Tensor) or input_ids.dim() != 2 or input_ids.is_floating_point():
        raise BadInputError("input_ids must be an integer tensor [batch, length]; pass a tokenizer's output as generate(model, **inputs)")
    if not input_ids.numel():
        raise BadInputError("input_ids holds no token")
    pad_token_id, reason = options["pad_token_id"], "attention_mask"
    if attention_mask is None:  # as transformers infers it
        is_padded = pad_token_id is not None and pad_token_id not in end_token_ids(options)
        mask = input_ids != pad_token_id if is_padded else torch.ones_like(input_ids)
        reason = "attention_mask is missing and pad_token_id is among the input_ids"
    elif isinstance(attention_mask, torch.Tensor) and attention_mask.shape == input_ids.shape:
        mask = attention_mask
    else:
        raise BadInputError(f"attention_mask must be a tensor with the shape of input_ids, {list(input_ids.shape)}")
    mask = (mask != 0).cpu()
    if not mask[:, -1].all() or (mask[:, :-1] & ~mask[:, 1:]).any():
        raise BadInputError(f"{reason}: only padding on the left is supported; set tokenizer.padding_side = 'left'")
    count = 1 if options["num_return_sequences"] is None else _integer(options, "num_return_sequences", 1)
    if count > 1 and not options["do_sample"]:
        raise BadInputError("num_return_sequences above 1 needs do_sample=True")
    sequences = [row[kept].tolist() for row, kept in zip(input_ids.cpu(), mask, strict=True) for _ in range(count)]
    return input_ids.long().repeat_interleave(count, dim=0), sequences


def end_token_ids(options: Mapping[str, Any]) -> list[int]:
    """`eos_token_id` as a list."""
    ends = options["eos_token_id"]
    ends = ends.tolist() if isinstance(ends, torch.Tensor) else ends
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def sampling_params_of(options: Mapping[str, Any], length: int, model_config: Any, seed: int | None) -> SamplingParams:
    """Our sampling parameters for prompts of `length` tokens, padding included. Raises BadInputError."""
    vocab_size = model_config.get_text_config().vocab_size
    if options["max_new_tokens"] is not None:
        max_tokens = _integer(options, "max_new_tokens", 1)
    elif options["max_length"] is not None:
        max_tokens = _integer(options, "max_length", length + 1) - length
    else:
        limit = getattr(model_config, "max_position_embeddings", None) or length + NEW_TOKENS
        max_tokens = max(1, min(NEW_TOKENS, limit - length))
    name = "min_length" if options["min_new_tokens"] is None else "min_new_tokens"
    min_tokens = (_integer(options, name, 0) if options[name] else 0) - (length if name == "min_length" else 0)
    settings: dict[str, Any] = {"max_tokens": max_tokens, "min_tokens": max(0, min(min_tokens, max_tokens))}
    settings["stop_token_ids"] = [token for token in end_token_ids(options) if 0 <= token < vocab_size]  # others are never generated
    settings["repetition_penalty"] = _number(options, "repetition_penalty")
    if options["suppress_tokens"]:
        settings["logit_bias"] = {token: -float("inf") for token in options["suppress_tokens"] if 0 <= token < vocab_size}
    if options["do_sample"]:
        settings |= {name: _number(options, name) for name in ("temperature", "top_p")}
        settings |= {"top_k": options["top_k"] or 0, "min_p": options["min_p"] or 0.0}
        if settings["temperature"] == 0:
            raise BadInputError("temperature must be above 0 with do_sample=True; greedy decoding is do_sample=False")
    if seed is None:
        seed = int(torch.randint(2**62, ())) if options["do_sample"] else 0
    return SamplingParams(seed=seed, **settings)


def drafting(options: Mapping[str, Any]) -> SpeculativeConfig:
    """How to draft. Raises BadInputError."""
    if options["speculative_config"] is not None:
        return SpeculativeConfig.of(options["speculative_config"])
    if options["assistant_model"] is not None or options["assistant_early_exit"] is not None:
        method = f"draft_model:{ASSISTANT}"
        if options["assistant_model"] is None:
            method = f"draft_model:self:{_integer(options, 'assistant_early_exit', 1)}"
        if options["num_assistant_tokens"] is not None:
            method += f":max_depth={_integer(options, 'num_assistant_tokens', 1)}"
        return SpeculativeConfig(method)
    if options["prompt_lookup_num_tokens"] is not None:
        method = "prompt_lookup"
        if options["max_matching_ngram_size"] is not None:
            method += f":max_ngram={_integer(options, 'max_matching_ngram_size', 1)}"
        return SpeculativeConfig(method, min(_integer(options, "prompt_lookup_num_tokens", 1), EngineConfig.max_draft_tokens))
    return SpeculativeConfig("prompt_lookup")  # measuring the costs for `auto` takes minutes with torch on a CPU


def _integer(options: Mapping[str, Any], name: str, least: int) -> int:
    value = options[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInputError(f"{name} must be an integer of at least {least}, not {value!r}")
    return value


def _number(options: Mapping[str, Any], name: str) -> float:
    """The value; None means the neutral 1."""
    value: float = 1.0 if options[name] is None else options[name]
    return value
