"""The command `outpace chat`."""

from __future__ import annotations

from outpace.cli.options.loading import DRAFTER_RULE, Drafting
from outpace.cli.options.option_types import System
from outpace.cli.options.rules import with_rules
from outpace.cli.options.sampling import FORMS, SamplingOptions
from outpace.cli.options.spread import spread


@with_rules(DRAFTER_RULE, *FORMS)
@spread(SamplingOptions, max_tokens=1024, temperature=0.7, top_k=20, top_p=0.8)
@spread(Drafting)
def chat(drafting: Drafting, system: System = None, *, sampling: SamplingOptions) -> None:
    """Chat with the model. Ctrl-C stops an answer, Ctrl-D or /exit quits, /help lists the other commands.

    Answers are sampled, so that the same question gets another answer; --temperature 0 always takes the likeliest token.

    Example: `outpace chat --system "Answer in one sentence."`
    """
    from outpace.cli.conversation import Conversation

    params = sampling.params()
    Conversation(drafting.llm(), params, system).run()
