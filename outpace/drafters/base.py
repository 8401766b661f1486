"""The interface of a drafter: it proposes the tokens that probably come next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from outpace.arrays import Array
from outpace.drafters.coupling import grow_coupled
from outpace.request import Request
from outpace.targets.base import Capabilities, TargetModel, TargetOutput
from outpace.tree.builder import TreeBuilder, grow_best_first
from outpace.tree.chain import PathWalker, Walker, best_chains
from outpace.tree.draft import Draft, Verdict, first_chain


@dataclass(frozen=True)
class DraftModel:
    """A second model that drafts, with its tokenizer (encode(text) -> ids, decode(ids) -> text); None if it shares the target's.

    `pass_cost`: measured time of one of its forward passes, in forward passes of the target; 0 if it has not been measured.
    `token_cost`: what one more token adds to a forward pass of the target, as a share of it. `reading_cost`: time in which it reads one
    token of a long text, in forward passes of the target.
    """

    target: TargetModel
    tokenizer: Any = None
    pass_cost: float = 0.0
    token_cost: float = 0.1
    reading_cost: float = 0.0


@dataclass(frozen=True)
class DrafterContext:
    """What a drafter may know about the model it drafts for, and how it loads further models.

    `load_draft_model(name, num_layers)` loads a model by name, path or hub id; the name "self" is the target's own model. `num_layers` None
    means the whole model, a number its first layers only. It is None if models cannot be loaded, as in most tests.
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
    What only some drafters need is in the mixins below: `PromptObserver`, `SuccessorSource`, `CostlyDrafter`, `ResetObserver`,
    `StepObserver`.
    """

    requires: Capabilities = Capabilities()
    heads_kind: str = ""  # the kind of trained heads it needs; some ship with outpace, for a few models
    num_draft_tokens: int = 7  # default budget: with the last committed token, a forward pass of 8 tokens

    @property
    def num_bytes(self) -> int:
        """Memory of what it keeps between requests, roughly. Drafters named by requests are dropped when all need too much."""
        return 0

    def begin(self, request: Request) -> None:
        """A request starts; its text so far is `request.context`: the prompt, and after a preemption also what has been written."""
        return None

    @abstractmethod
    def propose(self, request: Request, budget: int) -> Draft:
        """Draft what follows `request.context`: a tree of at most `budget` nodes, lookahead tokens not counted. Empty: decode plainly."""

    def propose_batch(self, requests: Sequence[Request], budgets: Sequence[int]) -> list[Draft]:
        """One draft for each request of a step. Override it if one forward pass of yours serves several requests.

        If it raises, each request is asked again alone, so leave nothing behind that breaks a second call.
        """
        return [self.propose(request, budget) for request, budget in zip(requests, budgets, strict=True)]

    def propose_chains(self, requests: Sequence[Request], budgets: Sequence[int], threshold: float = 0.0) -> list[list[int]]:
        """As `propose_batch`, for engines that cannot run trees: a chain of at most `budgets[i]` tokens for each request. Those that look
        ahead token by token end it before its path becomes less likely than `threshold`."""
        return [list(first_chain(draft).token_ids) for draft in self.propose_batch(requests, budgets)]

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        """After a step: the verdict, and the target's outputs for [last committed token, *draft nodes].

        `request.context` has grown already: it ends with the path's tokens and `next_token` (or fewer where a limit cut them).
        Row 0 of the output belongs to the token that was last before the step, row r to draft node r - 1; `verdict.draft` may be a
        rearranged form of what was proposed, and `output.token_ids` names the tokens of the rows. The outputs are valid until the next
        forward pass: copy what you keep.
        """
        return None

    def end(self, request: Request) -> None:
        """The request has ended, or waits again for room (then it has no `finish_reason`, and will begin again): forget it."""
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
    """A drafter that can name the successors of any path, so that several drafters grow one tree together. Alone it drafts the likeliest
    paths: those at least as likely as `threshold`."""

    threshold: float = 0.02
    is_coupled: bool = False  # its candidates are so many that the noise of sampled requests may choose among them

    def prepare(self, requests: Sequence[Request]) -> None:
        """Called before `successors` is asked about these requests in a step: the place for one batched forward pass. Further calls in the
        same step must find the work done."""
        return None

    @abstractmethod
    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        """Likely next tokens after `request.context` and then `path`, best first, about 8 at most, each with its confidence given that
        `path` is right. Cheap; () if the drafter has nothing to say."""

    def walker(self, request: Request) -> Walker:
        """A walker from the end of `request.context`, valid until the text grows. Override it if going on is cheaper than a new path."""
        return PathWalker(partial(self.successors, request))

    def propose_chains(self, requests: Sequence[Request], budgets: Sequence[int], threshold: float = 0.0) -> list[list[int]]:
        self.prepare(requests)
        return best_chains([[self.walker(request) for request in requests]], budgets, threshold)

    def propose(self, request: Request, budget: int) -> Draft:
        self.prepare([request])
        successors, builder = partial(self.successors, request), TreeBuilder(budget)
        if self.is_coupled:
            return grow_coupled(builder, request, successors, self.threshold).build()
        return grow_best_first(builder, successors, self.threshold).build()

    def propose_batch(self, requests: Sequence[Request], budgets: Sequence[int]) -> list[Draft]:
        """As in Drafter. Afterwards `successors` may be asked about these requests."""
        self.prepare(requests)
        return super().propose_batch(requests, budgets)


class CostlyDrafter(Drafter):
    """A drafter whose proposals take forward passes of their own. A combination asks it only where the others promise less."""

    is_helping: bool = False  # it is part of a combination, whose other drafters may do without it

    def read(self, requests: Sequence[Request]) -> None:
        """Read what is new of these texts, before drafting: work that is done once for each token of a prompt, not in each step."""
        return None

    @abstractmethod
    def gains_more(self, paths: Sequence[float]) -> bool:
        """Whether a proposal can be expected to gain more than a draft whose nodes are right with these probabilities: in accepted tokens,
        less those that could be decoded in the time it takes."""


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


class SuccessorLearner(Drafter):
    """A drafter that learns which tokens the target found likeliest, whether or not anything was drafted."""

    num_successors: int  # likeliest tokens that it keeps for each place

    @abstractmethod
    def learn(self, cache_salt: str, before: Array, tokens: Array, successors: Array, confidences: Array) -> None:
        """What stood at n places of texts of one cache salt, the most telling last: `tokens` [n], the tokens before them, `before` [n] (-1
        where unknown), and the likeliest next tokens, best first, with their probabilities, both [n, num_successors]. Integers are int64.
        """


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


def num_context_tokens(request: Request) -> int:
    """Length of `request.context`, without building it."""
    return len(request.token_ids) + len(request.unconfirmed)


def last_position(request: Request) -> int:
    """The last position that the answer can reach."""
    return request.num_prompt_tokens + request.sampling_params.max_tokens - 1


def tail(request: Request, length: int, path: Sequence[int] = ()) -> list[int]:
    """The last `length` tokens of `request.context` followed by `path`, fewer at the start of a text. O(length)."""
    tokens = [*request.unconfirmed.token_ids, *path]
    missing = length - len(tokens)
    return [*request.token_ids[-missing:], *tokens] if missing > 0 else tokens[len(tokens) - length :]


def unseen(request: Request, num_seen: int) -> list[int]:
    """The tokens of `request.context` after the first `num_seen`. O(new tokens)."""
    num_committed = len(request.token_ids)
    new = request.token_ids[num_seen:] if num_seen < num_committed else []
    return [*new, *request.unconfirmed.token_ids[max(0, num_seen - num_committed) :]]
