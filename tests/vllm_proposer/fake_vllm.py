"""A stand-in for vLLM's runner: it keeps a batch of rows and calls a proposer after every step as vLLM 0.32 does."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

VOCAB_SIZE, END = 40, 39


def config(num_draft_tokens: int = 4, max_len: int = 200, model: str = "nowhere", **options: Any) -> Any:
    """The parts of VllmConfig that a proposer reads."""
    model_config = SimpleNamespace(
        max_model_len=max_len,
        hf_config=SimpleNamespace(eos_token_id=[END]),
        get_vocab_size=lambda: VOCAB_SIZE,
        model=model,
        revision=None,
    )
    speculative = SimpleNamespace(num_speculative_tokens=num_draft_tokens)
    return SimpleNamespace(model_config=model_config, speculative_config=speculative, additional_config={"outpace": options})


class PairModel:
    """A model whose logits depend on the last two tokens."""

    def __init__(self, seed: int = 0, num_tokens: int = END):
        self.table = np.random.default_rng(seed).normal(size=(VOCAB_SIZE + 1, VOCAB_SIZE, VOCAB_SIZE)).astype(np.float32) * 3
        self.table[:, :, num_tokens:] = -30  # few tokens repeat sooner

    def logits(self, before: int, token: int) -> np.ndarray:
        return self.table[before, token]

    def next_token(self, text: list[int]) -> int:
        return int(self.logits(text[-2] if len(text) > 1 else -1, text[-1]).argmax())

    def compute_logits(self, rows: list[tuple[int, int]]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.logits(*row) for row in rows]))


@dataclass(eq=False)
class Sequence:
    """One request: its text, and how much of it still has to be run before it is sampled."""

    text: list[int]
    num_to_run: int
    draft: list[int] = field(default_factory=list)


class Runner:
    """Rows of sequences. Where one leaves, the last moves into its row."""

    def __init__(self, proposer: Any, model: PairModel, chunk: int = 1000):
        self.proposer, self.model, self.chunk, self.max_len = proposer, model, chunk, proposer.max_len
        self.rows: list[Sequence] = []
        self.token_ids = np.full((64, self.max_len), -7, np.int32)
        self.lengths = np.full(64, -7, np.int32)
        self.num_passes = 0
        proposer.load_model(model)

    def join(self, text: list[int]) -> Sequence:
        """A new request, or a preempted one that comes back with all its text."""
        one = Sequence(list(text), len(text))
        self.rows.append(one)
        return one

    def leave(self, row: int) -> Sequence:
        """End, abort or preempt: for a proposer they look alike."""
        gone, last = self.rows[row], self.rows.pop()
        if row < len(self.rows):
            self.rows[row] = last
        return gone

    def swap(self, one: int, other: int) -> None:
        self.rows[one], self.rows[other] = self.rows[other], self.rows[one]

    def step(self, cut: int | None = None) -> list[list[int]]:
        """Run, verify, sample, and ask for drafts. `cut`: the scheduler keeps that many draft tokens of each request."""
        sampled: list[list[int]] = []
        seen: list[tuple[int, int]] = []
        for one in self.rows:
            draft, one.draft = one.draft[:cut], []
            if one.num_to_run > self.chunk:
                one.num_to_run -= self.chunk
                seen.append((-1, one.text[0]))  # the row of a chunk's last token is thrown away
                sampled.append([])
                continue
            one.num_to_run = 0
            line = [*[-1, *one.text][-2:], *draft]
            seen += list(pairwise(line))
            sampled.append(self._verify(one.text, draft))
        self.model.compute_logits(seen)
        self.num_passes += 1
        for row, (one, new) in enumerate(zip(self.rows, sampled, strict=True)):
            one.text += new
            self.token_ids[row, : len(one.text)] = one.text
            self.lengths[row] = len(one.text)
        if self.lengths[: len(self.rows)].max() + self.proposer.num_draft_tokens > self.max_len:
            return [[] for _ in self.rows]  # vLLM then asks for no drafts at all
        drafts = self.proposer.propose(sampled, self.lengths, self.token_ids, slot_mappings=None)
        assert len(drafts) == len(self.rows)
        for one, new, draft in zip(self.rows, sampled, drafts, strict=True):
            assert len(draft) <= self.proposer.num_draft_tokens, "longer drafts crash the engine"
            assert len(one.text) + len(draft) < self.max_len
            assert all(type(token) is int and 0 <= token < VOCAB_SIZE for token in draft)
            assert new or not draft, "the prompt is still being run"
            one.draft = list(draft)
        return drafts

    def _verify(self, text: list[int], draft: list[int]) -> list[int]:
        new: list[int] = []
        for guess in [*draft, None]:
            new.append(self.model.next_token([*text, *new]))
            if new[-1] != guess:
                break
        return new
