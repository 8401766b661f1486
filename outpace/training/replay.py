"""Replay of captured texts without the model, to measure the acceptance length of a drafter.

The engine runs unchanged on a target that knows the text and takes its hidden states from the shards, so the acceptance length is that of
real decoding. The exception is drafters that learn from logits (recycling), which learn less here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.arrays import Array
from outpace.drafters.base import Drafter
from outpace.params import SamplingParams
from outpace.targets.base import TargetModel, TargetOutput
from outpace.testing import make_request, run
from outpace.training.acceptance import Acceptance
from outpace.training.data.shards import Rows
from outpace.tree.segment import Segment, Slot, TreeBatch


class ReplayTarget(TargetModel):
    """A target that always writes `tokens`; `hidden` [n, H] are the hidden states of all tokens but the last.

    For tokens whose ancestors are not the text, logits and hidden states are 0.
    """

    def __init__(self, real: TargetModel, tokens: Sequence[int], hidden: Array):
        self.capabilities, self.base = real.capabilities, real.base
        self.tokens, self.hidden = list(tokens), hidden

    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int] = (), cache_salt: str = "") -> Slot:
        return Slot(0, num_tokens, [], [])

    def extend(self, slot: Slot, num_tokens: int) -> None:
        slot.capacity = num_tokens

    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        places = [place for segment in batch if segment.wants_output for place in self._places(segment)]
        logits = np.zeros((len(places), self.capabilities.vocab_size), np.float32)
        for row, place in enumerate(places):
            if place is not None and place < len(self.hidden):
                logits[row, self.tokens[place + 1]] = 1.0
        prompt = [place for segment in batch if segment.wants_hidden for place in self._places(segment)]
        return TargetOutput(logits, self._hidden(places), prompt_hidden=self._hidden(prompt))

    def _hidden(self, places: Sequence[int | None]) -> Array:
        """The hidden states [n, H] at these positions of the text; 0 for None."""
        hidden = np.zeros((len(places), self.hidden.shape[1]), np.float32)
        for row, place in enumerate(places):
            if place is not None and place < len(self.hidden):
                hidden[row] = self.hidden[place]
        return hidden

    def _places(self, segment: Segment) -> list[int | None]:
        """The position of each token in the text; None for tokens that do not follow it."""
        parents = range(-1, len(segment) - 1) if segment.parents is None else segment.parents
        places: list[int | None] = []
        for token, parent in zip(segment.token_ids, parents, strict=True):
            before = segment.slot.num_cached - 1 if parent < 0 else places[parent]
            is_text = before is not None and before + 1 < len(self.tokens) and self.tokens[before + 1] == token
            places.append(before + 1 if before is not None and is_text else None)
        return places

    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        slot.token_ids.extend(token_ids)

    def free(self, slot: Slot) -> None:
        return None


def replay(real: TargetModel, drafter: Drafter, rows: Rows, texts: Sequence[int], num_draft_tokens: int) -> Acceptance:
    """Decode the answers of these texts (by number) with a drafter that was made for the model `real`."""
    num_tokens = num_steps = 0
    for number in texts:
        begin, first, end = int(rows.starts[number]), int(rows.answers[number]), int(rows.starts[number + 1])
        tokens = [int(rows.inputs[begin]), *rows.tokens[begin:end].tolist()]
        target = ReplayTarget(real, tokens, rows.hidden(np.arange(begin, end)).float().numpy())
        params = SamplingParams(max_tokens=end - first)
        (request,) = run(target, [make_request(target, tokens[: first - begin + 1], params, drafter, num_draft_tokens=num_draft_tokens)])
        num_tokens += request.num_output_tokens
        num_steps += request.stats.num_steps
    return Acceptance(num_tokens, num_steps)
