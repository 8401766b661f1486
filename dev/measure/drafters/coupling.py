"""Count what coupled drafting gains: tokens per step with and without it, of answers that are the same.

usage: python dev/measure/drafters/coupling.py PROMPTS.jsonl [MODEL [LIMIT]]

Nothing is timed, so other programs may run beside it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

from outpace import LLM, EngineConfig, SamplingParams
from outpace.bench.builtin import load_prompts
from outpace.drafters import coupling
from outpace.outputs import RequestOutput

DRAFTERS = ("recycling", "suffix+recycling", "medusa", "eagle")
TEMPERATURES, SEEDS, MAX_TOKENS = (0.8, 1.0), (0, 1, 2), 48


def answers(
    model: str, drafter: str, messages: list[list[dict[str, str]]], is_coupled: bool
) -> dict[tuple[float, int], list[RequestOutput]]:
    """The answers by (temperature, seed). The model is loaded anew, so that no table knows an answer of another way."""
    as_they_are = patch.object(coupling, "coupled", lambda request, successors: successors)
    keys = [(temperature, seed) for temperature in TEMPERATURES for seed in SEEDS]
    params = [SamplingParams(temperature=temperature, seed=seed, max_tokens=MAX_TOKENS) for temperature, seed in keys]
    found: dict[tuple[float, int], list[RequestOutput]] = {key: [] for key in keys}
    engine = EngineConfig(max_num_seqs=len(keys))
    with LLM(model, speculative_config=drafter, engine=engine) as llm, nullcontext() if is_coupled else as_they_are:
        for conversation in messages:
            for key, output in zip(keys, llm.chat([conversation] * len(keys), params), strict=True):
                found[key].append(output)
    return found


def tokens_per_step(outputs: list[RequestOutput]) -> float:
    """Of all answers together."""
    return sum(len(output.token_ids) for output in outputs) / sum(output.stats.num_steps for output in outputs)


def main(prompts: str, model: str = "tiny", limit: str = "48") -> None:
    """Print a line per drafter and temperature."""
    messages = [workload.messages for workload in load_prompts(prompts, int(limit))]
    texts = {key: [output.token_ids for output in outputs] for key, outputs in answers(model, "none", messages, True).items()}
    for drafter in DRAFTERS:
        without, coupled = (answers(model, drafter, messages, is_coupled) for is_coupled in (False, True))
        for temperature in TEMPERATURES:
            keys = [(temperature, seed) for seed in SEEDS]
            same = sum(
                output.token_ids == text
                for way in (without, coupled)
                for key in keys
                for output, text in zip(way[key], texts[key], strict=True)
            )
            rates = [[tokens_per_step(way[key]) for key in keys] for way in (without, coupled)]
            before, after = (tokens_per_step([output for key in keys for output in way[key]]) for way in (without, coupled))
            spread = ", ".join(f"{high / low:.3f}" for low, high in zip(*rates, strict=True))
            print(  # noqa: T201
                f"{drafter} at {temperature}: {before:.3f} -> {after:.3f} tokens per step, {after / before:.3f} times (by seed {spread}); "
                f"{same} of {2 * len(keys) * len(messages)} identical",
                flush=True,
            )


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4 or not Path(sys.argv[1]).exists():
        sys.exit(__doc__)
    main(*sys.argv[1:])
