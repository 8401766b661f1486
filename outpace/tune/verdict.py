"""The verdict: the settings to use, their expected speedup, and the categories they slow down. A pure function of the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outpace.bench.intervals import Estimate, Sample, advantage, speedup
from outpace.bench.trust import is_possible
from outpace.config import SpeculativeConfig
from outpace.engine.metrics import tokens_per_step
from outpace.tune.candidates import PLAIN, label

MAX_NAMED = 3  # equally good methods named


@dataclass(frozen=True)
class Tried:
    """One candidate and its samples. `failure`: why it must not be used; `dropped`: why it was not tried further."""

    config: SpeculativeConfig
    samples: tuple[Sample, ...] = ()
    failure: str = ""
    dropped: str = ""

    @property
    def speedup(self) -> Estimate | None:
        return speedup(self.samples)

    @property
    def is_possible(self) -> bool:
        """Whether the speedup is one that drafting can give: at most the tokens per step."""
        rate = tokens_per_step(sum(sample.num_tokens for sample in self.samples), sum(sample.num_steps for sample in self.samples))
        return self.speedup is None or is_possible(self.speedup.value, rate)

    @property
    def is_allowed(self) -> bool:
        """Whether the candidate did not fail and all its answers had the tokens of plain decoding."""
        return not self.failure and all(sample.is_identical for sample in self.samples)


@dataclass(frozen=True)
class Verdict:
    """`config` are the settings to use, possibly plain decoding; `closest` is the candidate that the figures describe: the chosen one, or
    the best if none is chosen. `is_trusted`: False if the machine was too noisy to choose anything."""

    config: SpeculativeConfig
    closest: Tried | None
    sentences: list[str]
    is_trusted: bool = True

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def verdict(tried: Sequence[Tried], noise: str = "") -> Verdict:
    """Choose among the candidates; plain decoding wins unless a candidate is clearly faster. With `noise`, the reason why the times
    cannot be trusted, nothing is chosen."""
    if noise:
        sentence = f"Too noisy to trust: {noise}. Nothing was chosen; try again on a quiet machine."
        return Verdict(PLAIN, _closest(tried), [sentence], is_trusted=False)
    contenders = [entry for entry in tried if not entry.dropped and entry.is_allowed and entry.samples and entry.is_possible]
    best = _best([entry for entry in contenders if (estimate := entry.speedup) and estimate.is_faster])
    failures = [f"{label(entry.config)} {_failure(entry)}; it is not chosen." for entry in tried if not entry.is_allowed]
    impossible = [entry for entry in tried if entry.is_allowed and not entry.is_possible]
    excess = "exceeds its tokens per step"
    failures += [f"{label(entry.config)} is too noisy to trust: {in_words(entry.speedup)} {excess}." for entry in impossible]
    if best is None:
        closest = _closest(tried)
        return Verdict(PLAIN, closest, [*_plain_wins(closest), *failures])
    sentences = [f"{label(best.config)}, expect {in_words(best.speedup)} on prompts like these {best_count(best)}."]
    return Verdict(best.config, best, [*sentences, *_ties(best, contenders), *_categories(best), *failures])


def _best(pool: Sequence[Tried]) -> Tried | None:
    """The candidate that ran most prompts, then the fastest; one that ran fewer must be clearly faster on the prompts of both."""
    ranked = sorted(pool, key=lambda entry: (-len(entry.samples), -_value(entry)))
    best = ranked[0] if ranked else None
    for entry in ranked[1:]:
        gain = advantage(entry.samples, best.samples) if best else None
        best = entry if gain is not None and gain.is_faster else best
    return best


def _closest(tried: Sequence[Tried]) -> Tried | None:
    """The fastest candidate that ran at least half as many prompts as the one that ran most."""
    allowed = [entry for entry in tried if entry.is_allowed and entry.samples]
    most = max((len(entry.samples) for entry in allowed), default=0)
    return max((entry for entry in allowed if 2 * len(entry.samples) >= most), key=_value, default=None)


def _value(entry: Tried) -> float:
    return entry.speedup.value if entry.speedup else 0.0


def _plain_wins(closest: Tried | None) -> list[str]:
    if closest is None:
        return ["No candidate could be tried: use plain decoding."]
    estimate = closest.speedup
    if estimate is None or estimate.low is None:
        return [f"One prompt is too few to judge: use plain decoding. {label(closest.config)} was {in_words(estimate)}; use more prompts."]
    if estimate.is_slower:
        best = f"The best, {label(closest.config)}, was {in_words(estimate)}."
        return [f"Speculation does not pay off for these prompts: use plain decoding. {best}"]
    found = f"The closest, {label(closest.config)}, was {in_words(estimate)} {best_count(closest)}"
    return [f"No candidate is clearly faster than plain decoding: use plain decoding. {found}; more prompts or time may decide."]


def _ties(best: Tried, contenders: Sequence[Tried]) -> list[str]:
    """The candidates that ran at least half of its prompts and were not clearly slower."""
    names = []
    for entry in contenders:
        gain = advantage(entry.samples, best.samples)
        if entry is not best and gain is not None and 2 * gain.num_prompts >= len(best.samples) > 1 and not gain.is_slower:
            names.append(label(entry.config))
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return [f"Equally fast within the noise: {', '.join(names[:MAX_NAMED])}{more}."] if names else []


def by_category(samples: Sequence[Sample]) -> dict[str, Estimate]:
    """category -> speedup on its prompts."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.category, []).append(sample)
    return {name: estimate for name, group in groups.items() if (estimate := speedup(group)) is not None}


def _categories(best: Tried) -> list[str]:
    found = by_category(best.samples)
    if len(found) < 2:
        return []
    slower = [f"{name} ({estimate.value:.2f}x)" for name, estimate in found.items() if estimate.is_slower]
    unclear = [f"{name} ({estimate.value:.2f}x)" for name, estimate in found.items() if not estimate.is_slower and not estimate.is_faster]
    sentences = [f"Speculation does not pay off for your {' and '.join(slower)} prompts."] if slower else []
    return [*sentences, f"Too few prompts to judge: {', '.join(unclear)}."] if unclear else sentences


def _failure(entry: Tried) -> str:
    differing = sum(not sample.is_identical for sample in entry.samples)
    return entry.failure or f"gave other tokens than plain decoding on {differing} of {len(entry.samples)} prompts"


def in_words(estimate: Estimate | None) -> str:
    """The estimate as text, such as 1.70x (1.62 to 1.79)."""
    if estimate is None:
        return "not measured"
    return f"{estimate.value:.2f}x" + ("" if estimate.low is None else f" ({estimate.low:.2f} to {estimate.high:.2f})")


def best_count(entry: Tried) -> str:
    """The number of measured prompts as text, such as (12 measured)."""
    return f"({len(entry.samples)} measured)"
