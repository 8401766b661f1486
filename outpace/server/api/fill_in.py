"""Filling in: models of code that were trained to write what stands between a prefix and a suffix (Bavarian et al. 2207.14255)."""

from __future__ import annotations

from dataclasses import dataclass

from outpace.models.tokenizer import Tokenizer
from outpace.server.api_errors import ApiError


@dataclass(frozen=True)
class FillInTokens:
    """The special tokens before the prefix, the suffix and the middle, and those that end the middle besides the model's end tokens."""

    prefix: str
    suffix: str
    middle: str
    ends: tuple[str, ...] = ()


FILL_IN_TOKENS = (
    FillInTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>")),
    FillInTokens("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<|endoftext|>", "<fim_pad>", "<file_sep>")),
    FillInTokens("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)


def fill_in_tokens(tokenizer: Tokenizer) -> FillInTokens | None:
    """The tokens that this model has."""
    for found in FILL_IN_TOKENS:
        if None not in (tokenizer.special_id(found.prefix), tokenizer.special_id(found.suffix), tokenizer.special_id(found.middle)):
            return found
    return None


def fill_in_prompt(tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
    """The prompt after which the model writes the middle. Raises ApiError (400) for a model that cannot."""
    tokens = fill_in_tokens(tokenizer)
    if tokens is None:
        raise ApiError(400, "this model has no fill-in-the-middle tokens, so it cannot write text before a suffix", param="suffix")
    return tokenizer.encode(f"{tokens.prefix}{prefix}{tokens.suffix}{suffix}{tokens.middle}")


def fill_in_ends(tokenizer: Tokenizer) -> list[int]:
    """Tokens that end the middle."""
    tokens = fill_in_tokens(tokenizer)
    ends = () if tokens is None else (tokens.prefix, tokens.suffix, tokens.middle, *tokens.ends)
    return [token for text in ends if (token := tokenizer.special_id(text)) is not None]
