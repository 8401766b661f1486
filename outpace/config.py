"""Settings: how to speculate, and how the engine is sized. Plain data, checked where it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outpace.errors import BadInputError

_VLLM_NAMES = {"num_speculative_tokens": "num_draft_tokens"}  # vLLM's key -> ours
_VLLM_METHODS = {"ngram": "prompt_lookup"}
FILE_VERSION = 1  # of the files that `outpace tune` writes (docs/tune.md)
_NGRAM_KEYS = {"prompt_lookup_max": "max_ngram", "prompt_lookup_min": "min_ngram"}


@dataclass(frozen=True)
class SpeculativeConfig:
    """How to guess and how to check. `method` is a drafter spec; `num_draft_tokens` None means the drafter's own default."""

    method: str = "prompt_lookup"
    num_draft_tokens: int | None = None
    verifier: str = "exact"

    def __post_init__(self) -> None:
        count = self.num_draft_tokens
        if count is not None and not (isinstance(count, int) and 0 <= count <= EngineConfig.max_draft_tokens):
            raise BadInputError(f"num_draft_tokens must be an integer from 0 to {EngineConfig.max_draft_tokens}, not {count!r}")

    @classmethod
    def of(cls, value: SpeculativeConfig | Mapping[str, Any] | str | bool | None) -> SpeculativeConfig:
        """From a spec string, a mapping (vLLM's JSON keys and the files of `outpace tune` are understood), False for plain decoding, or
        None for the default."""
        if isinstance(value, SpeculativeConfig):
            return value
        if value is None or value is True:
            return cls()
        if value is False:
            return cls("none")
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping):
            raise BadInputError(f"speculative settings must be a drafter name or an object, not {type(value).__name__}")
        settings = {_VLLM_NAMES.get(key, key): entry for key, entry in value.items()}
        method = _VLLM_METHODS.get(settings.get("method", ""), settings.get("method", cls.method))
        for key, option in _NGRAM_KEYS.items():
            if key in settings:
                method += f":{option}={settings.pop(key)}"
        version = settings.pop("version", FILE_VERSION)
        if version != FILE_VERSION:
            raise BadInputError(f"speculative settings of version {version!r}; this outpace reads version {FILE_VERSION}")
        settings.pop("measured", None)  # what `outpace tune` saw, for people
        unknown = settings.keys() - {"method", "num_draft_tokens", "verifier"}
        if unknown:
            raise BadInputError(f"unknown speculative setting {sorted(unknown)[0]!r}; known: method, num_draft_tokens, verifier")
        return cls(**{**settings, "method": method})


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine. `kv_cache_tokens` None lets the target choose; `max_model_len` None is the model's own limit."""

    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    max_draft_tokens: int = 64  # rows a draft may add to a request's pass, probes included
    min_prefill_chunk: int = 32  # prefill goes on even when decoding fills the pass
    max_model_len: int | None = None
    kv_cache_tokens: int | None = None
    enable_prefix_caching: bool = True
    on_drafter_error: str = "continue"  # or "raise": see a drafter's failure at once, as in tests

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "min_prefill_chunk"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1")
        if self.on_drafter_error not in ("continue", "raise"):
            raise BadInputError(f"on_drafter_error must be continue or raise, not {self.on_drafter_error!r}")
        for name in ("max_model_len", "kv_cache_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 2:
                raise BadInputError(f"{name} must be at least 2")
