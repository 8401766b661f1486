"""The face of a drafter: which tokens are probably next?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from outpace.core import Capabilities, Draft, Request, Verdict
from outpace.targets.base import TargetModel, TargetOutput


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
    num_draft_tokens: int = 7  # default budget: with the row of the last committed token, 8 rows a pass

    def begin(self, request: Request) -> None:
        """A request starts; its text so far is in `request.context`."""
        return None

    @abstractmethod
    def propose(self, request: Request, budget: int) -> Draft:
        """Guess what follows `request.context`: a tree of at most `budget` nodes (probes not counted). Empty = decode plainly."""

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        """After a step: the verdict, and the target's outputs for [last committed token, *draft nodes].

        `request.context` has grown already: it ends with the path's tokens and `next_token` (or fewer where a limit cut them).
        Row 0 of the output belongs to the token that was last before the step, row r to
        draft node r - 1 (`verdict.draft` may be a rearranged form of what was proposed); `output.token_ids` names them.
        """
        return None

    def end(self, request: Request) -> None:
        """The request is over, whatever the reason: forget it."""
        return None
