"""The command `outpace chat`."""

from __future__ import annotations

from outpace.cli.options import (
    Config,
    Device,
    Drafter,
    ExactWidth,
    MaxTokens,
    Model,
    Precision,
    Seed,
    Target,
    Temperature,
    Threads,
    load,
)


def chat(
    model: Model = "default",
    drafter: Drafter = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    device: Device = "auto",
    exact_width: ExactWidth = None,
    config: Config = None,
) -> None:
    """Chat with the model. Ctrl-C stops an answer, Ctrl-D or /exit quits, /clear starts a new conversation.

    Example: `outpace chat --drafter prompt_lookup`
    """
    from outpace.cli.conversation import converse
    from outpace.params import SamplingParams

    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens)
    llm = load(model, drafter, target, precision, threads, config, None, None, device, exact_width)
    converse(llm, params)
