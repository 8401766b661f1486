"""Toy models: one that speaks text, and one whose next token is its position."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders
from tokenizers.models import BPE

from outpace.models.tokenizer import Tokenizer
from outpace.targets.toy import ToyTarget


def toy_parts(**options: Any) -> tuple[Any, ...]:
    """What `outpace.llm.load` gives for a toy model; options are those of ToyTarget."""
    letters = "abcdefghijklmnopqrstuvwxyz .,:[]/\n"
    vocab = {letter: i for i, letter in enumerate(letters)} | {"<end>": len(letters)}
    fast = FastTokenizer(BPE(vocab=vocab, merges=[]))
    fast.add_special_tokens(["<end>"])
    fast.decoder = decoders.Fuse()
    target = ToyTarget(**{"vocab_size": len(vocab), "max_len": 400, **options})
    return "toy", target, Tokenizer(fast, special={"eos_token": "<end>"}), frozenset({len(letters)}), "f32"


def let_round(target: Any, monkeypatch: Any) -> None:
    """Every forward pass rounds in its own way, and two tokens are always near a tie."""
    noise, plain = np.random.default_rng(0), target.forward

    def forward(batch, num_tokens=0):
        output = plain(batch, num_tokens)
        output.logits[:, 3] = output.logits[:, 4]
        output.logits[:] += noise.uniform(-1e-5, 1e-5, output.logits.shape).astype(np.float32)
        return output

    monkeypatch.setattr(target, "capabilities", replace(target.capabilities, exact_logits=False))
    monkeypatch.setattr(target, "forward", forward)


class Clock(ToyTarget):
    """The token at position p is p modulo the vocabulary, whatever stands before it: a blank tells the truth."""

    def logits_after(self, context):
        return np.float32(9) * (np.arange(self.capabilities.vocab_size) == len(context) % self.capabilities.vocab_size)
