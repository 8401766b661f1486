"""A vocabulary of bytes, and forms over it."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

from outpace.params import StructuredOutput
from outpace.sampling.grammar import GrammarCompiler, GrammarProcessor

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB = {letter: i for i, letter in enumerate(ALPHABET)} | {"<end>": len(ALPHABET)}
END = len(ALPHABET)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMS = {
    "schema": StructuredOutput("json_schema", PERSON),
    "regex": StructuredOutput("regex", r"(ab|c){2,5}-\d{3}(x|y)*z"),
    "choice": StructuredOutput("choice", ["yes", "no", "not at all", 'é "q" \\ \n .*']),
}


def make_fast() -> FastTokenizer:
    """A token is a byte; the last one is the end token."""
    fast = FastTokenizer(BPE(vocab=VOCAB, merges=[]))
    fast.add_special_tokens(["<end>"])
    fast.decoder = decoders.ByteLevel()
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return fast


FAST = make_fast()
COMPILER = GrammarCompiler(FAST, len(VOCAB), frozenset({END}))


def encode(text: str) -> list[int]:
    return FAST.encode(text).ids


def processor(form: StructuredOutput, ends: frozenset[int] = frozenset({END})) -> GrammarProcessor:
    return COMPILER.processor(form, ends)


def allowed(found: GrammarProcessor, path=()) -> set[int]:
    """The tokens that apply() leaves possible."""
    row = np.zeros(found.vocab_size, np.float32)
    found.apply(row, path)
    return set(np.flatnonzero(row == 0).tolist())
