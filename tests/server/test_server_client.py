"""The official `openai` client against the server, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from server_tools import asking, serving

from outpace.server import ServerSettings, create_app

MESSAGES = [{"role": "user", "content": "abc abc abc"}]


@pytest.fixture
def client(make_toy) -> Iterator[OpenAI]:
    with asking(make_toy(toy={"seed": 1}), ServerSettings(api_keys=("right",)), "right") as client:
        yield client


def ask(client: OpenAI, **options):
    defaults = {"model": "toy", "messages": MESSAGES, "max_completion_tokens": 60, "temperature": 0}
    return client.chat.completions.create(**{**defaults, **options})


def test_chat_and_stream(client):
    answer = ask(client)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens == 60
    assert answer.speculative["drafter"] == "prompt_lookup"
    *pieces, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert "".join(piece.choices[0].delta.content for piece in pieces) == answer.choices[0].message.content
    assert last.usage == answer.usage
    text = answer.choices[0].message.content
    with client.chat.completions.stream(model="toy", messages=MESSAGES, temperature=0, stop=text[30:34]) as stream:
        assert stream.get_final_completion().choices[0].message.content == text[: text.index(text[30:34])]


def test_one_seed_one_text(client):
    texts = {
        ask(client, temperature=0.8, seed=4, extra_body={"speculative": speculative}).choices[0].message.content
        for speculative in (False, True, "suffix", {"method": "prompt_lookup+recycling", "num_draft_tokens": 5})
    }
    assert len(texts) == 1
    assert ask(client, temperature=0.8, seed=5).choices[0].message.content not in texts


def test_logprobs_stop_and_n(client):
    answer = ask(client, logprobs=True, top_logprobs=2, n=2, temperature=1, seed=1)
    for choice in answer.choices:
        assert len(choice.logprobs.content[0].top_logprobs) == 2
    text = ask(client).choices[0].message.content
    stopped = ask(client, stop=[text[7:10], "nothing"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[: text.index(text[7:10])], "stop")


def test_an_answer_goes_back_as_history(client):
    first = ask(client).choices[0].message
    assert ask(client, messages=[*MESSAGES, first, *MESSAGES]).usage.prompt_tokens > 60


def test_completions_and_models(client):
    answer = client.completions.create(model="default", prompt=["abc", "abd"], max_tokens=8, temperature=0, logprobs=1)
    assert [len(choice.logprobs.tokens) for choice in answer.choices] == [8, 8]
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").owned_by == "outpace"


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, temperature=9)
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-4")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="wrong"))
    with pytest.raises(openai.BadRequestError, match="frobnicate"):
        ask(client, extra_body={"frobnicate": 1})
    with pytest.raises(openai.BadRequestError, match="do not fit"):
        ask(client, max_completion_tokens=1000)
    with pytest.raises(openai.APIStatusError, match="too large"):
        ask(client, messages=[{"role": "user", "content": "a" * 5_000_000}])


def test_errors_of_a_busy_server(make_toy):
    with asking(make_toy(), ServerSettings(request_timeout=1e-6)) as client:
        with pytest.raises(openai.InternalServerError, match="longer than"):
            ask(client)
        with pytest.raises(openai.APIError, match="longer than"):
            list(ask(client, stream=True))


@pytest.mark.real
def test_the_default_model(llm):
    with serving(create_app(llm)) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        question = [{"role": "user", "content": "Count from one to twenty in words."}]
        options = {"model": "default", "messages": question, "max_tokens": 40, "temperature": 0.8, "seed": 7}
        plain = client.chat.completions.create(**options, extra_body={"speculative": False})
        fast = client.chat.completions.create(**options, extra_body={"speculative": "prompt_lookup+recycling"})
        pieces = list(client.chat.completions.create(**options, stream=True))
        assert plain.speculative["drafter"] == "none"
        assert fast.choices[0].message.content == plain.choices[0].message.content
        assert "".join(piece.choices[0].delta.content for piece in pieces) == plain.choices[0].message.content
        assert plain.choices[0].message.content.strip()
