"""A toy model that speaks text."""

from __future__ import annotations

from typing import Any

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
