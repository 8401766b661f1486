"""The server's endpoints, in-process on a toy model: what each field of a request does."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from http_tools import HELLO, ask, chunks, complete, refusal

from outpace import __version__
from outpace.params import SamplingParams
from outpace.server import create_app
from outpace.targets.base import KVUse
from outpace.targets.toy import ToyTarget


def test_a_chat_is_what_the_library_says(server):
    answer = ask(server, seed=7, temperature=0.8).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert (choice["index"], choice["message"]["role"], choice["logprobs"]) == (0, "assistant", None)
    used = answer["speculative"]
    assert (used["drafter"], used["verifier"], used["seed"]) == ("prompt_lookup", "exact", 7)
    assert used["tokens_per_step"] == round(answer["usage"]["completion_tokens"] / used["num_steps"], 4)
    assert answer["usage"]["prompt_tokens"] == len("abc abc abc")
    want = server.twin.chat(HELLO, SamplingParams(temperature=0.8, seed=7, max_tokens=20))[0]
    assert choice["message"]["content"] == want.text
    assert choice["finish_reason"] == want.finish_reason


@pytest.mark.parametrize("speculative", [None, True, "suffix", "prompt_lookup:max_ngram=2+recycling", {"num_draft_tokens": 3}])
def test_the_text_is_the_same_with_any_drafter(server, speculative):
    plain = ask(server, seed=3, temperature=0.8, max_tokens=80, speculative=False).json()
    fast = ask(server, seed=3, temperature=0.8, max_tokens=80, speculative=speculative).json()
    assert plain["choices"] == fast["choices"]
    assert plain["speculative"]["drafter"] == "none"
    assert plain["speculative"]["num_drafts"] == 0 < fast["speculative"]["num_drafts"]
    assert plain["system_fingerprint"] == fast["system_fingerprint"]


def test_the_drafter_is_the_requests_own(server):
    settings = {"method": "suffix", "num_draft_tokens": 2, "verifier": "typical", "sources": True}
    answer = ask(server, speculative=settings, max_tokens=60).json()
    used = answer["speculative"]
    assert (used["drafter"], used["verifier"]) == ("suffix", "typical")
    assert used["num_draft_tokens"] <= 2 * used["num_drafts"]
    assert len(used["sources"]) == answer["usage"]["completion_tokens"]
    assert set(used["sources"]) == {"", "suffix"}


def test_a_stream_is_the_answer_in_pieces(server):
    whole = ask(server, seed=1, temperature=1, max_tokens=60).json()
    response = ask(server, seed=1, temperature=1, max_tokens=60, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    pieces = chunks(response)
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in piece["choices"][0]["delta"] for piece in pieces[1:])
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == whole["choices"][0]["message"]["content"]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert pieces[-1]["speculative"]["num_steps"] == whole["speculative"]["num_steps"]
    assert not any("usage" in piece for piece in pieces)


def test_usage_in_a_stream(server):
    whole = ask(server)
    *pieces, last = chunks(ask(server, stream=True, stream_options={"include_usage": True}))
    assert (last["choices"], last["usage"]) == ([], whole.json()["usage"])
    assert all(piece["usage"] is None for piece in pieces)
    assert last["speculative"]["drafter"] == "prompt_lookup"


def test_several_answers_have_seeds_of_their_own(server):
    answer = ask(server, n=3, seed=11, temperature=1).json()
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert texts == [ask(server, seed=11 + i, temperature=1).json()["choices"][0]["message"]["content"] for i in range(3)]
    assert len(set(texts)) > 1
    assert [used["seed"] for used in answer["speculative"]] == [11, 12, 13]
    assert answer["usage"]["prompt_tokens"] == len("abc abc abc")
    pieces = chunks(ask(server, n=3, seed=11, temperature=1, stream=True))
    streamed = ["".join(p["choices"][0]["delta"]["content"] for p in pieces if p["choices"][0]["index"] == i) for i in range(3)]
    assert streamed == texts
    assert len(pieces[-1]["speculative"]) == 3


def test_a_stop_string_cuts_and_never_leaks(server):
    text = ask(server, max_tokens=60).json()["choices"][0]["message"]["content"]
    stop = text[10:13]
    answer = ask(server, max_tokens=60, stop=stop).json()
    want = text[: text.index(stop)]
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == (want, "stop")
    pieces = chunks(ask(server, max_tokens=60, stop=[stop], stream=True))
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == want
    assert answer["usage"]["completion_tokens"] == text.index(stop) + len(stop)


def test_logprobs_are_those_of_plain_decoding(server):
    plain = ask(server, logprobs=True, top_logprobs=3, speculative=False).json()["choices"][0]
    fast = ask(server, logprobs=True, top_logprobs=3).json()["choices"][0]
    assert plain["logprobs"] == fast["logprobs"]
    content = fast["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == fast["message"]["content"]
    for entry in content:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"] < 0  # greedy: the best is chosen
        assert [top["logprob"] for top in entry["top_logprobs"]] == sorted((t["logprob"] for t in entry["top_logprobs"]), reverse=True)
    assert len({len(entry["top_logprobs"]) for entry in content}) == 1
    pieces = chunks(ask(server, logprobs=True, top_logprobs=3, stream=True))
    streamed = [entry for piece in pieces for entry in piece["choices"][0]["logprobs"]["content"]]
    assert streamed == content
    bare = ask(server, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in bare] == [[]] * len(bare)


def test_sampling_fields_are_applied(server):
    token = server.llm.tokenizer.encode("q")[0]
    assert ask(server, logit_bias={str(token): 100}).json()["choices"][0]["message"]["content"] == "q" * 20
    greedy = ask(server).json()["choices"][0]["message"]["content"]
    for fields in ({"top_k": 1}, {"min_p": 1}, {"top_p": 1e-9}):
        assert ask(server, temperature=2, **fields).json()["choices"][0]["message"]["content"] == greedy
    for fields in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 5}):
        penalised = ask(server, max_tokens=60, **fields).json()["choices"][0]["message"]["content"]
        params = SamplingParams(max_tokens=60, **fields)
        assert penalised == server.twin.chat(HELLO, params)[0].text != server.twin.chat(HELLO, SamplingParams(max_tokens=60))[0].text
    assert ask(server, max_tokens=None, max_completion_tokens=3).json()["usage"]["completion_tokens"] == 3
    texts = {ask(server, temperature=None).json()["choices"][0]["message"]["content"] for _ in range(8)}
    assert len(texts) > 2  # OpenAI's default temperature is 1, and seeds differ


def test_content_parts_and_roles(server):
    parts = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
    ]
    tokens = server.post("/tokenize", json={"messages": parts}).json()
    assert server.llm.tokenizer.decode(tokens["tokens"]) == "a\n\nb\nc"
    assert ask(server, messages=parts).status_code == 200


def test_harmless_fields_change_nothing(server):
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
        "stop": None,
        "n": None,
    }
    assert ask(server, **harmless).json()["choices"] == ask(server).json()["choices"]


def test_completions(server):
    answer = complete(server).json()
    assert (answer["object"], answer["usage"]["completion_tokens"]) == ("text_completion", 16)
    ids = server.llm.tokenizer.encode("abc abc")
    many = complete(server, prompt=[ids, ids, [1, 2]], n=2).json()
    assert [choice["index"] for choice in many["choices"]] == list(range(6))
    assert [choice["text"] for choice in many["choices"][:4]] == [answer["choices"][0]["text"]] * 4
    assert many["usage"]["prompt_tokens"] == 2 * len(ids) + 2
    assert complete(server, echo=True).json()["choices"][0]["text"] == "abc abc" + answer["choices"][0]["text"]
    pieces = chunks(complete(server, stream=True, echo=True))
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == "abc abc" + answer["choices"][0]["text"]
    logprobs = complete(server, logprobs=2).json()["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == answer["choices"][0]["text"]
    assert logprobs["text_offset"] == list(range(16))
    assert [max(top.values()) for top in logprobs["top_logprobs"]] == logprobs["token_logprobs"]


def test_the_trace_tells_every_step(server):
    pieces = chunks(ask(server, max_tokens=60, speculative={"method": "prompt_lookup+suffix", "trace": True}, stream=True))
    assert [piece["trace"]["step"] for piece in pieces] == list(range(pieces[-1]["speculative"]["num_steps"]))
    shown, num_accepted = "", 0
    for piece in pieces:
        trace, draft = piece["trace"], piece["trace"]["draft"]
        assert trace["milliseconds"] > 0
        assert len(draft["tokens"]) == len(draft["parents"]) == len(draft["confidences"]) == len(draft["sources"])
        assert all(-1 <= parent < node for node, parent in enumerate(draft["parents"]))
        held = [draft["tokens"][node] for node in draft["accepted"]]
        given = [token["text"] for token in trace["tokens"]]
        assert [token["source"] for token in trace["tokens"]] == [*(draft["sources"][node] for node in draft["accepted"]), ""][: len(given)]
        assert given[: len(held)] == held[: len(given)]
        num_accepted += min(len(held), len(given))
        shown += "".join(given)
    assert shown == "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert num_accepted == pieces[-1]["speculative"]["num_accepted_tokens"] > 0
    assert {source for piece in pieces for source in piece["trace"]["draft"]["sources"]} <= {
        "prompt_lookup",
        "suffix",
        "prompt_lookup+suffix",
    }


def test_small_endpoints(server):
    (model,) = server.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("toy", "model", 400)
    assert server.get("/v1/models/toy").json() == server.get("/v1/models/default").json() == model
    assert refusal(server.get("/v1/models/gpt-4"), 404)["code"] == "model_not_found"
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/version").json() == {"version": __version__}
    tokens = server.post("/tokenize", json={"prompt": "abc", "return_token_strs": True}).json()
    assert tokens == {"count": 3, "max_model_len": 400, "tokens": [0, 1, 2], "token_strs": ["a", "b", "c"]}
    assert server.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert server.get("/static/index.html").status_code == 200
    for path in ("/", "/static/index.html", "/static/js/main.js"):
        assert server.get(path).headers["cache-control"] == "no-cache"
    script = server.get("/static/js/main.js")
    unchanged = server.get("/static/js/main.js", headers={"If-None-Match": script.headers["etag"]})
    assert (unchanged.status_code, unchanged.headers["cache-control"]) == (304, "no-cache")
    rule = re.search(r'Content-Security-Policy" content="([^"]*)"', server.get("/").text).group(1)
    assert server.get("/").headers["content-security-policy"] == f"{rule}; frame-ancestors 'none'"
    assert "/v1/chat/completions" in server.get("/openapi.json").json()["paths"]


def test_metrics_have_vllms_names(server):
    answer = ask(server, max_tokens=60).json()
    text = server.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    used = answer["speculative"]
    for name in ("num_drafts", "num_draft_tokens", "num_accepted_tokens"):
        assert float(values[f"outpace:spec_decode_{name}_total"]) == used[name] > 0
    per_position = [
        float(value) for name, value in values.items() if name.startswith("outpace:spec_decode_num_accepted_tokens_per_pos_total{")
    ]
    assert sum(per_position) == used["num_accepted_tokens"]
    assert 'outpace:spec_decode_num_accepted_tokens_per_pos_total{position="0"}' in values
    assert float(values["outpace:num_requests_running"]) == float(values["outpace:num_requests_waiting"]) == 0
    assert float(values["outpace:time_to_first_token_seconds_count"]) == float(values["outpace:request_queue_time_seconds_count"]) == 1
    assert float(values["outpace:time_per_output_token_seconds_count"]) == answer["usage"]["completion_tokens"] - 1
    assert 0 <= float(values["outpace:kv_cache_usage_perc"]) <= 1
    names = ("tokens", "max_tokens", "bytes", "max_bytes")
    assert [float(values[f"outpace:kv_cache_{name}"]) for name in names] == [0, 0, 0, 0]  # the toy model has no limit
    assert float(values["outpace:num_preemptions_total"]) == 0


def test_metrics_tell_the_memory_of_the_kv_cache(make_toy, monkeypatch):
    monkeypatch.setattr(ToyTarget, "kv_use", KVUse(96, 384, 3000, 12000))
    want = {"kv_cache_tokens": 96, "kv_cache_max_tokens": 384, "kv_cache_bytes": 3000, "kv_cache_max_bytes": 12000}
    want |= {"kv_cache_usage_perc": 0.25}
    for drafter, num_bytes in (("suffix", 0), ("draft_model:x", 3000)):
        with TestClient(create_app(make_toy(drafter))) as client:
            found = dict(re.findall(r"^outpace:(\w*kv_cache_\w+) (\S+)$", client.get("/metrics").text, re.M))
        assert {name: float(value) for name, value in found.items()} == {**want, "draft_kv_cache_bytes": num_bytes}


@pytest.mark.usefixtures("real_defaults")
def test_a_drafter_that_failed_is_told_without_its_error(make_toy):
    with TestClient(create_app(make_toy("api_tools:Failing"))) as client:
        plain = ask(client, speculative=False).json()
        answer = ask(client, n=2)
        assert answer.json()["choices"][0] == plain["choices"][0]
        for used in answer.json()["speculative"]:
            assert used["drafter_error"] == "the drafter failed and the answer was decoded without it; the server's log says why"
        assert "drafter_error" in chunks(ask(client, stream=True))[-1]["speculative"]
        assert "drafter_error" not in plain["speculative"]
        assert "secret" not in answer.text
        assert "outpace:drafter_errors_total 3.0" in client.get("/metrics").text
