"""Draft models over toy targets and small tokenizers."""

from __future__ import annotations

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders
from tokenizers.models import BPE

from outpace.drafters.base import DrafterContext, DraftModel
from outpace.models.tokenizer import Tokenizer
from outpace.targets.toy import ToyTarget


def letters(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """A tokenizer whose texts are letters; a token is one letter or several merged ones."""
    fast = FastTokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    fast.decoder = decoders.Fuse()
    return Tokenizer(fast)


OURS = letters([*"abcdefg", "ab", "cd", "ef", "abcd", "ga"], [("a", "b"), ("c", "d"), ("e", "f"), ("ab", "cd"), ("g", "a")])
THEIRS = letters([*"gfedcba", "bc", "de", "fg", "ab"], [("b", "c"), ("d", "e"), ("f", "g"), ("a", "b")])


def helper(**options) -> DraftModel:
    """Partly right about ToyTarget(sharpness=3.0): the same noise, weighted otherwise."""
    return DraftModel(ToyTarget(**{"sharpness": 1.0, **options}))


def context(target, model: DraftModel, tokenizer=None) -> DrafterContext:
    return DrafterContext(target, tokenizer, lambda name, num_layers: model)
