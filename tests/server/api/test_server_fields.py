"""Fields that clients send: those that change nothing are accepted, and those of peers are applied."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient
from http_tools import HELLO, ask, complete, refusal
from scripted import START, scripted_llm

from outpace.server import create_app


def text(response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "fields",
    [
        dict.fromkeys(("tools", "tool_choice", "stop", "seed", "functions", "reasoning_effort", "anything", "logprobs", "n")),
        {"functions": [], "function_call": "auto", "tool_choice": "auto", "tools": [], "logit_bias": {}, "metadata": {}, "stop": []},
        {"verbosity": "medium", "reasoning_effort": "none", "service_tier": "default", "store": False, "modalities": ["text"]},
        {"skip_special_tokens": True, "spaces_between_special_tokens": True, "include_stop_str_in_output": False, "cache_prompt": True},
        {"user": "a", "safety_identifier": "b", "prompt_cache_key": "c", "prompt_cache_retention": "24h", "metadata": {"a": "b"}},
        {"top_logprobs": 0, "logprobs": False, "use_beam_search": False, "length_penalty": 1.0, "priority": 0, "request_id": "x"},
        {"stop": ""},
        {"stop": ["", "no such text"]},
        {"messages": [HELLO[0] | {"name": "Ada", "annotations": [], "cache_control": {"type": "ephemeral"}, "tool_calls": []}]},
        {"messages": [HELLO[0] | {"provider_specific_fields": {"a": 1}, "refusal": None, "reasoning_content": "hm", "audio": None}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "abc abc abc", "cache_control": {}}]}]},
    ],
)
def test_what_cannot_change_the_answer_is_accepted(server, fields):
    assert text(ask(server, **fields)) == text(ask(server))


def test_an_answer_without_content_goes_back_as_history(server):
    for content in (None, [], ""):
        assert text(ask(server, messages=[{"role": "assistant", "content": content}, *HELLO]))


def test_seeds_and_cuts_as_peers_take_them(server):
    seeds = {ask(server, temperature=1, seed=-1).json()["speculative"]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert text(ask(server, temperature=1, seed=-7)) == text(ask(server, temperature=1, seed=-7))
    assert text(ask(server, temperature=1, top_p=0)) == text(ask(server))


def test_num_speculative_tokens_is_another_word(server):
    for count in (0, 1, 7):
        for key in ("num_draft_tokens", "num_speculative_tokens"):
            used = ask(server, speculative={"method": "blind", key: count}).json()["speculative"]
            assert (used["num_draft_tokens"] == 0) == (count == 0)
            assert used["num_draft_tokens"] <= count * used["num_drafts"]


def test_the_stop_string_may_stay(server):
    whole = text(ask(server))
    stop = whole[7:10]
    cut = whole[: whole.index(stop)]
    assert text(ask(server, stop=stop)) == cut
    assert text(ask(server, stop=stop, include_stop_str_in_output=True)) == cut + stop
    answer = complete(server, stop=[stop], include_stop_str_in_output=True, stream=True)
    assert answer.status_code == 200


@pytest.mark.parametrize("speculative", [False, "recycling"])
def test_bad_words_and_allowed_tokens(server, speculative):
    whole = text(ask(server, speculative=speculative))
    assert whole[3:5] not in text(ask(server, bad_words=[whole[3:5]], speculative=speculative))
    letters = server.llm.tokenizer.encode("xyz")
    assert set(text(ask(server, allowed_token_ids=letters, speculative=speculative))) <= set("xyz")


def test_special_tokens_are_shown_on_request(monkeypatch):
    llm = scripted_llm(monkeypatch, lambda _: "a<mark>b", specials=["<mark>"])
    with TestClient(create_app(llm)) as server:
        assert text(ask(server)) == "ab"
        assert text(ask(server, skip_special_tokens=False)) == "a<mark>b"  # and not the end token
        assert text(ask(server, skip_special_tokens=False, stop="<mark>")) == "a"


def test_variables_of_the_chat_template(monkeypatch):
    prompts: list[str] = []
    llm = scripted_llm(monkeypatch, lambda _: "")
    llm.tokenizer.chat_template = "{{ messages[0].content }}{% if enable_thinking is false %} no{% endif %} {{ level | default(0) }}"
    submit = llm.submit_all
    llm.submit_all = lambda ids, *args, **options: prompts.append(llm.tokenizer.decode(ids)) or submit(ids, *args, **options)
    with TestClient(create_app(llm)) as server:
        for options in (None, {}, {"enable_thinking": False}, {"enable_thinking": True, "level": 2}, {"unread": "x"}):
            assert ask(server, chat_template_kwargs=options).status_code == 200
        for name in ("messages", "eos_token", "__class__", "a b"):
            assert refusal(ask(server, chat_template_kwargs={name: "x"}))["param"].startswith("chat_template_kwargs")
        assert refusal(ask(server, chat_template_kwargs={"level": [1]}))["param"].startswith("chat_template_kwargs.level")
    start = "abc abc abc"
    assert prompts == [f"{start} 0", f"{start} 0", f"{start} no 0", f"{start} 2", f"{start} 0"]


def test_the_last_message_is_continued(monkeypatch):
    """The template of this model is not ours to end: what follows the last content is left out."""
    prompts: list[str] = []
    llm = scripted_llm(monkeypatch, lambda _: "")
    each, end = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}", "{% if add_generation_prompt %}[new]{% endif %}"
    llm.tokenizer.chat_template = each + end
    submit = llm.submit_all
    llm.submit_all = lambda ids, *args, **options: prompts.append(llm.tokenizer.decode(ids)) or submit(ids, *args, **options)
    half = [*HELLO, {"role": "assistant", "content": "Sure: "}]
    with TestClient(create_app(llm)) as server:
        for fields in (
            {"messages": half, "continue_final_message": True, "add_generation_prompt": False},
            {"messages": [half[0], {**half[1], "prefix": True}]},
            {"messages": half, "add_generation_prompt": False},
            {"messages": half},
        ):
            assert ask(server, **fields).status_code == 200
        assert refusal(ask(server, messages=HELLO, continue_final_message=True))["param"] == "messages.0"
    assert START not in prompts[0]
    start = "[user]abc abc abc[/][assistant]Sure: "
    assert prompts == [start, start, f"{start}[/]", f"{start}[/][new]"]


@pytest.mark.parametrize("stream", [False, True])
def test_settings_that_leave_no_token_are_refused_when_that_shows(server, stream):
    """It shows in the answer: here at its first token."""
    answer = ask(server, allowed_token_ids=[3], stop_token_ids=[3], min_tokens=5, stream=stream)
    error = json.loads(answer.text.removeprefix("data: ").split("\n")[0])["error"] if stream else refusal(answer)
    assert (error["param"], error["type"]) == ("allowed_token_ids", "invalid_request_error")
