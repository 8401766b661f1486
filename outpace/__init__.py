"""outpace makes a language model answer faster without changing one token of its answer.

>>> from outpace import LLM, SamplingParams
>>> llm = LLM("default", speculative_config="auto")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from outpace.async_llm import AsyncLLM
    from outpace.config import EngineConfig, SpeculativeConfig
    from outpace.errors import BadInputError, OutpaceError
    from outpace.heads.format import DraftHeads
    from outpace.llm import LLM
    from outpace.outputs import RequestOutput
    from outpace.params import SamplingParams, StructuredOutput

_WHERE = {
    "LLM": "outpace.llm",
    "AsyncLLM": "outpace.async_llm",
    "BadInputError": "outpace.errors",
    "EngineConfig": "outpace.config",
    "DraftHeads": "outpace.heads.format",
    "OutpaceError": "outpace.errors",
    "RequestOutput": "outpace.outputs",
    "SamplingParams": "outpace.params",
    "SpeculativeConfig": "outpace.config",
    "StructuredOutput": "outpace.params",
}
__all__ = [
    "LLM",
    "AsyncLLM",
    "BadInputError",
    "DraftHeads",
    "EngineConfig",
    "OutpaceError",
    "RequestOutput",
    "SamplingParams",
    "SpeculativeConfig",
    "StructuredOutput",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import outpace` and `outpace --help` load nothing heavy."""
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'outpace' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, whether or not they have been imported, and those that every module has."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
