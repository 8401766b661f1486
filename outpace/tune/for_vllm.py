"""Which drafter pays in vLLM, with these prompts: each drafts here as it would there, chains of at most K tokens, and steps are counted.

Counts do not depend on this machine. The expected gain adds what a draft token costs there, which is given, not measured.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from outpace.bench.workloads import Workload
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.engine.metrics import tokens_per_step
from outpace.errors import BadInputError, OutpaceError
from outpace.llm import LLM
from outpace.params import SamplingParams
from outpace.progress import note
from outpace.tune.vllm_drafters import ChainDrafter, VLLMNgramDrafter, VLLMSuffixDrafter
from outpace.verifiers import create_verifier

OURS, THRESHOLD = ("suffix", "suffix+recycling"), 0.1
NUM_DRAFT_TOKENS = (3, 5, 7)
WORTH_A_PLUGIN = 1.03  # vLLM's own methods are chosen unless outpace's drafter is this much better: one part less to install
WORTH_IT = 1.05  # below, plain decoding is advised


@dataclass(frozen=True)
class Method:
    """A way to draft in vLLM: its settings there, and the drafter that does the same here. `pass_cost`: forward passes of the model that a
    draft token costs, for draft models."""

    name: str
    speculative: dict[str, Any]
    make: Callable[[], Drafter]
    options: dict[str, Any] = field(default_factory=dict)
    pass_cost: float = 0.0

    @property
    def is_ours(self) -> bool:
        return bool(self.options)


@dataclass
class Count:
    """What one method did with K draft tokens per step."""

    method: Method
    num_draft_tokens: int
    strategy: Strategy
    num_tokens: int = 0
    num_steps: int = 0
    num_drafted: int = 0

    def gain(self, token_cost: float) -> float:
        """Expected speed, in that of plain decoding: tokens per step over the cost of a step in plain forward passes."""
        if not self.num_steps:
            return 0.0
        drafted = self.num_drafted / self.num_steps
        cost = 1 + token_cost * drafted + self.method.pass_cost * drafted
        return tokens_per_step(self.num_tokens, self.num_steps) / cost


@dataclass(frozen=True)
class Advice:
    """All counts over `num_prompts` prompts; `best` is None if plain decoding is."""

    counts: list[Count]
    best: Count | None
    num_prompts: int
    token_cost: float


def check_engine(engine: str) -> None:
    """Raise BadInputError for an engine other than vLLM."""
    if engine != "vllm":
        raise BadInputError(f"--for knows vllm only, not {engine!r}")


def advise_for_vllm(
    llm: LLM,
    model: str,
    workloads: Sequence[Workload],
    samples: Sequence[SamplingParams],
    time_limit: float,
    draft_model: str | None,
    token_cost: float,
    as_json: bool,
) -> None:
    """Try, and print the results, the verdict and the command."""
    advice = advise(llm, workloads, samples, time_limit, methods(llm, draft_model), token_cost)
    found = document(model, advice)
    if as_json:
        sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table(advice))
    if find_spec("arctic_inference") is None:
        note("vLLM's own suffix was not tried: it needs the package arctic-inference, here and beside vLLM")
    console.print(found["verdict"], markup=False, soft_wrap=True)
    console.print(found["command"], markup=False, soft_wrap=True)


def methods(llm: LLM, draft_model: str | None) -> list[Method]:
    """What vLLM can run without training: its own n-grams, its suffixes (if their package is installed), outpace's drafters, and a
    draft model if one is named."""
    context = DrafterContext(llm.target, llm.tokenizer, llm.strategies.draft_model)
    found = [Method("ngram", {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 3}, lambda: VLLMNgramDrafter(context))]
    if find_spec("arctic_inference") is not None:
        found.append(Method("vLLM's suffix", {"method": "suffix"}, lambda: VLLMSuffixDrafter(context)))
    for spec in OURS:
        custom = {"method": "custom_class", "model": "outpace.vllm.Proposer"}
        found.append(Method(spec, custom, _chains(spec, context), {"drafter": spec}))
    if draft_model is not None:
        cost = llm.strategies.draft_model(draft_model, None).pass_cost
        settings = {"method": "draft_model", "model": draft_model}
        found.append(Method("draft_model", settings, _chains(f"draft_model:{draft_model}", context), pass_cost=cost))
    return found


def _chains(spec: str, context: DrafterContext) -> Callable[[], Drafter]:
    return lambda: ChainDrafter(create_drafter(spec, context), THRESHOLD)


def advise(
    llm: LLM, workloads: Sequence[Workload], samples: Sequence[SamplingParams], time_limit: float, ways: Sequence[Method], token_cost: float
) -> Advice:
    """Answer as many prompts as the time allows, with each method and K and all `samples`. Raises OutpaceError if none could be run."""
    counts = [
        Count(way, number, Strategy(way.name, way.make(), create_verifier("exact"), FixedController(number)))
        for way in ways
        for number in NUM_DRAFT_TOKENS
    ]
    started, num_prompts = time.perf_counter(), 0
    for workload in workloads:
        try:
            outputs = [
                (count, llm.chat(workload.messages, params, speculative_config=count.strategy)[0]) for params in samples for count in counts
            ]
        except BadInputError:  # too long for the model
            continue
        for count, output in outputs:
            count.num_tokens += len(output.token_ids)
            count.num_steps += output.stats.num_steps
            count.num_drafted += output.stats.num_draft_tokens
        num_prompts += 1
        if time.perf_counter() - started > time_limit:
            break
    if not num_prompts:
        raise OutpaceError("no prompt could be run")
    return Advice(counts, _best(counts, token_cost), num_prompts, token_cost)


def _best(counts: Sequence[Count], token_cost: float) -> Count | None:
    """The most promising; outpace's own only if it is clearly better, and none if speculation hardly pays."""

    def worth(count: Count) -> float:
        return count.gain(token_cost) / (WORTH_A_PLUGIN if count.method.is_ours else 1)

    best = max(counts, key=worth)
    return best if best.gain(token_cost) >= WORTH_IT else None


def command(model: str, best: Count | None) -> str:
    """The whole line that starts vLLM. A model that vLLM cannot read is called MODEL."""
    readable = Path(model).is_dir() or (model.count("/") == 1 and not Path(model).exists())
    words = ["vllm", "serve", model if readable else "MODEL"]
    if best is not None:
        settings = {**best.method.speculative, "num_speculative_tokens": best.num_draft_tokens}
        words += ["--speculative-config", json.dumps(settings)]
        if best.method.is_ours:
            words += ["--additional-config", json.dumps({"outpace": best.method.options})]
    return shlex.join(words)


def verdict(advice: Advice) -> str:
    """One sentence on what to expect."""
    cost = f"if a draft token adds {100 * advice.token_cost:g}% to a forward pass (--token-cost)"
    if advice.best is None:
        return f"Plain decoding: nothing gains 5% over {advice.num_prompts} prompts, {cost}."
    best = advice.best
    gain, steps = best.gain(advice.token_cost), tokens_per_step(best.num_tokens, best.num_steps)
    return (
        f"Expect {gain:.2f} times the speed of plain decoding for few requests at once, {cost}: {steps:.2f} tokens per step with "
        f"{best.method.name}, K = {best.num_draft_tokens}, over {advice.num_prompts} prompts."
    )


def document(model: str, advice: Advice) -> dict[str, Any]:
    """All results, JSON-ready."""
    return {
        "command": command(model, advice.best),
        "verdict": verdict(advice),
        "num_prompts": advice.num_prompts,
        "token_cost": advice.token_cost,
        "results": [_row(count, advice.token_cost) for count in advice.counts],
    }


def _row(count: Count, token_cost: float) -> dict[str, Any]:
    return {
        "method": count.method.name,
        "num_speculative_tokens": count.num_draft_tokens,
        "tokens_per_step": round(tokens_per_step(count.num_tokens, count.num_steps), 3),
        "drafted_per_step": round(count.num_drafted / max(1, count.num_steps), 3),
        "expected_gain": round(count.gain(token_cost), 3),
    }


def table(advice: Advice) -> Table:
    """The results for people."""
    found = Table("method", "K", "tokens/step", "drafted/step", "expected gain", "remark")
    for count in advice.counts:
        row = _row(count, advice.token_cost)
        remark = "chosen" if count is advice.best else ""
        figures = (f"{row[key]:.2f}" for key in ("tokens_per_step", "drafted_per_step", "expected_gain"))
        found.add_row(row["method"], str(row["num_speculative_tokens"]), *figures, remark)
    return found
