"""What `outpace plan` measures: the model's costs on this machine, its overhead, and what drafting gains on these prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outpace.bench.runner import machine
from outpace.controller.cost import CostTable
from outpace.engine.metrics import median
from outpace.errors import BadInputError
from outpace.files import read_json
from outpace.llm import LLM
from outpace.params import SamplingParams
from outpace.plan.draft_curve import DraftCurve, nodes_of
from outpace.request import StepOutput

TOGETHER = 8  # requests at once in the third run, as in the cost table
FORMAT = 1


@dataclass(frozen=True)
class Profile:
    """Everything that a plan is computed from. Milliseconds: `overhead_ms` of a step beyond its forward pass, for 1 and for TOGETHER
    requests; `draft_ms` more for each request that drafts; `prompt_token_ms` for each token of a prompt."""

    model: str
    drafter: str
    machine: dict[str, Any]
    costs: CostTable
    curve: DraftCurve
    overhead_ms: tuple[float, float]
    draft_ms: float
    prompt_token_ms: float
    num_prompt_tokens: float  # mean of a request
    num_answer_tokens: float
    measured: dict[str, float]  # tokens per second of decoding, one request at a time: plain, drafted; tokens per step

    def save(self) -> dict[str, Any]:
        """A JSON-ready document."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def load(cls, path: Path) -> Profile:
        """From the profile in a file that `outpace plan` wrote. Raises BadInputError."""
        try:
            facts = dict(read_json(path)["profile"])
            if facts.pop("format") != FORMAT:
                raise BadInputError(f"{path} is of another version of outpace; measure again")
            costs: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.pop("costs").items()}
            curve: dict[str, Any] = {name: tuple(value) for name, value in facts.pop("curve").items()}
            first, many = facts.pop("overhead_ms")
            return cls(**facts, overhead_ms=(first, many), costs=CostTable(**costs), curve=DraftCurve(**curve))
        except BadInputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInputError(f"{path} was not written by `outpace plan --json`{missing(error)}") from error


def missing(error: Exception) -> str:
    """What a document lacks, as the end of a sentence; empty if it has a wrong value instead."""
    return f": it has no {error}" if isinstance(error, KeyError) else ""


@dataclass
class _Run:
    """Requests one at a time, or many together."""

    num_tokens: int = 0
    num_steps: int = 0
    decode_seconds: float = 0.0
    prefill_seconds: float = 0.0
    num_prompt_tokens: int = 0
    num_run_prompt_tokens: int = 0  # without those that were cached
    num_context: float = 0.0  # mean number of tokens before a step


def measure(
    llm: LLM, conversations: Sequence[Any], params: SamplingParams, drafter: Any, tell: Callable[[str], None] = lambda _: None
) -> Profile:
    """Run the prompts with and without the drafter, alone, and some of them together. Raises BadInputError for an unknown drafter."""
    tell("the cost of a forward pass")
    costs = llm.strategies.costs
    prompts = [llm.tokenizer.encode_chat(conversation) for conversation in conversations]
    llm.generate(prompts[0], params, speculative_config=drafter)  # warm up
    tell("plain decoding")
    plain, _ = _alone(llm, prompts, params, "none")
    tell("with drafts")
    drafted, steps = _alone(llm, prompts, params, drafter)
    tell(f"{TOGETHER} requests at once")
    together_ms, context = _together(llm, (prompts * TOGETHER)[:TOGETHER], params)
    nodes, num_fixed = nodes_of(steps)
    tokens_per_step = drafted.num_tokens / max(1, drafted.num_steps)
    curve = DraftCurve.of(nodes, num_fixed, tokens_per_step)
    plain_ms = 1e3 * plain.decode_seconds / max(1, plain.num_steps)
    costs = _not_above(costs, plain_ms / _alone_ms(costs, plain), together_ms / _together_ms(costs, context))
    first = max(0.0, plain_ms - _alone_ms(costs, plain))
    step_ms = 1e3 * drafted.decode_seconds / max(1, drafted.num_steps)
    expected = costs.milliseconds(round(curve.tokens[-1]), 1, round(drafted.num_context))
    return Profile(
        model=llm.name,
        drafter=str(drafter),
        machine=machine(),
        costs=costs,
        curve=curve,
        overhead_ms=(first, max(0.0, together_ms - _together_ms(costs, context))),
        draft_ms=max(0.0, step_ms - expected - first),
        prompt_token_ms=1e3 * plain.prefill_seconds / max(1, plain.num_run_prompt_tokens),
        num_prompt_tokens=plain.num_prompt_tokens / len(prompts),
        num_answer_tokens=plain.num_tokens / len(prompts),
        measured=_speeds(plain, drafted, tokens_per_step),
    )


def _alone_ms(costs: CostTable, run: _Run) -> float:
    """What the table says of a step of plain decoding, alone."""
    return costs.milliseconds(2, 1, round(run.num_context), 1)


def _together_ms(costs: CostTable, num_context: float) -> float:
    """What the table says of a step of plain decoding of TOGETHER requests."""
    return costs.milliseconds(2 * TOGETHER, TOGETHER, round(num_context), TOGETHER)


def _not_above(costs: CostTable, *ratios: float) -> CostTable:
    """The table, made faster if all steps took less than it says: it was measured while the machine was busy."""
    factor = max(ratios)
    return costs.scaled(costs.sizes, [factor] * len(costs.sizes)) if 0.0 < factor < 1.0 else costs


def _speeds(plain: _Run, drafted: _Run, tokens_per_step: float) -> dict[str, float]:
    def rate(run: _Run) -> float:
        return run.num_tokens / run.decode_seconds if run.decode_seconds else 0.0

    return {"plain": rate(plain), "speculative": rate(drafted), "tokens_per_step": tokens_per_step}


def _alone(llm: LLM, prompts: Sequence[list[int]], params: SamplingParams, drafter: Any) -> tuple[_Run, list[StepOutput]]:
    """One request after the other."""
    run, steps, weighted = _Run(), list[StepOutput](), 0.0
    for prompt in prompts:
        for piece in llm.stream(prompt, params, speculative_config=drafter):
            steps += [step for step in piece.steps if step.verdict is not None]
            output = piece.output
        assert output is not None
        stats = output.stats
        run.num_tokens += len(output.token_ids)
        run.num_steps += stats.num_steps
        run.decode_seconds += stats.decode_seconds
        run.num_prompt_tokens += len(prompt)
        run.prefill_seconds += stats.prefill_seconds
        run.num_run_prompt_tokens += len(prompt) - stats.num_cached_prompt_tokens
        weighted += stats.num_steps * (len(prompt) + len(output.token_ids) / 2)
    run.num_context = weighted / max(1, run.num_steps)
    return run, steps


def _together(llm: LLM, prompts: Sequence[list[int]], params: SamplingParams) -> tuple[float, float]:
    """(median milliseconds of a step in which all requests decode plainly, tokens of context of all of them)."""
    jobs = [llm.submit(prompt, params, speculative_config="none") for prompt in prompts]
    times, contexts = list[float](), list[float]()
    try:
        while not any(job.is_done for job in jobs):
            is_decoding = all(job.request.num_output_tokens for job in jobs)
            started = time.perf_counter()
            llm.step()
            if is_decoding:
                times.append(1e3 * (time.perf_counter() - started))
                contexts.append(float(sum(len(job.request.token_ids) for job in jobs)))
            for job in jobs:
                job.steps.clear()
    finally:
        for job in jobs:
            llm.abort(job)
    return median(times), sum(contexts) / max(1, len(contexts))
