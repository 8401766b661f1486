"""The face of a drafter: which tokens are probably next?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads.shipped import shipped
from outpace.request import Request
from outpace.targets.base import Capabilities, TargetModel, TargetOutput
from outpace.targets.identity import Base
from outpace.tree.draft import Draft, Verdict


@dataclass(frozen=True)
class DraftModel:
    """A second model that drafts, with its tokenizer (encode(text) -> ids, decode(ids) -> text), None for that of the target.

    `pass_cost`: measured time of one of its passes, in passes of the target; 0 where nobody has measured.
    """

    target: TargetModel
    tokenizer: Any = None
    pass_cost: float = 0.0


@dataclass(frozen=True)
class DrafterContext:
    """What a drafter may know about the model it guesses for, and the way to further models.

    `load_draft_model(name, num_layers)` loads a model by name, path or hub id; the name "self" is the target's own model. `num_layers` None
    is the whole model, else its first layers only. It is None where nobody can load models, as in most tests.
    """

    target: TargetModel
    tokenizer: Any = None
    load_draft_model: Callable[[str, int | None], DraftModel] | None = None

    @property
    def vocab_size(self) -> int:
        return self.target.capabilities.vocab_size


class Drafter(ABC):
    """Proposes draft tokens for many requests; keeps its state per request between `begin` and `end`.

    A wrong draft token costs time, never text. Options arrive as keyword arguments from the spec `name:key=value:key=value`.
    What only some drafters need is in the mixins below: `PromptObserver`, `SuccessorSource`, `ResetObserver`, `StepObserver`.
    """

    requires: Capabilities = Capabilities()
    heads_kind: str = ""  # the kind of trained heads it needs; some ship with outpace, for a few models
    num_draft_tokens: int = 7  # default budget: with the last committed token, a forward pass of 8 tokens

    def begin(self, request: Request) -> None:
        """A request starts; its text so far is `request.context`."""
        return None

    @abstractmethod
    def propose(self, request: Request, budget: int) -> Draft:
        """Draft what follows `request.context`: a tree of at most `budget` nodes, lookahead tokens not counted. Empty: decode plainly."""

    def propose_batch(self, requests: Sequence[Request], budgets: Sequence[int]) -> list[Draft]:
        """One draft for each request of a step. Override it if one forward pass of yours serves several requests."""
        return [self.propose(request, budget) for request, budget in zip(requests, budgets, strict=True)]

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        """After a step: the verdict, and the target's outputs for [last committed token, *draft nodes].

        `request.context` has grown already: it ends with the path's tokens and `next_token` (or fewer where a limit cut them).
        Row 0 of the output belongs to the token that was last before the step, row r to draft node r - 1; `verdict.draft` may be a
        rearranged form of what was proposed, and `output.token_ids` names the tokens of the rows. The outputs are valid until the next
        forward pass: copy what you keep.
        """
        return None

    def end(self, request: Request) -> None:
        """The request has ended, for whatever reason: forget it."""
        return None


class PromptObserver(Drafter):
    """A drafter that reads the hidden states of the prompt."""

    wants_prompt: bool = True  # False: this instance does without

    @abstractmethod
    def observe_prompt(self, request: Request, start: int, hidden: Array) -> None:
        """Hidden states [n, H] of the prompt's tokens from position `start` on, in order, as they are run. Tokens found in the target's
        cache, `request.slot.num_cached` at the start, are not run. Valid until the next forward pass."""

    def num_reusable_prefix(self, request: Request) -> int:
        """Length of the prompt prefix whose K/V may be reused, asked before the request starts. Reused tokens are not run, so their hidden
        states are not shown."""
        return len(request.token_ids)


class SuccessorSource(Drafter):
    """A drafter that can name the successors of any path, so that several drafters grow one tree together."""

    def prepare(self, requests: Sequence[Request]) -> None:
        """Called once per step, before `successors` is asked about any of these requests: the place for one batched forward pass."""
        return None

    @abstractmethod
    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        """Likely next tokens after `request.context` and then `path`, best first, about 8 at most, each with its confidence given that
        `path` is right. Cheap; () if the drafter has nothing to say."""


class ResetObserver(Drafter):
    """A drafter that learns from a step in which an unconfirmed token was rejected. Others are ended and begun again."""

    @abstractmethod
    def reset(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        """Called in place of `observe`: `request.context` does not continue what was drafted from, but the outputs are valid."""


class StepObserver(Drafter):
    """A drafter with work that is best done once per step for all requests together."""

    @abstractmethod
    def end_step(self) -> None:
        """After a step, when all its requests have been observed. Its outputs are still valid."""


def reset(drafter: Drafter, request: Request, verdict: Verdict, output: TargetOutput) -> None:
    """Tell a drafter that an unconfirmed token was rejected."""
    if isinstance(drafter, ResetObserver):
        drafter.reset(request, verdict, output)
    else:
        drafter.end(request)
        drafter.begin(request)


def wants_prompt(drafter: Drafter) -> bool:
    """Whether the hidden states of the prompt are needed."""
    return isinstance(drafter, PromptObserver) and drafter.wants_prompt


def heads_folder(context: DrafterContext, kind: str, path: str) -> tuple[Path, Base]:
    """The folder of a trained helper, `path` or else the one that comes with outpace, and the model that it must fit. Raises BadInputError
    if there is none for this model."""
    base = context.target.base
    if base is None:
        raise BadInputError(f"{kind}: this target does not say which model it runs, so no heads can be known to fit")
    folder = Path(path).expanduser() if path else shipped(kind, base)
    if folder is None:
        raise BadInputError(f"{kind}: no heads for {base.name} come with outpace; train some and give their folder: {kind}:PATH")
    return folder, base


def tail(request: Request, length: int, path: Sequence[int] = ()) -> list[int]:
    """The last `length` tokens of `request.context` and then `path`, fewer at the start of a text; its cost does not grow with the text."""
    tokens = [*request.unconfirmed.token_ids, *path]
    missing = length - len(tokens)
    return [*request.token_ids[-missing:], *tokens] if missing > 0 else tokens[len(tokens) - length :]


def unseen(request: Request, num_seen: int) -> list[int]:
    """The tokens of `request.context` after the first `num_seen`; its cost does not grow with the text."""
    num_committed = len(request.token_ids)
    new = request.token_ids[num_seen:] if num_seen < num_committed else []
    return [*new, *request.unconfirmed.token_ids[max(0, num_seen - num_committed) :]]


def grow(successors: Callable[[Sequence[int]], Sequence[tuple[int, float]]], budget: int, threshold: float) -> Draft:
    """The tree of the likeliest paths: at most `budget` nodes whose path from the root is at least `threshold` likely.

    `successors(path)` gives the next tokens after a path and their chances, best first.
    """
    token_ids: list[int] = []
    parents: list[int] = []
    confidences: list[float] = []
    heap: list[tuple[float, int, int, float, int, tuple[int, ...]]] = []  # (-chance of the path, number, token, chance, parent, path)
    number, node, path_confidence, path = 0, -1, 1.0, tuple[int, ...]()
    while len(token_ids) < budget:
        for token, confidence in successors(path):
            if path_confidence * confidence < threshold:
                break
            heappush(heap, (-path_confidence * confidence, number, token, confidence, node, path))
            number += 1
        if not heap:
            break
        negative, _, token, confidence, parent, above = heappop(heap)
        node, path_confidence, path = len(token_ids), -negative, (*above, token)
        token_ids.append(token)
        parents.append(parent)
        confidences.append(confidence)
    return Draft(token_ids, parents, confidences=confidences)
