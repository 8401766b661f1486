"""The texts in vLLM's batch, from step to step. vLLM names no requests: a row may hold another text in the next step, and nobody says
when one ends. So a text is found again by its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.params import SamplingParams
from outpace.request import Request

HERE: Any = None  # vLLM samples and verifies
ENDLESS = SamplingParams(max_tokens=1 << 30)  # how long an answer may become is not known here


@dataclass(eq=False)
class Text:
    """One text, as a request for drafters. Its latest step added the tokens from `num_before` on; `draft` was proposed for that step."""

    request: Request
    tokens: Array  # [max_model_len], the first `length` are the text
    length: int = 0
    num_before: int = 0
    draft: list[int] = field(default_factory=list)

    def equals(self, tokens: Array) -> bool:
        """Whether this is the text."""
        n = self.length
        return n == len(tokens) and self.tokens[:n].tobytes() == tokens.tobytes()

    def extend(self, text: Array) -> None:
        """Take over what `text` has beyond this one."""
        new = text[self.length :]
        self.tokens[self.length : len(text)] = new
        self.request.token_ids += new.tolist()
        self.length = len(text)


class Texts:
    """All texts of the batch: row -> text."""

    def __init__(self, max_len: int):
        self.max_len = max_len
        self.rows: dict[int, Text] = {}
        self._num_begun = 0

    def update(
        self, sampled: Sequence[Sequence[int]], lengths: Array, token_ids: Array
    ) -> tuple[list[Text | None], list[Text], list[Text]]:
        """After a step: (the text of each row, None while its prompt is being run; the texts that are new; those that are gone).

        sampled: the tokens that each row got in this step, none while its prompt is being run. `token_ids[i, : lengths[i]]` is the text of
        row i, with these tokens.
        """
        known, self.rows = self.rows, {}
        free = dict.fromkeys(known.values())
        found: list[Text | None] = []
        new: list[Text] = []
        for row, ids in enumerate(sampled):
            whole = token_ids[row, : lengths[row]]
            before = whole[: len(whole) - len(ids)]
            text = self._find(known.get(row), free, before)
            if text is None and ids:
                text = self._begin(before)
                new.append(text)
            if text is not None:
                self.rows[row] = text
                text.num_before = text.length
                text.extend(whole)
                text.draft = text.draft if ids else []
            found.append(text if ids else None)
        return found, new, list(free)

    def _find(self, here: Text | None, free: dict[Text, None], before: Array) -> Text | None:
        """Take the text that was `before` the step out of `free`; usually it has stayed in its row."""
        if here is None or here not in free or not here.equals(before):
            here = next((text for text in free if text.equals(before)), None)
        if here is not None:
            del free[here]
        return here

    def _begin(self, prompt: Array) -> Text:
        self._num_begun += 1
        text = Text(Request(str(self._num_begun), [], ENDLESS, sampler=HERE, strategy=HERE), np.empty(self.max_len, prompt.dtype))
        text.extend(prompt)
        text.request.num_prompt_tokens = text.length
        return text
