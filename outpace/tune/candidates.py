"""The candidates of tuning: drafters, and a small table of other settings for those that do well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from outpace.config import SpeculativeConfig
from outpace.drafters.spec import check_specs
from outpace.errors import BadInputError
from outpace.llm import LLM

PLAIN = SpeculativeConfig("none")
METHODS = ("suffix+recycling", "prompt_lookup", "auto", "suffix", "recycling", "prompt_lookup+recycling")  # tried if none are named
NUM_DRAFT_TOKENS = (4, 7, 15)  # draft tokens per step to try besides a drafter's default
SETTINGS = {  # drafter -> options to try besides its defaults
    "prompt_lookup": ("max_ngram=5", "branches=1"),
    "suffix": ("threshold=0.12", "threshold=0.02"),
    "recycling": ("threshold=0.12", "threshold=0.02"),
}
VARIANTS = {"auto": ("auto:suffix", "auto:prompt_lookup+recycling")}  # of drafters that choose the number of draft tokens themselves


def default_methods(llm: LLM) -> list[SpeculativeConfig]:
    """The methods of METHODS that this target can run."""
    found = []
    for method in METHODS:
        config = SpeculativeConfig(method)
        try:
            llm.strategy(config)
        except BadInputError:  # unknown in this version, or the target cannot run trees
            continue
        found.append(config)
    return found


def named_methods(names: str | None, config: Any = None) -> list[SpeculativeConfig]:
    """The methods of `a,b,c` and the settings of a file, without plain decoding, which always runs. Raises BadInputError."""
    chosen = [name.strip() for name in (names or "").split(",") if name.strip()]
    if names is not None and not chosen:
        raise BadInputError("--drafters names no drafter")
    configs = [SpeculativeConfig(name) for name in chosen] + ([] if config is None else [SpeculativeConfig.of(config)])
    for entry in configs:
        check_specs(entry.method)
    return [entry for entry in dict.fromkeys(configs) if entry.method != PLAIN.method]


def variations(bases: Sequence[SpeculativeConfig], number: int) -> list[SpeculativeConfig]:
    """At most `number` other settings of these methods, taken from each in turn, most promising first."""
    lists = [_variations(base) for base in bases]
    longest = max(map(len, lists), default=0)
    mixed = [entries[i] for i in range(longest) for entries in lists if i < len(entries)]
    return [config for config in dict.fromkeys(mixed) if config not in bases][:number]


def _variations(base: SpeculativeConfig) -> list[SpeculativeConfig]:
    name = base.method.partition(":")[0]
    if name in VARIANTS:
        return [replace(base, method=method) for method in VARIANTS[name]]
    counts = [replace(base, num_draft_tokens=count) for count in NUM_DRAFT_TOKENS if base.num_draft_tokens is None]
    parts = base.method.split("+")
    changed = [
        replace(base, method="+".join([*parts[:i], f"{part}:{option}", *parts[i + 1 :]]))
        for i, part in enumerate(parts)
        for option in SETTINGS.get(part, ())
    ]
    return [*counts, *changed]


def label(config: SpeculativeConfig) -> str:
    """The candidate for people: the method, and the number of draft tokens if it is not the method's default."""
    if config == PLAIN:
        return "plain decoding"
    count = "" if config.num_draft_tokens is None else f" with {config.num_draft_tokens} draft tokens per step"
    check = "" if config.verifier == "exact" else f" ({config.verifier})"
    return f"{config.method}{count}{check}"
