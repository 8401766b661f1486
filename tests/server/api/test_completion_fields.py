"""Completions for evaluation and for editors: log-probabilities of prompts, best_of, empty prompts, suffixes."""

from __future__ import annotations

import numpy as np
import pytest
from fastapi.testclient import TestClient
from http_tools import chunks, complete, refusal
from scripted import scripted_llm

from outpace.sampling.sampler import logprobs_of
from outpace.server import create_app

PROMPT = "abc abd. xyz"


def prompt_logprobs(llm, text: str) -> list[float]:
    """Of every token from the second on, from the toy itself."""
    tokens = llm.tokenizer.encode(text)
    return [logprobs_of(llm.target.logits_after(tokens[:at]), tokens[at], 0)[tokens[at]] for at in range(1, len(tokens))]


def choice(response) -> dict:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


@pytest.mark.parametrize("speculative", [False, "suffix+recycling"])
@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_the_echo_has_the_prompts_log_probabilities(server, max_tokens, speculative):
    complete(server, prompt=PROMPT)  # a stored prefix changes nothing
    fields = {"prompt": PROMPT, "echo": True, "logprobs": 2, "max_tokens": max_tokens, "speculative": speculative}
    answer = complete(server, **fields)
    found = choice(answer)
    plain = choice(complete(server, prompt=PROMPT, max_tokens=max(1, max_tokens), logprobs=2))
    told = found["logprobs"]
    assert found["text"] == PROMPT + (plain["text"] if max_tokens else "")
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    np.testing.assert_allclose(told["token_logprobs"][1 : len(PROMPT)], prompt_logprobs(server.llm, PROMPT), rtol=1e-5)
    assert told["tokens"][: len(PROMPT)] == list(PROMPT)
    assert all(len(row) in (2, 3) for row in told["top_logprobs"][1:])
    assert told["text_offset"] == list(range(len(found["text"])))
    assert answer.json()["usage"]["completion_tokens"] == max_tokens
    if max_tokens:
        for key in ("tokens", "token_logprobs", "top_logprobs"):
            assert told[key][len(PROMPT) :] == plain["logprobs"][key]


def test_many_prompts_of_token_ids_at_once(server):
    """What evaluation harnesses send: lists of tokens, each scored by the log-probabilities of its end."""
    texts = ["abc", "a", "hello there, world", "xyz " * 20]
    prompts = [server.llm.tokenizer.encode(text) for text in texts]
    answer = complete(server, prompt=prompts, echo=True, logprobs=1, max_tokens=1, seed=1234)
    assert answer.status_code == 200, answer.text
    for text, found in zip(texts, answer.json()["choices"], strict=True):
        scores = found["logprobs"]["token_logprobs"][1:-1]
        np.testing.assert_allclose(scores, prompt_logprobs(server.llm, text), rtol=1e-5)
        tops = [max(row.values()) for row in found["logprobs"]["top_logprobs"][1:-1]]
        assert all(score <= top + 1e-9 for score, top in zip(scores, tops, strict=True))
    (first, *_) = chunks(complete(server, prompt="abc", echo=True, logprobs=1, max_tokens=3, stream=True))
    np.testing.assert_allclose(first["choices"][0]["logprobs"]["token_logprobs"][1:3], prompt_logprobs(server.llm, "abc"), rtol=1e-5)


def test_vllms_prompt_logprobs(server):
    found = choice(complete(server, prompt="abc", prompt_logprobs=1, max_tokens=2))["prompt_logprobs"]
    ids = server.llm.tokenizer.encode("abc")
    assert found[0] is None
    want = prompt_logprobs(server.llm, "abc")
    for row, token, value in zip(found[1:], ids[1:], want, strict=True):
        assert row[str(token)]["logprob"] == pytest.approx(value, rel=1e-5)
        assert min(entry["rank"] for entry in row.values()) == 1
    body = {"messages": [{"role": "user", "content": "abc"}], "prompt_logprobs": 0, "max_tokens": 2}
    assert len(server.post("/v1/chat/completions", json=body).json()["prompt_logprobs"]) == 3
    assert refusal(server.post("/v1/chat/completions", json={**body, "stream": True}))["param"] == "prompt_logprobs"


def test_the_best_of_several(server):
    options = {"temperature": 1, "seed": 3, "max_tokens": 6, "logprobs": 0}
    drawn = complete(server, n=6, **options).json()["choices"]
    means = {found["text"]: np.mean(found["logprobs"]["token_logprobs"]) for found in drawn}
    answer = complete(server, n=2, best_of=6, **options).json()
    assert [found["text"] for found in answer["choices"]] == sorted(means, key=means.__getitem__, reverse=True)[:2]
    assert [found["index"] for found in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == sum(len(found["logprobs"]["tokens"]) for found in drawn)
    without = complete(server, n=2, best_of=6, **{**options, "logprobs": None}).json()["choices"]
    assert [found["logprobs"] for found in without] == [None, None]


def test_an_empty_prompt_starts_anywhere(server):
    found = complete(server, prompt="", max_tokens=4).json()
    assert found["usage"]["prompt_tokens"] == 1
    assert len(found["choices"][0]["text"]) <= 4


def test_parts_of_characters_keep_their_own_keys(monkeypatch):
    with TestClient(create_app(scripted_llm(monkeypatch, lambda _: "é"))) as server:
        told = choice(complete(server, prompt="<start>", logprobs=20, max_tokens=2))["logprobs"]
    assert told["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert all(len(row) in (20, 21) for row in told["top_logprobs"])


def test_a_suffix_where_the_model_can_fill_in(monkeypatch, server):
    specials = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    llm = scripted_llm(monkeypatch, lambda _: "", specials=specials)
    prompts: list[str] = []
    submit = llm.submit_all

    def noted(ids, *args, **options):
        prompts.append(llm.tokenizer.decode(ids, skip_special_tokens=False))
        return submit(ids, *args, **options)

    llm.submit_all = noted
    with TestClient(create_app(llm)) as filling:
        assert complete(filling, prompt="def f(", suffix="return x", max_tokens=3).status_code == 200
    assert prompts == ["<|fim_prefix|>def f(<|fim_suffix|>return x<|fim_middle|>"]
    assert refusal(complete(server, suffix="abc"))["param"] == "suffix"
    assert complete(server, suffix="").status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "stream": True}, "max_tokens"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ],
)
def test_what_is_refused(server, fields, param):
    assert refusal(complete(server, **fields))["param"] == param
