"""Kinds of mask tokens: tokens of the vocabulary, or trained vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outpace.drafters.base import DrafterContext
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.heads.mask_tokens import blank_vectors
from outpace.heads.shipped import shipped

UNTRAINED_TRUST = 0.06  # measured: share of the model's probability at an untrained mask token that proves right
NEWLINE = "\n"
BEST_TEXT = " the"  # measured, see docs/drafters/blanks.md


@dataclass(frozen=True)
class Usual:
    """Default options; num_draft_tokens 0: one for each predicted token."""

    count: int
    branches: int
    num_draft_tokens: int


UNTRAINED, TRAINED = Usual(3, 1, 0), Usual(0, 4, 6)


@dataclass(frozen=True)
class Blanks:
    """Mask tokens, and how far their predictions can be trusted.

    `tokens`, which may be ids of vectors, take turns; if there are none, the token before is repeated. The logits at mask token i are
    divided by `temperatures[i]`, 1 if it is missing; `trust` times the probability that they then give is the confidence.
    """

    tokens: Sequence[int] = ()
    trust: float = UNTRAINED_TRUST
    temperatures: Sequence[float] = ()

    def token_ids(self, before: int, count: int) -> list[int]:
        """`count` mask tokens after the token `before`."""
        return [self.tokens[i % len(self.tokens)] for i in range(count)] if self.tokens else [before] * count


def text_blanks(context: DrafterContext, blank: str) -> Blanks:
    """Untrained mask tokens: tokens of the vocabulary. Raises BadInputError for a text or name that gives none."""
    if blank == "auto":
        blank = "last" if context.tokenizer is None else BEST_TEXT
    if blank == "last":
        return Blanks()
    if context.tokenizer is None:
        if not blank.isdecimal() or int(blank) >= context.vocab_size:
            raise BadInputError(f"blanks: without a tokenizer blank must be last or a token id below {context.vocab_size}, not {blank!r}")
        return Blanks((int(blank),))
    named = {"newline": NEWLINE} | {name: context.tokenizer.special.get(f"{name}_token", "") for name in ("eos", "pad")}
    tokens = context.tokenizer.encode(named.get(blank, blank), add_special_tokens=False)
    if not tokens:
        raise BadInputError(f"blanks: {blank!r} is no token of this model")
    return Blanks(tuple(tokens))


def trained_blanks(context: DrafterContext, path: str) -> Blanks | None:
    """Trained mask tokens, handed to the target; None if `path` is empty and none ship with outpace. Raises BadInputError if they do not
    fit."""
    base = context.target.base
    folder = Path(path).expanduser() if path else shipped("blanks", base)
    if folder is None or (not path and not context.target.capabilities.num_vectors):
        return None
    if base is None:
        raise BadInputError("blanks: this target does not say which model it runs, so no trained blanks can be known to fit")
    vectors = blank_vectors(DraftHeads.from_pretrained(folder, base))
    first = context.target.add_vectors(vectors.embeddings, vectors.low_rank)
    return Blanks(range(first, first + vectors.count), 1.0, vectors.temperatures)
