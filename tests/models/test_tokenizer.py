"""Text to tokens and back: no character is cut, no text is taken back, stop strings end the text, templates are kept in a sandbox."""

import codecs
import json
from datetime import datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from outpace.errors import BadInputError
from outpace.models.tokenizer import TextBuilder, Tokenizer

SENTENCES = ["the quick brown fox jumps over the lazy dog", "the end of the story, the end of the day", "a stop is a stop is a stop"] * 4
SPECIAL = ["<|end|>", "<|user|>"]
MAN = "👩‍🚀"  # three characters, eleven bytes
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=40) | st.text("é😀ab 中\n" + MAN, max_size=40)


@cache
def byte_level() -> Tokenizer:
    """A small byte-level BPE, as GPT-2, Llama 3, Qwen and SmolLM use it."""
    fast = FastTokenizer(BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast.train_from_iterator(SENTENCES, BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    assert fast.get_vocab_size() > 280  # there are merges
    return Tokenizer(fast, special={"eos_token": "<|end|>"})


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


def stream(builder: TextBuilder, token_ids) -> list[str]:
    """What a reader is given after every token, and at the end; stops where the request would."""
    given_out, pieces = 0, []
    for token in token_ids:
        is_stopped = builder.feed(token)
        pieces.append(builder.text[given_out : builder.num_streamable])
        given_out = max(given_out, builder.num_streamable)
        if is_stopped:
            break
    pieces.append(builder.finish()[given_out:])
    return pieces


def built(text: str, *stop: str, min_tokens: int = 0) -> TextBuilder:
    builder = TextBuilder(byte_level(), stop, min_tokens)
    stream(builder, byte_level().encode(text))
    return builder


def one_byte_tokens(text: str) -> list[int]:
    """The bytes of a text as one token each."""
    table = {token_id: text for text, token_id in byte_level().fast.get_vocab().items()}
    alphabet = {byte_level().fast.decode([i]): i for i, name in table.items() if len(name) == 1}
    return [alphabet[letter] for letter in text]


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


# ---- stop strings


@pytest.mark.parametrize(
    ("text", "stop", "want"),
    [
        ("the quick brown fox", [" brown"], "the quick"),
        ("the quick brown fox", ["ck bro"], "the qui"),  # begins and ends inside tokens
        ("the quick brown fox", ["the"], ""),
        ("the quick brown fox", ["fox"], "the quick brown "),
        ("the quick brown fox", ["foxes", "x!"], "the quick brown fox"),
        ("the quick brown fox", ["brown", "quick"], "the "),  # the first in the text, not in the list
        ("the quick brown fox", ["quick brown", "uick"], "the q"),  # the first that is complete
        ("aaab", ["aab"], "a"),  # a false start
        ("ababac", ["abac"], "ab"),
        ("one\n\ntwo", ["\n\n"], "one"),
        (f"x{MAN}y", [MAN], "x"),
        (f"x{MAN}y", [MAN[-1]], f"x{MAN[:-1]}"),
        ("x😁😀y", ["😀"], "x😁"),  # shares three bytes of four with the one before
    ],
)
def test_stop_strings(text, stop, want):
    token_ids = byte_level().encode(text)
    builder = TextBuilder(byte_level(), stop)
    pieces = stream(builder, token_ids)
    assert builder.text == builder.finish() == "".join(pieces) == "".join(builder.pieces) == want
    assert builder.is_stopped == (want != text)
    assert byte_level().decode(builder.token_ids).startswith(want)
    assert len(builder.pieces) == len(builder.token_ids)


def test_a_stop_string_over_many_tokens_is_told_at_its_last_one():
    builder = TextBuilder(byte_level(), ["stop"])
    told = [builder.feed(token) for token in one_byte_tokens("a stop!")[:6]]
    assert told == [False] * 5 + [True]
    assert builder.text == "a "
    assert builder.pieces == ["a", " ", "", "", "", ""]


@pytest.mark.parametrize(
    ("min_tokens", "want"),
    [(0, "a"), (2, "a"), (3, "axb"), (4, "axb"), (5, "axbxc"), (6, "axbxc"), (7, "axbxcxd")],
)
def test_stop_strings_count_once_min_tokens_are_out(min_tokens, want):
    builder = TextBuilder(byte_level(), ["x"], min_tokens)
    stream(builder, one_byte_tokens("axbxcxd"))
    assert builder.text == want
    assert builder.is_stopped == (want != "axbxcxd")


def test_a_stop_string_may_begin_before_min_tokens_but_not_end_there():
    for min_tokens, want in ((4, "ab"), (5, "abcdef")):
        builder = TextBuilder(byte_level(), ["cd"], min_tokens)
        stream(builder, one_byte_tokens("abcdef"))
        assert builder.text == want


STOPS = st.lists(st.text("ab😀", min_size=1, max_size=4), max_size=3)


@settings(deadline=None, max_examples=200)
@given(st.text("ab😀", max_size=25), STOPS)
def test_the_text_ends_before_the_first_stop_string_that_is_complete(text, stop):
    token_ids, want = byte_level().encode(text), text
    for end in range(1, len(token_ids) + 1):
        so_far = byte_level().decode(token_ids[:end]).rstrip("\ufffd")
        places = [so_far.find(s) for s in stop if s in so_far]
        if places:
            want = so_far[: min(places)]
            break
    builder = built(text, *stop)
    assert builder.text == want
    assert builder.is_stopped == any(s in text for s in stop)
    assert not any(s in builder.text for s in stop)


@settings(deadline=None, max_examples=200)
@given(st.text("ab😀 ", max_size=25), STOPS, st.integers(0, 12))
def test_what_was_given_out_is_never_taken_back(text, stop, min_tokens):
    builder = TextBuilder(byte_level(), stop, min_tokens)
    given_out = ""
    for token in byte_level().encode(text):
        is_stopped = builder.feed(token)
        now = builder.text[: builder.num_streamable]
        assert now.startswith(given_out)
        assert len(builder.text) - len(now) <= max((len(s) - 1 for s in stop), default=0)  # no more is held back than needed
        given_out = now
        if is_stopped:
            break
    assert builder.finish().startswith(given_out)
    assert "".join(builder.pieces) == builder.text
    assert len(builder.pieces) == len(builder.token_ids)


def test_only_a_possible_start_of_a_stop_string_is_held_back():
    builder = TextBuilder(byte_level(), ["stop", "top secret"])
    seen = []
    for token in one_byte_tokens("a sto to"):
        builder.feed(token)
        seen.append(builder.text[: builder.num_streamable])
    assert seen == ["a", "a ", "a ", "a ", "a ", "a sto ", "a sto ", "a sto "]
    assert builder.finish() == "a sto to"


# ---- the chat format

CHATML = (
    "{% for m in messages %}<|user|>{{ m.role }}: {{ m['content'] | trim }}<|end|>\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
HELLO = [{"role": "user", "content": " hello "}]


def rendered(template: str | None, messages=HELLO, **special: str) -> str:
    """The text that a template makes, special tokens included."""
    tokenizer = Tokenizer(byte_level().fast, template, special)
    return tokenizer.fast.decode(tokenizer.encode_chat(messages), skip_special_tokens=False)


@pytest.mark.parametrize(
    ("template", "want"),
    [
        (CHATML, "<|user|>user: hello<|end|>\nA:"),
        ("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}", "<|user|> hello <|end|>"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": " hello "}]'),
        ("{{ {'a': ['é<']} | tojson }}", '{"a": ["é<"]}'),  # as transformers: no escapes
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}", " hello \n"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
        ("{{ tools }}{{ nothing }}.", "None."),
        ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
    ],
)
def test_chat_templates(template, want):
    assert rendered(template, bos_token="<|user|>", eos_token="<|end|>") == want


def test_special_tokens_in_a_chat_are_not_added_twice():
    fast = FastTokenizer.from_str(byte_level().fast.to_str())
    from tokenizers.processors import TemplateProcessing

    fast.post_processor = TemplateProcessing(single="<|user|> $A", special_tokens=[("<|user|>", fast.token_to_id("<|user|>"))])
    tokenizer = Tokenizer(fast, "<|user|>{{ messages[0].content }}")
    begin = fast.token_to_id("<|user|>")
    assert tokenizer.encode("a").count(begin) == 1
    assert tokenizer.encode("a", add_special_tokens=False).count(begin) == 0
    assert tokenizer.encode_chat([{"role": "user", "content": "a"}]).count(begin) == 1


def test_without_a_template_the_contents_are_paragraphs():
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    assert rendered(None, messages) == "be kind\n\nhello"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system message, please') }}", "no system message, please"),
        ("{{ ''.__class__.__mro__ }}", "__class__"),
        ("{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}", "__class__"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "__init__"),
        ("{{ raise_exception.__globals__['BadInputError'] }}", "__globals__"),
        ("{{ messages.append(1) }}", "append"),  # the caller's list stays as it is
        ("{% set x = messages[0].update({'role': 'x'}) %}", "update"),
        ("{% for", "unexpected"),
        ("{{ messages[0].nothing.at_all }}", "nothing"),
        ("{{ messages | no_such_filter }}", "no_such_filter"),
    ],
)
def test_templates_that_are_refused(template, message):
    messages = [dict(HELLO[0])]
    with pytest.raises(BadInputError, match="the chat template cannot render these messages") as caught:
        rendered(template, messages)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert messages == HELLO


@pytest.mark.parametrize("template", ["{{ open('secret') }}", "{{ self.__init__.__globals__ }}", "{{ ''['__class__']['__mro__'] }}"])
def test_a_template_reaches_nothing_outside(template):
    with pytest.raises(BadInputError):
        rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ range(1000000) }}",  # the sandbox raises OverflowError
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{% include 'other' %}",
        "{{ raise_exception() }}",
    ],
)
def test_templates_that_fail_in_python_are_refused_too(template):
    with pytest.raises(BadInputError):
        rendered(template)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{}],
        [{"role": "user"}],
        [{"content": "hello"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        [{"role": 1, "content": "hello"}],
        [*HELLO, {"role": "user", "text": "hello"}],
    ],
)
@pytest.mark.parametrize("template", [None, CHATML])
def test_wrong_messages(template, messages):
    with pytest.raises(BadInputError, match=r"'role' and a 'content'|conversation is empty"):
        rendered(template, messages)


@pytest.mark.parametrize("messages", ["hello", ["hello"], [None], [["user", "hello"]], {"role": "user", "content": "hello"}, 5])
def test_messages_of_a_wrong_type(messages):
    with pytest.raises(BadInputError):
        rendered(CHATML, messages)


TRANSFORMERS = {
    "chatml": CHATML,
    "whitespace": "{%- for m in messages -%}\n  {% if loop.first %}\n    first\n  {%- endif %}\n {{ m['content'] }}\n{% endfor %}\n",
    "tojson": "{{ messages | tojson(indent=4) }}{{ {'b': 1, 'a': 'é<>&'} | tojson }}",
    "loops": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "tools": "{% if tools %}{{ tools }}{% endif %}{% if documents is defined and documents %}x{% endif %}.",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "tools none": "{% if tools is not none %}{{ tools[0].name }}{% endif %}.",
    "tojson options": "{{ {'b': 1, 'a': 2} | tojson(sort_keys=True, separators=(',', ':'), ensure_ascii=False) }}",
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_templates_give_what_transformers_gives(name):
    transformers = pytest.importorskip("transformers")
    messages = [
        {"role": "system", "content": "é <be> kind "},
        {"role": "user", "content": "hello\n"},
        {"role": "assistant", "content": "😀"},
    ]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level().fast, chat_template=TRANSFORMERS[name], eos_token="<|end|>")
    want = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert Tokenizer.from_transformers(theirs).encode_chat(messages) == byte_level().encode(want, add_special_tokens=False)


# ---- where a tokenizer comes from


def save(folder: Path, **options: object) -> Path:
    byte_level().fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def test_from_folder(tmp_path):
    folder = save(tmp_path, eos_token="<|end|>", bos_token={"content": "<|user|>"}, pad_token=None, chat_template="old {{ bos_token }}")
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("the end 😀") == byte_level().encode("the end 😀")
    assert tokenizer.special == {"eos_token": "<|end|>", "bos_token": "<|user|>"}
    assert tokenizer.chat_template == "old {{ bos_token }}"
    (folder / "chat_template.jinja").write_text("new {{ bos_token }}")
    assert Tokenizer.from_folder(folder).chat_template == "new {{ bos_token }}"


def test_truncation_and_padding_in_the_file_are_switched_off(tmp_path):
    fast = FastTokenizer.from_str(byte_level().fast.to_str())
    fast.enable_truncation(2)
    fast.enable_padding(length=50)
    save(tmp_path)
    fast.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).encode("the quick brown fox") == byte_level().encode("the quick brown fox")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "", "{", '{"a": 1'])
def test_damaged_tokenizer_files(tmp_path, name, content):
    save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(BadInputError, match="cannot read the tokenizer in"):
        Tokenizer.from_folder(tmp_path)


def test_from_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level().fast, chat_template=CHATML, eos_token="<|end|>")
    tokenizer = Tokenizer.from_transformers(theirs)
    assert tokenizer.encode("the end") == theirs.encode("the end")
    assert tokenizer.special == {"eos_token": "<|end|>"}
    assert tokenizer.chat_template == CHATML
    tokenizer.fast.add_special_tokens([AddedToken("<|new|>")])
    assert theirs.convert_tokens_to_ids("<|new|>") is None  # a copy, so that neither changes the other
    with pytest.raises(BadInputError, match="no fast form"):
        Tokenizer.from_transformers(SimpleNamespace(chat_template=None))


def test_of_several_named_templates_the_default_counts():
    transformers = pytest.importorskip("transformers")
    templates = {"default": CHATML, "tool_use": "tools"}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level().fast, chat_template=templates)
    assert Tokenizer.from_transformers(theirs).chat_template == CHATML
