"""Builds tokenizer.json from the metadata of a GGUF file: byte-level BPE ("gpt2") and SentencePiece BPE ("llama")."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from outpace.errors import BadInputError
from outpace.models.gguf.splits import SPLITS, Split, pre_tokenizer

CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_NAMED = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}

Facts = Mapping[str, Any]


def reason_against(facts: Facts) -> str:
    """Reason why the tokenizer cannot be built here, as one phrase; empty if it can."""
    kind, split = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre", "default")
    if kind == "llama":
        return "" if "tokenizer.ggml.scores" in facts else "its SentencePiece vocabulary has no scores"
    if kind != "gpt2":
        return f"tokenizer {kind!r} is none of gpt2, llama"
    return "" if split in SPLITS else f"its tokenizer cuts texts in a way that is not known: {split!r}"


def end_token_ids(facts: Facts) -> list[int]:
    """Sorted ids of the tokens that end a text or a turn of a conversation."""
    names = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return sorted({int(facts[name]) for name in names if name in facts})


def save_tokenizer(facts: Facts, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template. Raises BadInputError if the vocabulary is damaged."""
    try:
        fast = build(facts)
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        settings |= {f"{name}_token": token for name, token in _named_tokens(facts).items()}
    except Exception as error:  # the Rust library raises plain Exception
        raise BadInputError(f"its vocabulary makes no tokenizer: {error}") from error
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")
    template = facts.get("tokenizer.chat_template")
    if template:
        (folder / "chat_template.jinja").write_text(template, "utf-8")


def build(facts: Facts) -> Any:
    """The `tokenizers.Tokenizer` that the metadata describes."""
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    is_bytes = facts["tokenizer.ggml.model"] == "gpt2"
    split = SPLITS[facts.get("tokenizer.ggml.pre", "default")] if is_bytes else None
    fast = _byte_level(facts, split) if split else _sentencepiece(facts)
    types = facts.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    for kind in (CONTROL, USER_DEFINED):
        added = [AddedToken(token, normalized=False, special=kind == CONTROL) for token, t in zip(tokens, types, strict=True) if t == kind]
        fast.add_special_tokens(added) if kind == CONTROL else fast.add_tokens(added)
    if fast.get_vocab_size() != len(tokens):
        raise ValueError("two of its tokens have one text")
    _add_first_token(fast, facts, adds_bos=split.adds_bos if split else True)
    return fast


def _byte_level(facts: Facts, split: Split) -> Any:
    vocabulary = {token: index for index, token in enumerate(facts["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    fast = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=split.ignores_merges))
    fast.normalizer = normalizers.NFC() if split.is_nfc else None
    fast.pre_tokenizer, fast.decoder = pre_tokenizer(split), decoders.ByteLevel()
    return fast


def _sentencepiece(facts: Facts) -> Any:
    """BPE with merges derived from the scores: the higher the score of the merged token, the earlier its parts are merged."""
    tokens, scores = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.scores"]
    unknown = facts.get("tokenizer.ggml.unknown_token_id")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = derived_merges(tokens, scores)
    unknown_token = tokens[unknown] if unknown is not None else None
    fast = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=True, byte_fallback=True, unk_token=unknown_token))
    has_prefix = facts.get("tokenizer.ggml.add_space_prefix", True)
    scheme = "first" if has_prefix else "never"
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    fast.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if has_prefix else steps)
    return fast


def derived_merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of tokens that joins to a third one, sorted by the score of that token, highest first. Ties: longer parts first,
    then the order in the vocabulary."""
    places = {token: index for index, token in enumerate(tokens)}
    found = []
    for token, index in places.items():
        parts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in parts if left in places and right in places]
        found += [(scores[index], left, right) for left, right in sorted(known, key=lambda part: (places[part[0]], places[part[1]]))]
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [(left, right) for _, left, right in found]


def _named_tokens(facts: Facts) -> dict[str, str]:
    """The texts of the named special tokens: bos, eos, unk, pad."""
    tokens = facts["tokenizer.ggml.tokens"]
    ids = {name: facts.get(f"tokenizer.ggml.{key}") for name, key in _NAMED.items()}
    return {name: tokens[index] for name, index in ids.items() if index is not None}


def _add_first_token(fast: Any, facts: Facts, adds_bos: bool) -> None:
    """Add the bos token before and the eos token after each text, as the metadata says; without metadata, `adds_bos` and no eos."""
    tokens, ids = facts["tokenizer.ggml.tokens"], {name: facts.get(f"tokenizer.ggml.{key}") for name, key in _NAMED.items()}
    before = ids["bos"] if facts.get("tokenizer.ggml.add_bos_token", adds_bos) else None
    after = ids["eos"] if facts.get("tokenizer.ggml.add_eos_token", False) else None
    used = [index for index in (before, after) if index is not None]
    if used:
        first, last = (f"{tokens[index]} " if index is not None else "" for index in (before, after))
        special = [(tokens[index], index) for index in sorted(set(used))]
        fast.post_processor = processors.TemplateProcessing(
            single=f"{first}$A {last}".strip(), pair=f"{first}$A {first}$B {last}".strip(), special_tokens=special
        )
