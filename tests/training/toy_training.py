"""The toy model as what captured rows come from."""

from __future__ import annotations

from toy_parts import toy_parts

_, TOY, TOKENIZER, *_ = toy_parts()
VOCAB = TOY.capabilities.vocab_size
