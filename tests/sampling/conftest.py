"""An LLM over a toy model that can have structured output."""

from __future__ import annotations

import pytest
from grammar_tools import END, FAST, VOCAB

from outpace.llm import LLM
from outpace.models.tokenizer import Tokenizer
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget


@pytest.fixture(params=[ToyTarget, InexactTarget])
def toy(request, monkeypatch) -> LLM:
    """An LLM whose tokens are bytes, over a target with exact trees and one without."""
    target = request.param(vocab_size=len(VOCAB), max_len=400, sharpness=1.5)
    loaded = "toy", target, Tokenizer(FAST, special={"eos_token": "<end>"}), frozenset({END}), "f32"
    monkeypatch.setattr("outpace.llm.load", lambda *_: loaded)
    return LLM("toy", "suffix+recycling")
