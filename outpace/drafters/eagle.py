"""EAGLE (2401.15077, 2406.16858): a trained layer predicts the model's next hidden state, and the next token from that, again and again.

Unlike Medusa's heads it is told which token came, or was drafted, before each level, so its later predictions stay good. It reads the
hidden states of the whole text, prompt included, as the target runs them. A head is trained for one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outpace.arrays import Array
from outpace.drafters.base import (
    DrafterContext,
    PromptObserver,
    ResetObserver,
    SuccessorSource,
    num_context_tokens,
    tail,
)
from outpace.errors import BadInputError
from outpace.heads.eagle.cache import EagleCache
from outpace.heads.eagle.draft_tree import FILL, Tree, TreeShape, fill, grow_trees
from outpace.heads.eagle.prefix_cache import EagleMemory
from outpace.heads.eagle.weights import eagle_weights
from outpace.heads.format import DraftHeads
from outpace.heads.runtime import build_eagle, num_bytes
from outpace.heads.shipped import heads_folder
from outpace.request import Request
from outpace.targets.base import Capabilities, TargetOutput
from outpace.tree.draft import Verdict

TOP = 10  # next tokens that the head gives for a path
MAX_DEPTH, MAX_BRANCHES = 32, 32


class EagleDrafter(PromptObserver, SuccessorSource, ResetObserver):
    """path: a folder with a head; empty for the one that ships with outpace. max_depth: levels of the tree. branches: nodes that are
    expanded at each level. threshold: paths less likely than this are neither drafted nor expanded."""

    requires = Capabilities(tree=True, hidden=True)
    num_draft_tokens = 10
    heads_kind = "eagle"
    is_coupled = True

    def __init__(self, context: DrafterContext, path: str = "", max_depth: int = 5, branches: int = 4, threshold: float = 0.02):
        if not 1 <= max_depth <= MAX_DEPTH or not 1 <= branches <= MAX_BRANCHES:
            raise BadInputError(f"eagle: max_depth and branches must be from 1 to {MAX_DEPTH}, not {max_depth} and {branches}")
        if not 0 < threshold < 1:
            raise BadInputError(f"eagle: threshold must be a number between 0 and 1, not {threshold}")
        self.weights = eagle_weights(_load(context, path))
        self.head = build_eagle(self.weights, context.target.embeddings(), context.target.lm_head(), TOP)
        self.threshold, self.shape = threshold, TreeShape(max_depth, branches, threshold, self.weights.temperatures)
        self.texts: dict[str, _Text] = {}
        self.memory = EagleMemory()

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.weights) + self.memory.num_bytes

    def num_reusable_prefix(self, request: Request) -> int:
        return self.memory.num_reusable_prefix(request.token_ids, request.cache_salt)

    def begin(self, request: Request) -> None:
        cache = EagleCache(self.weights)
        if request.slot is not None:
            self.memory.recall(request.token_ids, request.slot.num_cached, cache, request.cache_salt)
        self.texts[request.id] = _Text(cache)

    def observe_prompt(self, request: Request, start: int, hidden: Array) -> None:
        text, end = self.texts[request.id], start + 1 + len(hidden)
        self._add(text, start, request.token_ids[start + 1 : end], hidden)
        if end == len(request.token_ids):
            text.length = end

    def prepare(self, requests: Sequence[Request]) -> None:
        """Grow the trees of all of these requests that have moved on, with one call of the head per level."""
        texts = [text for request in requests if (text := self._text(request)) and text.tree is None]
        if texts:
            for text, tree in zip(texts, grow_trees(self.head, [text.cache for text in texts], self.shape), strict=True):
                text.tree = tree

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        text = self._text(request)
        return text.tree.get(tuple(path), ()) if text and text.tree else ()

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        text, rows = self.texts[request.id], [0, *(node + 1 for node in verdict.path)]
        *tokens, last = tail(request, len(rows) + 1)
        is_whole = tokens == [output.token_ids[row] for row in rows] and last == verdict.next_token
        text.length, text.tree = 0, None
        if output.hidden is not None and is_whole:  # else a limit cut the text, and nothing more can be drafted
            text.length = num_context_tokens(request)
            self._add(text, text.length - len(tokens) - 1, [*tokens[1:], last], output.hidden[rows])

    def reset(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self.observe(request, verdict, output)  # the new rows replace those from the same position on

    def end(self, request: Request) -> None:
        text = self.texts.pop(request.id, None)
        if text is not None:
            self.memory.keep(request.token_ids, text.cache, request.cache_salt)

    def _add(self, text: _Text, start: int, token_ids: Sequence[int], features: Array) -> None:
        text.cache.add(start, token_ids, features)
        if len(text.cache.waiting) >= FILL:
            fill(self.head, text.cache, 1)

    def _text(self, request: Request) -> _Text | None:
        """What is known of the text as it is now; None if `observe` was skipped and the state is stale."""
        text = self.texts[request.id]
        return text if text.length == num_context_tokens(request) else None


@dataclass
class _Text:
    """What is known of a request's text. `length`: its number of tokens at the last row; 0 if nothing can be drafted from it."""

    cache: EagleCache
    length: int = 0
    tree: Tree | None = None


def _load(context: DrafterContext, path: str) -> DraftHeads:
    """The head in the folder, or the one that ships with outpace. Raises BadInputError if there is none for this model."""
    folder, base = heads_folder(context.target.base, "eagle", path)
    return DraftHeads.from_pretrained(folder, base)
