"""The chat format: templates give what transformers gives, and reach nothing outside."""

from datetime import datetime

import pytest
from tokenizer_tools import CHATML, byte_level
from tokenizers import Tokenizer as FastTokenizer

from outpace.errors import BadInputError
from outpace.models.tokenizer import Tokenizer

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
