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
class HelperModel:
    """A second model that drafts, with its tokenizer (encode(text) -> ids, decode(ids) -> text), None for that of the target.

    `pass_cost`: measured time of one of its passes, in passes of the target; 0 where nobody has measured.
    """

    target: TargetModel
    tokenizer: Any = None
    pass_cost: float = 0.0


@dataclass(frozen=True)
class DrafterContext:
    """What a drafter may know about the model it guesses for, and the way to further models.

    `load_helper(name, num_layers)` loads a model by name, path or hub id; the name "self" is the target's own model. `num_layers` None
    is the whole model, else its first layers only. It is None where nobody can load models, as in most tests.
    """

    target: TargetModel
    tokenizer: Any = None
    load_helper: Callable[[str, int | None], HelperModel] | None = None

    @property
    def vocab_size(self) -> int:
        return self.target.capabilities.vocab_size


class Drafter(ABC):
    """Guesses tokens for many requests at once; keeps its state per request between `begin` and `end`.

    A wrong guess costs time, never text. Options arrive as keyword arguments from the spec `name:key=value:key=value`.
    """

    requires: Capabilities = Capabilities()
    helper_kind: str = ""  # the kind of trained helper it cannot do without; some come with outpace, for a few models
    wants_prompt: bool = False  # is it to be shown the hidden states of the prompt?
    num_draft_tokens: int = 7  # default budget: with the row of the last committed token, 8 rows a pass

    def begin(self, request: Request) -> None:
        """A request starts; its text so far is in `request.context`."""
        return None

    def num_known(self, request: Request) -> int:
        """Asked before the request starts: how many tokens at the beginning of its text may the target take from its cache, where they are
        not run and nobody sees their hidden states? As many as it likes, unless a drafter that `wants_prompt` says otherwise."""
        return len(request.token_ids)

    def prefilled(self, request: Request, start: int, hidden: Array) -> None:
        """Where `wants_prompt`: hidden states [n, H] of the prompt's tokens from place `start` on, as they are run, in order. Tokens found
        in the target's cache, `request.slot.num_cached` at the start, are not run. Valid until the next pass."""
        return None

    @abstractmethod
    def propose(self, request: Request, budget: int) -> Draft:
        """Guess what follows `request.context`: a tree of at most `budget` nodes (probes not counted). Empty = decode plainly."""

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        """Likely next tokens after `request.context` and then `path`, best first, about 8 at most, each with its chance given that
        `path` is right. With it several drafters grow one tree together. Cheap; () where the drafter cannot say."""
        return ()

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        """After a step: the verdict, and the target's outputs for [last committed token, *draft nodes].

        `request.context` has grown already: it ends with the path's tokens and `next_token` (or fewer where a limit cut them).
        Row 0 of the output belongs to the token that was last before the step, row r to
        draft node r - 1 (`verdict.draft` may be a rearranged form of what was proposed); `output.token_ids` names them.
        """
        return None

    def restart(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        """In place of `observe`, after a step in which a pending token did not hold: `request.context` is no continuation of what was
        guessed from, but the outputs are as true as ever. By default the request starts afresh."""
        self.end(request)
        self.begin(request)

    def settle(self) -> None:
        """After a step, when all its requests have been observed: what is better done once for all of them. The outputs are still valid."""
        return None

    def end(self, request: Request) -> None:
        """The request is over, whatever the reason: forget it."""
        return None


def helper_folder(context: DrafterContext, kind: str, path: str) -> tuple[Path, Base]:
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
    tokens = [*request.pending, *path]
    missing = length - len(tokens)
    return [*request.token_ids[-missing:], *tokens] if missing > 0 else tokens[len(tokens) - length :]


def unseen(request: Request, num_seen: int) -> list[int]:
    """The tokens of `request.context` after the first `num_seen`; its cost does not grow with the text."""
    num_committed = len(request.token_ids)
    new = request.token_ids[num_seen:] if num_seen < num_committed else []
    return [*new, *request.pending[max(0, num_seen - num_committed) :]]


def grow(successors: Callable[[Sequence[int]], Sequence[tuple[int, float]]], budget: int, threshold: float) -> Draft:
    """The tree of the likeliest paths: at most `budget` nodes whose path from the root is at least `threshold` likely.

    `successors(path)` gives the next tokens after a path and their chances, best first.
    """
    token_ids: list[int] = []
    parents: list[int] = []
    chances: list[float] = []
    heap: list[tuple[float, int, int, float, int, tuple[int, ...]]] = []  # (-chance of the path, number, token, chance, parent, path)
    number, node, path_chance, path = 0, -1, 1.0, tuple[int, ...]()
    while len(token_ids) < budget:
        for token, chance in successors(path):
            if path_chance * chance < threshold:
                break
            heappush(heap, (-path_chance * chance, number, token, chance, node, path))
            number += 1
        if not heap:
            break
        negative, _, token, chance, parent, above = heappop(heap)
        node, path_chance, path = len(token_ids), -negative, (*above, token)
        token_ids.append(token)
        parents.append(parent)
        chances.append(chance)
    return Draft(token_ids, parents, chances=chances)
