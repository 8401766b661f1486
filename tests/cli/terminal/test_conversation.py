"""`outpace chat`, on the toy model."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from cli_tools import call

from outpace.cli import conversation
from outpace.errors import BadInputError, OutpaceError
from outpace.params import SamplingParams


def test_chat_keeps_the_conversation(toy_llm):
    result = call("chat", "--temperature", "0", "--max-tokens", "6", stdin="hello\n\nagain\n/reset\nhello\n/exit\nnever\n")
    first, second, third, *rest = result.stdout.split("\n")
    assert result.exit_code == 0
    (want,) = toy_llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=6))
    assert first == third == want.text
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": want.text}, {"role": "user", "content": "again"}]
    assert second == toy_llm.chat(talk, SamplingParams(max_tokens=6))[0].text
    assert rest == [""]


def test_chat_goes_on_after_a_line_that_is_too_long(toy_llm):
    result = call("chat", "--temperature", "0", "--max-tokens", "6", stdin="x" * 500 + "\nhello\n")
    assert result.exit_code == 0
    error, answer = result.stdout.splitlines()[:2]
    assert error.startswith("error: the prompt has 500 tokens")
    assert answer == toy_llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=6))[0].text


class Saying:
    """An LLM that says a given text letter by letter."""

    speculative_config = SimpleNamespace(method="x")
    tokenizer = SimpleNamespace(encode_chat=lambda messages: [1])

    def __init__(self, text: str, then: Callable[[], None] = lambda: None):
        self.text, self.then = text, then

    def generate(self, *_: object) -> None: ...

    def stream(self, *_: object, **__: object):
        for letter in self.text:
            yield SimpleNamespace(text=letter, output=None)
        self.then()
        yield SimpleNamespace(text="", output=self)


class Spoken(Saying):
    """An answer of these tokens, with its figures."""

    name, precision, finish_reason, tokens_per_second, tokens_per_step = "toy", "f32", "length", 40.0, 2.0

    def __init__(self, token_ids: list[int]):
        super().__init__("text")
        self.token_ids = token_ids


def converse(monkeypatch, capsys, llm: Any, *lines: str) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    conversation.Conversation(llm, SamplingParams()).run()
    return capsys.readouterr().out


def test_ctrl_c_ends_an_answer_and_not_the_conversation(monkeypatch, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    stopped = "half\n[stopped; this turn is not part of the conversation]\n"
    assert converse(monkeypatch, capsys, Saying("half", interrupt), "one", "two") == f"{stopped}{stopped}\n"


@pytest.mark.parametrize(("token_ids", "loops"), [([7, 8, 9] * 30, True), (list(range(90)), False)])
def test_an_answer_that_runs_in_circles_is_told(monkeypatch, capsys, token_ids, loops):
    talk = conversation.Conversation(Spoken(token_ids), SamplingParams(max_tokens=90))
    monkeypatch.setattr("sys.stdin", io.StringIO("one"))
    talk.is_interactive = True
    talk.run()
    printed = capsys.readouterr().out
    assert "[40 tokens/s, 2.00 tokens per step]\n[stopped at --max-tokens 90]\n" in printed
    assert ("[the text loops; its speed is not representative; /reset, or start with --repetition-penalty 1.1]" in printed) == loops


@pytest.mark.parametrize("text", ["[/x] [b]bold[/b]", "a" * 300, "http://x.y 'z' 12"])
def test_chat_shows_the_text_as_it_is(monkeypatch, capsys, text):
    assert converse(monkeypatch, capsys, Saying(text), "one").splitlines()[0] == text


class Whole(Saying):
    """Says it in one piece."""

    def stream(self, *_: object, **__: object):
        yield SimpleNamespace(text=self.text, output=None)


@pytest.mark.parametrize("text", ["a :smile: b", "tab\there"])
def test_chat_changes_no_emoji_code_and_no_tab(monkeypatch, capsys, text):
    assert converse(monkeypatch, capsys, Whole(text), "one").splitlines()[0] == text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutpaceError("the request failed: broken"), BadInputError("too complex")])
def test_chat_never_keeps_half_an_answer(monkeypatch, capsys, error):
    def fail() -> None:
        if len(seen) == 2:
            raise error

    seen: list[list[str]] = []
    llm = Saying("text", fail)
    llm.tokenizer = SimpleNamespace(encode_chat=lambda messages: seen.append([message["content"] for message in messages]))
    printed = converse(monkeypatch, capsys, llm, "one", "two", "three")
    assert seen == [["one"], ["one", "text", "two"], ["one", "text", "three"]]
    assert printed.count("[stopped; this turn is not part of the conversation]") == 1
    assert ("error: " in printed) == isinstance(error, OutpaceError)


class Noting(Saying):
    """Notes what it is asked."""

    def __init__(self):
        super().__init__("answer")
        self.seen: list[list[tuple[str, str]]] = []
        self.tokenizer = SimpleNamespace(encode_chat=self._note)

    def _note(self, messages):
        self.seen.append([(message["role"], message["content"]) for message in messages])


def test_the_system_prompt_stays_until_another_is_set(monkeypatch, capsys):
    llm = Noting()
    lines = ("one", "/system be  brief", "/system", "two", "/reset", "three", "/system -", "/system", "four")
    printed = converse(monkeypatch, capsys, llm, *lines)
    assert [asked[0] for asked in llm.seen] == [("user", "one"), ("system", "be  brief"), ("system", "be  brief"), ("user", "four")]
    assert [len(asked) for asked in llm.seen] == [1, 2, 2, 1]
    assert printed.splitlines()[1] == "system prompt: be  brief"
    assert "there is no system prompt" in printed


def test_questions_of_several_lines(monkeypatch, capsys):
    llm = Noting()
    converse(monkeypatch, capsys, llm, '"""one', "", "  two", '"""', '"""three"""', '"""', "four", '"""')
    assert [asked[-1][1] for asked in llm.seen] == ["one\n\n  two", "three", "four"]


@pytest.mark.parametrize("line", ["/etc/passwd", "/help me", "/usr/bin is what?", "a /help"])
def test_what_is_a_command_and_what_a_question(monkeypatch, capsys, line):
    llm = Noting()
    printed = converse(monkeypatch, capsys, llm, line)
    assert ("/system TEXT" in printed) == (line == "/help me")
    assert [asked[-1][1] for asked in llm.seen] == ([] if line == "/help me" else [line])


def test_a_command_that_does_not_exist(monkeypatch, capsys):
    llm = Noting()
    assert "there is no command /clear; /help lists them" in converse(monkeypatch, capsys, llm, "/clear")
    assert llm.seen == []
