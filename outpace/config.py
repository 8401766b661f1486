"""Settings: how to speculate, and the sizes of the engine. Plain data, checked when it is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from outpace.errors import BadInputError

FILE_VERSION = 1  # of the files that `outpace tune` writes (docs/tune.md)
_VLLM_NAMES = {"num_speculative_tokens": "num_draft_tokens"}  # vLLM's key -> ours
_VLLM_METHODS = {"ngram": "prompt_lookup"}
_NGRAM_KEYS = {"prompt_lookup_max": "max_ngram", "prompt_lookup_min": "min_ngram"}
_KNOWN = ("method", "num_draft_tokens", "verifier")


@dataclass(frozen=True)
class SpeculativeConfig:
    """How to draft and how to verify. `method` is a drafter spec; `num_draft_tokens` None means the drafter's own default.

    Raises BadInputError for values of a wrong type or out of range.
    """

    method: str = "auto"
    num_draft_tokens: int | None = None
    verifier: str = "exact"

    def __post_init__(self) -> None:
        for name in ("method", "verifier"):
            if not isinstance(getattr(self, name), str):
                raise BadInputError(f"{name} must be a string, not {getattr(self, name)!r:.80}")
        count = self.num_draft_tokens
        if count is not None:
            most = EngineConfig.max_draft_tokens
            if not _is_integer(count) or not 0 <= count <= most:
                raise BadInputError(f"num_draft_tokens must be an integer from 0 to {most}, not {count!r:.80}")
            object.__setattr__(self, "num_draft_tokens", int(count))

    @classmethod
    def of(cls, value: SpeculativeConfig | Mapping[str, Any] | str | bool | None) -> SpeculativeConfig:
        """From a drafter spec, a mapping (vLLM's keys and the files of `outpace tune` are understood), False for plain decoding, or
        None for the default. Raises BadInputError."""
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
        method = settings.get("method", "ngram" if settings.keys() & _NGRAM_KEYS.keys() else cls.method)  # as vLLM understands it
        if not isinstance(method, str):
            raise BadInputError(f"method must be a string, not {method!r:.80}")
        method = _VLLM_METHODS.get(method, method)
        for key, option in _NGRAM_KEYS.items():
            if key in settings:
                length = settings.pop(key)
                if not _is_integer(length) or length < 1:
                    raise BadInputError(f"{key} must be an integer of at least 1, not {length!r:.80}")
                method += f":{option}={int(length)}"
        version = settings.pop("version", FILE_VERSION)
        if version != FILE_VERSION:
            raise BadInputError(f"speculative settings of version {version!r}; this outpace reads version {FILE_VERSION}")
        settings.pop("measured", None)  # what `outpace tune` measured, for people
        settings.pop("load", None)  # which model to load and how, for the command line
        if unknown := [key for key in settings if key not in _KNOWN]:
            raise BadInputError(f"unknown speculative setting {unknown[0]!r}; known: {', '.join(_KNOWN)}")
        return cls(**{**settings, "method": method})


@dataclass(frozen=True)
class DeviceConfig:
    """Where and how the torch target runs. `device`: auto, cpu, cuda or cuda:N; auto is the first CUDA device, or else the CPU.

    With `exact_width` every forward pass runs one sequence and that many tokens: a text then does not depend on the drafts in 16 bits
    either. Raises BadInputError for values of a wrong type or out of range.
    """

    device: str = "auto"
    exact_width: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise BadInputError(f"device must be auto, cpu, cuda or cuda:N, not {self.device!r:.80}")
        width = self.exact_width
        if width is not None and (not _is_integer(width) or width < 2):
            raise BadInputError(f"exact_width must be an integer of at least 2, not {width!r:.80}")


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine. `kv_cache_tokens` and `prefix_cache_tokens` None let the target choose; `max_model_len` None is the model's own
    limit.

    Raises BadInputError for values of a wrong type or out of range.
    """

    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    max_draft_tokens: int = 64  # tokens that a draft may add to a request's forward pass, lookahead tokens included
    min_prefill_chunk: int = 32  # prompt tokens that every forward pass may run, however much decoding fills it
    max_model_len: int | None = None
    kv_cache_tokens: int | None = None
    prefix_cache_tokens: int | None = None  # of finished requests, kept for prompts that begin alike
    enable_prefix_caching: bool = True
    on_drafter_error: str = "continue"  # or "raise": a drafter's failure ends the step, as in tests

    def __post_init__(self) -> None:
        for name, least in (("max_num_seqs", 1), ("max_num_batched_tokens", 1), ("max_draft_tokens", 0), ("min_prefill_chunk", 1)):
            self._check(name, least)
        for name, least in (("max_model_len", 2), ("kv_cache_tokens", 2), ("prefix_cache_tokens", 0)):
            if getattr(self, name) is not None:
                self._check(name, least)
        if self.on_drafter_error not in ("continue", "raise"):
            raise BadInputError(f"on_drafter_error must be continue or raise, not {self.on_drafter_error!r:.80}")

    @classmethod
    def of(cls, value: EngineConfig | Mapping[str, Any] | None) -> EngineConfig:
        """From a mapping of the settings' names, or None for the defaults. Raises BadInputError."""
        if isinstance(value, EngineConfig):
            return value
        if value is not None and not isinstance(value, Mapping):
            raise BadInputError(f"engine must be an EngineConfig or a dict, not {type(value).__name__}")
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in value or () if name not in known]:
            raise BadInputError(f"engine has no setting {unknown[0]!r}; known: {', '.join(known)}")
        return cls(**(value or {}))

    def _check(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not _is_integer(value) or value < least:
            raise BadInputError(f"{name} must be an integer of at least {least}, not {value!r:.80}")
        object.__setattr__(self, name, int(value))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
