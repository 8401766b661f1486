"""The command `outpace chat`."""

from __future__ import annotations

from outpace.cli.options import (
    Config,
    Device,
    Drafter,
    ExactWidth,
    Model,
    NumDraftTokens,
    Precision,
    System,
    Target,
    Threads,
    load,
)
from outpace.cli.sampling_options import SamplingOptions
from outpace.cli.spread import spread


@spread(SamplingOptions, max_tokens=1024, temperature=0.7, top_k=20, top_p=0.8)
def chat(
    model: Model = "default",
    system: System = None,
    drafter: Drafter = None,
    num_draft_tokens: NumDraftTokens = None,
    *,
    sampling: SamplingOptions,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    device: Device = "auto",
    exact_width: ExactWidth = None,
    config: Config = None,
) -> None:
    """Chat with the model. Ctrl-C stops an answer, Ctrl-D or /exit quits, /help lists the other commands.

    Answers are sampled, so that the same question gets another answer; --temperature 0 always takes the likeliest token.

    Example: `outpace chat --system "Answer in one sentence."`
    """
    from outpace.cli.conversation import Conversation

    params = sampling.params()
    llm = load(model, drafter, target, precision, threads, config, num_draft_tokens, None, device, exact_width)
    Conversation(llm, params, system).run()
