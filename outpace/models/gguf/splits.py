"""Pre-tokenizers of byte-level BPE: how a text is split into words before bytes are merged, by the value of tokenizer.ggml.pre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, pre_tokenizers

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Split:
    """One way to split a text. `pattern` None is GPT-2's pattern, which is built into `tokenizers`.

    `adds_bos`: default for files that do not say whether texts begin with the bos token. `ignores_merges`: a word that is a token is used
    as it is, without applying the merges.
    """

    pattern: str | None = None
    has_single_digits: bool = False
    is_nfc: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False


_GPT2_DIGITS = Split(has_single_digits=True)
_LLAMA3_SPLIT = Split(_LLAMA3, ignores_merges=True, adds_bos=True)
_QWEN2_SPLIT = Split(_QWEN2, is_nfc=True)
SPLITS = {
    "gpt-2": Split(),
    "smollm": _GPT2_DIGITS,
    "starcoder": _GPT2_DIGITS,
    "refact": _GPT2_DIGITS,
    "qwen2": _QWEN2_SPLIT,
    "deepseek-r1-qwen": Split(_QWEN2),
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "tekken": Split(_TEKKEN, ignores_merges=True, adds_bos=True),
}


def pre_tokenizer(split: Split) -> Any:
    """The `tokenizers` pre-tokenizer of a split. Its words are in the byte-level alphabet."""
    if split.pattern is None:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words]) if split.has_single_digits else words
    cut = pre_tokenizers.Split(Regex(split.pattern), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
