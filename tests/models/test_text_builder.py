"""From tokens to text: every token gives all characters that are complete, and the pieces join to the text."""

import codecs
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_tools import MAN, byte_level, stream
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders
from tokenizers.models import BPE

from outpace.models.tokenizer import TextBuilder, Tokenizer

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=40) | st.text("é😀ab 中\n" + MAN, max_size=40)


@cache
def byte_fallback() -> Tokenizer:
    """A vocabulary of words with single bytes for the rest, as Llama 2, Mistral and Gemma use it."""
    vocab = {"<unk>": 0, **{f"<0x{i:02X}>": i + 1 for i in range(256)}}
    for word in ("▁", "▁a", "b", "a", "▁the", "é"):
        vocab[word] = len(vocab)
    fast = FastTokenizer(BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    fast.decoder = decoders.Sequence(parts)
    return Tokenizer(fast)


# ---- characters


@settings(deadline=None, max_examples=120)
@given(TEXT)
def test_pieces_join_to_the_text(text):
    token_ids = byte_level().encode(text)
    builder = TextBuilder(byte_level())
    pieces = stream(builder, token_ids)
    assert builder.finish() == "".join(pieces) == "".join(builder.pieces) == text == byte_level().decode(token_ids)
    assert len(builder.pieces) == len(token_ids)
    assert not builder.is_stopped


@settings(deadline=None, max_examples=120)
@given(TEXT)
def test_every_token_gives_all_characters_that_are_complete_and_no_more(text):
    builder, reference, want = TextBuilder(byte_level()), codecs.getincrementaldecoder("utf-8")(), ""
    alphabet = {letter: i for i, letter in _byte_letters().items()}
    for token in byte_level().encode(text):
        builder.feed(token)
        want += reference.decode(bytes(alphabet[letter] for letter in byte_level().fast.id_to_token(token)))
        assert builder.text == want
        assert builder.num_streamable == len(want)


def _byte_letters() -> dict[int, str]:
    """GPT-2's byte -> letter table."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


@pytest.mark.parametrize("text", ["😀", f"a{MAN}b", "中文字", "e\u0301", "🇩🇪🇫🇷"])
def test_a_character_of_several_tokens_belongs_to_the_last_of_them(text):
    builder = TextBuilder(byte_level())
    token_ids = byte_level().encode(text)
    assert len(token_ids) > len(text)
    assert "".join(stream(builder, token_ids)) == text
    assert all(len(piece) <= 1 for piece in builder.pieces)
    assert builder.pieces.count("") == len(token_ids) - len(text)
    assert builder.pieces[-1] == text[-1]


def test_an_answer_that_ends_inside_a_character_shows_it_as_the_decoder_does():
    token_ids = byte_level().encode("ab😀")[:-1]
    builder = TextBuilder(byte_level())
    pieces = stream(builder, token_ids)
    assert "".join(pieces[:-1]) == "ab"
    assert pieces[-1] == "\ufffd"
    assert builder.finish() == "".join(builder.pieces) == byte_level().decode(token_ids) == "ab\ufffd"


@settings(deadline=None, max_examples=120)
@given(st.lists(st.integers(0, byte_level().fast.get_vocab_size() - 1), max_size=20))
def test_any_tokens_at_all_give_their_text(token_ids):
    """Sampled tokens need not be UTF-8."""
    builder = TextBuilder(byte_level())
    assert "".join(stream(builder, token_ids)) == builder.text == "".join(builder.pieces) == byte_level().decode(token_ids)


def test_special_tokens_add_no_text():
    end = byte_level().fast.token_to_id("<|end|>")
    builder = TextBuilder(byte_level())
    token_ids = [*byte_level().encode("one"), end, *byte_level().encode(" two")]
    assert "".join(stream(builder, token_ids)) == "one two"
    assert builder.pieces[token_ids.index(end)] == ""
    assert byte_level().decode(token_ids) == "one two"


def test_nothing_is_fine():
    builder = TextBuilder(byte_level(), ["x"])
    assert (builder.finish(), builder.text, builder.pieces, builder.num_streamable) == ("", "", [], 0)


@settings(deadline=None)
@given(st.text("aé😀 中\n", max_size=20).map(str.strip))
def test_single_bytes_of_a_word_vocabulary_make_characters_too(text):
    """Llama 2 spells a rare character in byte tokens."""
    spelled = [1 + byte for letter in text for byte in letter.encode()]
    builder = TextBuilder(byte_fallback())
    assert "".join(stream(builder, spelled)) == builder.text == "".join(builder.pieces) == text


@pytest.mark.parametrize("spelled", [b"\xc3\xa9\xe2", b"b\xbf"])
def test_single_bytes_that_are_no_utf8_end_no_request(spelled):
    word = byte_fallback().fast.token_to_id("b")
    builder = TextBuilder(byte_fallback())
    text = "".join(stream(builder, [*(1 + byte for byte in spelled), word, word]))
    assert text == builder.text
    assert text.endswith("bb")


# ---- a text that continues a prompt


WORDS = ["▁", "▁a", "b", "a", "▁the", "é"]


def words(indices) -> list[int]:
    return [byte_fallback().fast.token_to_id(WORDS[i]) for i in indices]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_prompt_and_answer_join_to_their_text(prompt, answer):
    """The decoder drops the space at the beginning of a text, and an answer is no beginning."""
    builder, tokenizer = TextBuilder(byte_fallback()), byte_fallback()
    builder.follow(words(prompt))
    text = "".join(stream(builder, words(answer)))
    assert text == builder.text == "".join(builder.pieces)
    if set(prompt) != {0}:  # of spaces alone the decoder drops one wherever it stands
        assert tokenizer.decode(words(prompt)) + text == tokenizer.decode(words([*prompt, *answer]))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a", " the"),
        ("", "the"),
        (b"x\xc3", "the"),  # a prompt that ends inside a character has no text that could be continued
        (b"\xf0\x9f\x98\x80" * 2, " the"),  # six tokens would begin inside a character
    ],
)
def test_what_comes_before_the_answer(prompt, text):
    tokens = words([WORDS.index(prompt)]) if prompt == "a" else [1 + byte for byte in (prompt or b"")]
    builder = TextBuilder(byte_fallback())
    builder.follow(tokens)
    assert "".join(stream(builder, words([4]))) == text
    assert builder.pieces == [text]


@settings(deadline=None, max_examples=120)
@given(st.lists(st.integers(0, 262), max_size=20), st.lists(st.integers(0, 262), max_size=20))
def test_any_prompt_and_any_tokens_end_no_request(prompt, answer):
    builder = TextBuilder(byte_fallback())
    builder.follow(prompt)
    assert "".join(stream(builder, answer)) == builder.text == "".join(builder.pieces)
