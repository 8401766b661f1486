"""Drafters of a user, and what the tests of the API compare."""

from __future__ import annotations

from outpace.drafters.base import Drafter
from outpace.params import SamplingParams
from outpace.tree.draft import Draft

DRAFTERS = ["blind", "prompt_lookup", "prompt_lookup:branches=1:choose=recent", "api_tools:Repeat"]
TWO = ["prompt_lookup", "api_tools:Repeat"]


class Repeat(Drafter):
    """A user's drafter: drafts the last tokens once more."""

    num_draft_tokens = 5

    def __init__(self, context, window: int = 9):
        self.window = window

    def propose(self, request, budget):
        return Draft.chain(request.context[-self.window :][:budget])


class NoSubclass:
    """Not a Drafter."""


class Failing(Drafter):
    """A user's drafter with a bug."""

    def __init__(self, context):
        pass

    def propose(self, request, budget):
        raise RuntimeError("secret detail")


def facts(output) -> tuple:
    """What speculation must not change about an answer."""
    return output.text, output.token_ids, output.pieces, output.finish_reason, output.prompt_token_ids, output.seed, output.logprobs


def params(max_tokens: int = 24, **options) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, **options)
