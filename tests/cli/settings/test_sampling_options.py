"""Every field of SamplingParams that a shell can give is an option of `generate` and `chat`."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from cli_tools import call, one_error_line

from outpace.params import SamplingParams, StructuredOutput

NO_OPTION = {"logits_processors"}  # functions
OF_GENERATE = {"n", "logprobs", "prompt_logprobs"}  # they need its JSON, or several answers
TYPED = {
    "temperature": (["--temperature", "0.5"], 0.5),
    "top_k": (["--top-k", "7"], 7),
    "top_p": (["--top-p", "0.9"], 0.9),
    "min_p": (["--min-p", "0.1"], 0.1),
    "repetition_penalty": (["--repetition-penalty", "1.1"], 1.1),
    "presence_penalty": (["--presence-penalty", "0.5"], 0.5),
    "frequency_penalty": (["--frequency-penalty", "-0.5"], -0.5),
    "logit_bias": (["--logit-bias", "3=-5.5", "--logit-bias", "4=1"], {3: -5.5, 4: 1.0}),
    "min_tokens": (["--min-tokens", "2"], 2),
    "max_tokens": (["--max-tokens", "9"], 9),
    "n": (["-n", "2"], 2),
    "stop": (["--stop", "a b", "--stop", "c"], ("a b", "c")),
    "stop_token_ids": (["--stop-token-id", "5", "--stop-token-id", "6"], (5, 6)),
    "allowed_token_ids": (["--allowed-token-ids", "1,2, 3"], (1, 2, 3)),
    "bad_words_ids": (["--bad-words-ids", "1,2", "--bad-words-ids", "3"], ((1, 2), (3,))),
    "ignore_eos": (["--ignore-eos"], True),
    "skip_special_tokens": (["--special-tokens"], False),
    "include_stop_str_in_output": (["--include-stop"], True),
    "seed": (["--seed", "11"], 11),
    "logprobs": (["--json", "--logprobs", "2"], 2),
    "prompt_logprobs": (["--json", "--prompt-logprobs", "1"], 1),
    "structured": (["--choice", "yes", "--choice", "no"], StructuredOutput("choice", ["yes", "no"])),
}


@pytest.fixture
def seen(toy_llm, monkeypatch) -> list[SamplingParams]:
    """The parameters of all requests that commands make."""
    found: list[SamplingParams] = []

    def stream(self, prompt, params, **_):
        found.append(params)
        yield from ()

    monkeypatch.setattr("outpace.llm.LLM.stream", stream)
    return found


def test_no_field_is_left_out():
    assert {field.name for field in fields(SamplingParams)} == TYPED.keys() | NO_OPTION


@pytest.mark.parametrize("name", TYPED)
def test_generate_takes_it(seen, name):
    arguments, value = TYPED[name]
    call("generate", "hello", *arguments)
    (params,) = seen
    assert getattr(params, name) == value != getattr(SamplingParams(), name)


@pytest.mark.parametrize("name", sorted(TYPED.keys() - OF_GENERATE))
def test_chat_takes_it(seen, name):
    arguments, value = TYPED[name]
    call("chat", *arguments, stdin="hello\n")
    assert getattr(seen[0], name) == value


def test_chat_samples_and_generate_does_not(seen):
    call("chat", stdin="hello\n")
    call("generate", "hello")
    sampled, greedy = seen
    assert (sampled.temperature, sampled.top_k, sampled.top_p) == (0.7, 20, 0.8)
    assert greedy == SamplingParams(max_tokens=256)


@pytest.mark.parametrize(
    ("arguments", "kind", "value"),
    [
        (["--json-object"], "json_object", ""),
        (["--json-schema", "schema.json"], "json_schema", '{"type": "integer"}'),
        (["--regex", "[0-9]+"], "regex", "[0-9]+"),
        (["--grammar", "g.lark"], "lark", 'start: "a"\n'),
    ],
)
def test_forms_of_the_answer(files, seen, arguments, kind, value):
    (files / "schema.json").write_text('{"type": "integer"}')
    (files / "g.lark").write_text('start: "a"\n')
    call("generate", "hello", *arguments)
    assert seen[0].structured == StructuredOutput(kind, value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--logit-bias", "three=1"], "--logit-bias takes ID=NUMBER, not 'three=1'"),
        (["--logit-bias", "3"], "--logit-bias takes ID=NUMBER, not '3'"),
        (["--allowed-token-ids", "1;2"], "--allowed-token-ids takes ID,ID,..., not '1;2'"),
        (["--bad-words-ids", ""], "--bad-words-ids takes ID,ID,..., not ''"),
        (["--regex", "a", "--choice", "b"], "an answer has one form: give one of --json-object"),
        (["--json-schema", "missing"], "cannot read missing: No such file or directory"),
        (["--regex", ""], "structured output regex takes a regular expression"),
        (["--min-tokens", "300"], "min_tokens (300) is larger than max_tokens (256)"),
        (["--logprobs", "2"], "--logprobs and --prompt-logprobs need --json"),
        (["--raw", "--system", "x"], "--raw has no system prompt"),
        (["--stop", ""], "stop must be a non-empty string"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be(files, toy_llm, arguments, message):
    assert message in one_error_line(call("generate", "hello", *arguments))


def test_several_answers(toy_llm):
    arguments = ["generate", "hello", "-n", "3", "--temperature", "1", "--seed", "5", "--max-tokens", "12"]
    document = json.loads(call(*arguments, "--json", "--logprobs", "1").stdout)
    assert [answer["seed"] for answer in document["answers"]] == [5, 6, 7]
    assert all(len(answer["logprobs"]) == answer["completion_tokens"] for answer in document["answers"])
    texts = [answer["text"] for answer in document["answers"]]
    assert len(set(texts)) == 3
    shown = "".join(f"--- {number} of 3, seed {seed}\n{text}\n" for number, seed, text in zip((1, 2, 3), (5, 6, 7), texts, strict=True))
    assert call(*arguments).stdout == call(*arguments, "--show-drafts").stdout == shown
    compared = json.loads(call(*arguments, "--json", "--compare").stdout)
    assert (compared["compare"]["identical"], len(compared["answers"])) == (True, 3)


def test_one_answer_with_logprobs(toy_llm):
    document = json.loads(call("generate", "hello", "--json", "--logprobs", "2", "--prompt-logprobs", "1", "--max-tokens", "3").stdout)
    assert [len(entry) >= 2 for entry in document["logprobs"]] == [True] * 3
    assert len(document["prompt_logprobs"]) == document["prompt_tokens"] - 1


def test_a_system_prompt_comes_first(toy_llm, monkeypatch):
    asked = []
    encode = type(toy_llm.tokenizer).encode_chat
    monkeypatch.setattr("outpace.models.tokenizer.Tokenizer.encode_chat", lambda self, m: asked.append(list(m)) or encode(self, m))
    assert call("generate", "hello", "--system", "be brief", "--max-tokens", "2").exit_code == 0
    assert call("chat", "-s", "be brief", "--max-tokens", "2", stdin="hello\n").exit_code == 0
    assert asked == [[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]] * 2
