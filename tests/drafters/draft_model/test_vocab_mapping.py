"""A draft model with another tokenizer: texts cross between the two, or nothing is drafted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from draft_model_tools import OURS, THEIRS, letters
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from outpace.drafters.draft_model.drafter import likeliest
from outpace.drafters.draft_model.vocab_mapping import Reencoded, SameVocab, SharedVocab, start_tokens, token_texts, translation
from outpace.errors import BadInputError
from outpace.models.tokenizer import Tokenizer
from outpace.tree.draft import Draft

FEW = settings(deadline=None, derandomize=True, max_examples=25)


# ---- between tokenizers


def byte_level(size: int, text: str) -> Tokenizer:
    """A byte-level BPE tokenizer as GPT-2's, trained on this text."""
    fast = FastTokenizer(BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator([text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<end>"]))
    return Tokenizer(fast)


def metaspace(size: int, text: str) -> Tokenizer:
    """A BPE tokenizer with spaces as in SentencePiece, and single bytes for what it does not know."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    fast = FastTokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", *byte_tokens])
    fast.train_from_iterator([text], trainer)
    saved = json.loads(fast.to_str())
    saved["added_tokens"] = saved["added_tokens"][:1]  # the trainer knows no other way to bytes than as special tokens
    return Tokenizer(FastTokenizer.from_str(json.dumps(saved)))


TEXT = "the cat sat on the mat and the dog sat on the cat; the mat was flat. naïve café, 東京 — “yes” 🙂 " * 3
PLAIN = "the dog and the cat sat on a flat mat. that was the end of the cat and the dog, they say in the café 🙂 "
BYTES_A, BYTES_B, SPACES = byte_level(330, TEXT), byte_level(300, PLAIN), metaspace(330, TEXT + PLAIN)
PAIRS = [(BYTES_A, BYTES_B), (BYTES_B, BYTES_A), (BYTES_A, SPACES), (SPACES, BYTES_B)]


def say(bridge, target: Tokenizer, other: Tokenizer, before: str, after: str):
    """The target's draft for a helper that continues `before` with `after`."""
    context = target.encode(before)
    helper_context = bridge.to_draft(context)
    drafted = other.encode(after)
    draft = replace(Draft.chain(drafted), confidences=[0.5] * len(drafted))
    return helper_context, bridge.to_target(context, helper_context, draft)


def drafted_tokens(bridge, their_size: int) -> list[int]:
    """The tokens of the draft model that may be drafted."""
    if not bridge.takes_trees:
        return list(range(their_size))
    return [bridge.their_token(int(token)) for token in np.flatnonzero(np.isfinite(bridge.to_target_row(np.zeros(their_size, np.float32))))]


@pytest.mark.parametrize("pair", PAIRS, ids=["bytes-bytes", "bytes-bytes back", "bytes-spaces", "spaces-bytes"])
def test_texts_cross_between_tokenizers(pair):
    target, other = pair
    bridge = translation(target, other, 1000, 1000, is_shared=False)
    assert isinstance(bridge, Reencoded)
    before, after = "the cat sat on", " the mat and the dog"
    helper_context, draft = say(bridge, target, other, before, after)
    assert other.decode(helper_context) == before
    assert target.decode([*target.encode(before), *draft.token_ids]) == before + after
    assert list(draft.token_ids) == target.encode(before + after)[len(target.encode(before)) :]
    assert draft.is_chain
    assert all(0 < confidence <= 1 for confidence in draft.confidences)
    assert np.prod(draft.confidences) == pytest.approx(0.5 ** len(other.encode(after)))


def test_a_continuation_that_would_change_the_text_before_it_is_not_drafted():
    bridge = Reencoded(OURS, THEIRS, 12)
    assert OURS.encode("fab") == [5, 7]
    _, draft = say(bridge, OURS, THEIRS, "fab", "cd")  # "ab" + "cd" is one token: nothing of it can follow the context
    assert len(draft) == 0
    _, draft = say(bridge, OURS, THEIRS, "fab", "ecd")
    assert list(draft.token_ids) == [4, 8]


@pytest.mark.parametrize("pair", PAIRS, ids=["bytes-bytes", "bytes-bytes back", "bytes-spaces", "spaces-bytes"])
@pytest.mark.parametrize("is_shared", [False, True])
@FEW
@given(data=st.data())
def test_no_tokens_whatever_raise(pair, is_shared, data):
    target, other = pair
    sizes = target.fast.get_vocab_size(), other.fast.get_vocab_size()
    bridge = translation(target, other, *sizes, is_shared=is_shared)
    context = data.draw(st.lists(st.integers(0, sizes[0] - 1), min_size=1, max_size=12))
    helper_context = bridge.to_draft(context)
    if helper_context is None:
        return
    assert all(0 <= token < sizes[1] for token in helper_context)
    allowed = drafted_tokens(bridge, sizes[1])
    drafted = data.draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=6))
    draft = bridge.to_target(context, helper_context, replace(Draft.chain(drafted), confidences=[0.9] * len(drafted)))
    assert all(0 <= token < sizes[0] for token in draft.token_ids)
    assert len(draft.confidences or ()) == len(draft)
    if is_shared:
        texts, others = token_texts(target, sizes[0]), token_texts(other, sizes[1])
        assert [texts[token] for token in draft.token_ids] == [others[token] for token in drafted]


def test_a_text_that_ends_inside_a_character_waits_for_the_rest():
    bridge = translation(BYTES_A, SPACES, 400, 400, is_shared=False)
    letter_bytes = [BYTES_A.fast.token_to_id(letter) for letter in ("ð", "Ł", "ĺ", "Ģ")]  # an emoji, byte by byte
    assert BYTES_A.decode(letter_bytes) == "😀"
    for cut in (1, 2, 3):
        assert bridge.to_draft([*BYTES_A.encode("the cat"), *letter_bytes[:cut]]) is None
    assert SPACES.decode(bridge.to_draft([*BYTES_A.encode("the cat"), *letter_bytes])) == "the cat😀"
    _, draft = say(translation(SPACES, BYTES_A, 400, 400, is_shared=False), SPACES, BYTES_A, "the cat", "")
    assert len(draft) == 0


class Counting:
    """A tokenizer that counts the characters it encodes."""

    def __init__(self, fast):
        self.fast, self.num_characters = fast, 0

    def encode(self, text, **options):
        self.num_characters += len(text)
        return self.fast.encode(text, **options)

    def __getattr__(self, name):
        return getattr(self.fast, name)


@pytest.mark.parametrize("pair", PAIRS[:2], ids=["bytes-bytes", "bytes-bytes back"])
@FEW
@given(cuts=st.lists(st.integers(1, 5), min_size=10, max_size=30), back=st.integers(0, 3))
def test_only_what_is_new_is_converted(pair, cuts, back):
    target, other = pair
    whole, counted = target.encode((TEXT + PLAIN) * 6), Tokenizer(other.fast)
    counted.fast = Counting(other.fast)
    bridge, length, num_whole = Reencoded(target, counted, 1000), 300, 0
    for number, cut in enumerate(cuts):
        length += cut
        got = bridge.to_draft(whole[:length])
        assert got == Reencoded(target, other, 1000).to_draft(whole[:length])
        num_whole += len(target.decode(whole[:length]))
        if number % 4 == 3:
            length -= back  # unconfirmed tokens were rejected
    assert counted.fast.num_characters < num_whole / 2  # the first time it is the whole text


def test_the_texts_of_tokens_agree_between_kinds_of_tokenizers():
    ours, theirs = token_texts(BYTES_A, 400), token_texts(SPACES, 400)
    assert ours[BYTES_A.fast.token_to_id("Ġthe")] == theirs[SPACES.fast.token_to_id("\u2581the")] == b" the"
    assert ours[BYTES_A.fast.token_to_id("<end>")] == b"\0<end>"
    assert {bytes([byte]) for byte in range(256)} <= set(theirs.values())
    bridge = SharedVocab(BYTES_A, SPACES, 400, 400)
    assert [theirs[token] for token in bridge.to_draft(BYTES_A.encode(" the cat"))] == [b" the", b" cat"]
    assert max(token_texts(BYTES_A, 100)) == 99


def test_equal_tokenizers_are_known_by_their_tokens_not_by_their_sizes():
    assert isinstance(translation(BYTES_A, byte_level(330, TEXT), 512, 384, is_shared=False), SameVocab)
    assert translation(BYTES_A, byte_level(330, TEXT), 512, 384, is_shared=False).size == 384
    assert translation(BYTES_A, None, 512, 384, is_shared=True).size == 384
    longer = byte_level(330, TEXT)
    longer.fast.add_special_tokens(["<tool>"])
    size = BYTES_A.fast.get_vocab_size()
    assert translation(BYTES_A, longer, 512, 512, is_shared=False).size == size
    assert translation(longer, BYTES_A, 512, 512, is_shared=False).size == size
    assert isinstance(translation(OURS, THEIRS, 12, 12, is_shared=False), Reencoded)  # 12 and 11 tokens of other meaning
    with pytest.raises(BadInputError, match="needs the target's tokenizer"):
        translation(None, OURS, 12, 12, is_shared=False)
    with pytest.raises(BadInputError, match="no token in common"):
        translation(OURS, letters([*"xyz"], []), 12, 3, is_shared=True)


def test_what_a_tokenizer_puts_in_front_is_kept():
    from tokenizers.processors import TemplateProcessing

    other = byte_level(300, PLAIN)
    other.fast.post_processor = TemplateProcessing(single="<end> $A <end>", special_tokens=[("<end>", 0)])
    assert start_tokens(other) == [0]
    assert start_tokens(BYTES_A) == []
    for is_shared in (False, True):
        ids = translation(BYTES_A, other, 400, 400, is_shared=is_shared).to_draft(BYTES_A.encode("the cat"))
        assert ids[0] == 0
        assert 0 not in ids[1:]


def test_likeliest():
    row = np.log(np.array([0.1, 0.4, 0.1, 0.3, 0.1], np.float32))
    for k in (1, 2, 3, 9):
        tokens, confidences = likeliest(row, k)
        assert tokens.tolist() == [1, 3, 0, 2, 4][:k] or (k == 3 and tokens.tolist()[:2] == [1, 3])
        np.testing.assert_allclose(confidences, [0.4, 0.3, 0.1, 0.1, 0.1][:k], rtol=1e-5)
