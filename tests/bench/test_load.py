"""`outpace bench --server`: a toy server under load, and what is seen when answers are exchanged, cut or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_tools import is_empty, slow_down
from typer.testing import CliRunner

from outpace.bench import server_load as load
from outpace.bench.tables import load_table
from outpace.bench.workloads import Workload
from outpace.cli import app as cli
from outpace.errors import OutpaceError
from outpace.llm import LLM
from outpace.server import ServerSettings, create_app
from outpace.server.listen import in_thread

WORDS = ("abc", "hello there", "to be or not", "xyz xyz")
WORKLOADS = [Workload(str(i), "chat" if i % 2 else "qa", "", [{"role": "user", "content": word}]) for i, word in enumerate(WORDS)]
FIELDS = {"max_tokens": 24, "temperature": 0.8, "seed": 5}


@pytest.fixture
def toy(make_toy) -> Iterator[LLM]:
    llm = make_toy("suffix", toy={"seed": 1})
    slow_down(llm, 0.001)
    yield llm
    assert is_empty(llm)


class Fault:
    """Lets the answers to single clients pass, then spoils every third chat by `spoil(body, send)`, which gives both to use instead."""

    def __init__(self, app: Any, spoil: Callable[[dict[str, Any], Any], tuple[dict[str, Any], Any]], num_good: int = len(WORDS)):
        self.app, self.spoil, self.num_good, self.num_chats = app, spoil, num_good, 0
        self.state = app.state  # the connections read the settings

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/completions"):
            self.num_chats += 1
            if self.num_chats > self.num_good and self.num_chats % 3 == 0:
                content, more = b"", True
                while more:
                    message = await receive()
                    content, more = content + message["body"], message.get("more_body", False)
                body, send = self.spoil(json.loads(content), send)
                changed = json.dumps(body).encode()
                headers = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
                scope = {**scope, "headers": [*headers, (b"content-length", str(len(changed)).encode())]}
                messages, before = iter([{"type": "http.request", "body": changed, "more_body": False}]), receive

                async def receive() -> Any:
                    return next(messages, None) or await before()

        await self.app(scope, receive, send)


def exchanged(body: dict[str, Any], send: Any) -> tuple[dict[str, Any], Any]:
    """Another client's question is answered."""
    place = WORDS.index(body["messages"][0]["content"])
    return {**body, "messages": WORKLOADS[place - 1].messages}, send


def cut(body: dict[str, Any], send: Any) -> tuple[dict[str, Any], Any]:
    """The stream ends in good form, but half way."""
    num_sent = 0

    async def first_ones(message: dict[str, Any]) -> None:
        nonlocal num_sent
        num_sent += 1
        if num_sent < 5 or not message.get("more_body"):
            await send(message)

    return body, first_ones


def refused(body: dict[str, Any], send: Any) -> tuple[dict[str, Any], Any]:
    """A field that is wrong."""
    return {**body, "frobnicate": 1}, send


def measure(app: Any, levels: list[int], seconds: float = 0.4) -> list[dict[str, Any]]:
    with in_thread(app) as url:
        document = load.run({"suffix": load.Place(url)}, WORKLOADS, levels, seconds, FIELDS)
    assert document["is_clean"] == (not any(row["num_errors"] or row["num_lost"] or row["num_mixed_up"] for row in document["load"]))
    return document["load"]


def test_a_good_server_is_clean(toy):
    rows = measure(create_app(toy, ServerSettings(max_queue=32)), [1, 4, 32])
    assert [row["num_clients"] for row in rows] == [1, 4, 32]
    for row in rows:
        assert (row["num_errors"], row["num_lost"], row["num_mixed_up"], row["errors"]) == (0, 0, 0, [])
        assert row["num_requests"] >= min(row["num_clients"], 4)  # how many fit into the time depends on the machine
        assert 0 < row["tokens_per_second"] <= row["num_tokens"] / row["seconds"]
        assert 0 < row["first_token_ms"]["median"] <= row["first_token_ms"]["p95"] <= row["request_ms"]["p95"]
        assert 0 < row["per_token_ms"]["median"] < row["request_ms"]["median"]
    assert rows[2]["first_token_ms"]["median"] > rows[0]["first_token_ms"]["median"]  # 16 of 32 wait


@pytest.mark.parametrize(("spoil", "name"), [(exchanged, "num_mixed_up"), (cut, "num_lost"), (refused, "num_errors")])
def test_what_goes_wrong_is_seen(toy, spoil, name):
    (row,) = measure(Fault(create_app(toy), spoil), [4])
    counts = {key: row[key] for key in ("num_errors", "num_lost", "num_mixed_up")}
    assert counts[name] >= 1, row
    assert sum(counts.values()) == counts[name]
    assert ("frobnicate" in str(row["errors"])) == (name == "num_errors")


def test_a_full_queue_is_an_error_that_is_told(make_toy):
    llm = make_toy("none", toy={"seed": 1})
    slow_down(llm, 0.02)  # all clients are there before the first answer ends, on a slow machine too
    (row,) = measure(create_app(llm, ServerSettings(max_queue=0)), [24])
    assert row["num_errors"] >= 8
    assert "the queue is full" in row["errors"][0]


def test_tokens_after_the_end_do_not_count():
    answer = load.Answer(0.0, "abc", "stop", 100, first_at=1.0, ended_at=3.0, is_ended=True)
    assert [load._tokens_before(answer, end) for end in (0.5, 1.0, 2.0, 3.0, 9.0)] == [0, 0, 50, 100, 100]


def test_a_server_that_does_not_answer_ends_the_run(toy):
    with pytest.raises(OutpaceError, match="is not an OpenAI-compatible server"):
        load.run({"none": load.Place("http://127.0.0.1:9")}, WORKLOADS, [1], 0.1, FIELDS)
    with in_thread(create_app(toy)) as url, pytest.raises(OutpaceError, match=r"does not answer prompt 0: HTTP 400.*nonsense"):
        load.run({"nonsense": load.Place(url, "nonsense")}, WORKLOADS, [1], 0.1, FIELDS)


def test_prompts_that_are_too_long_are_left_out(toy, capsys):
    long = Workload("long", "rag", "", [{"role": "user", "content": "a" * 390}])
    with in_thread(create_app(toy)) as url:
        document = load.run({"suffix": load.Place(url)}, [long, *WORKLOADS], [2], 1.0, FIELDS)  # a busy machine answers nothing in less
        assert "skipped 1 prompts" in capsys.readouterr().err
        with pytest.raises(OutpaceError, match="short enough"):
            load.run({"suffix": load.Place(url)}, [long], [1], 0.1, FIELDS)
    assert document["settings"]["num_prompts"] == len(WORKLOADS)
    assert document["is_clean"]


def test_every_turn_has_an_empty_memory(make_toy):
    llm, keys = make_toy("suffix:memory=5000", toy={"seed": 1}), ("a", "b", "c")
    with in_thread(create_app(llm, ServerSettings(api_keys=keys))) as url:
        document = load.run({"suffix": load.Place(url, keys=keys)}, WORKLOADS, [1, 2], 0.5, FIELDS)
    assert len(llm.strategy(None).drafter.memory.scopes) == 3
    for row in document["load"]:
        assert row["num_repeated"] == row["num_requests"] - len(WORKLOADS) > 0
        assert 0 <= row["num_cached_prompt_tokens"] <= row["num_prompt_tokens"]


# ---- the command


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": word}) + "\n" for word in WORDS), "utf-8")
    return path


def bench(prompts: Path, *arguments: str) -> Any:
    return CliRunner().invoke(cli, ["bench", "--prompts", str(prompts), "--max-tokens", "24", *arguments])


def test_the_command_starts_a_server_for_each_drafter(prompts, make_toy, tmp_path):
    out = tmp_path / "load.json"
    make_toy(toy={"seed": 1})
    result = bench(prompts, "--json", str(out), "--clients", "1,3", "--seconds", "0.2", "--drafters", "none,suffix", "--server")
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text("utf-8"))
    assert [(row["num_clients"], row["drafter"]) for row in document["load"]] == [(1, "none"), (1, "suffix"), (3, "none"), (3, "suffix")]
    assert [entry["num_identical"] for entry in document["single"]] == [4, 4]
    assert document["load"][0]["speedup"] == 1.0
    assert document["model"] == "toy"
    assert load_table(document).row_count == 4
    assert "mixed up" in result.stdout
    assert "3 clients (4 of 4)" in " ".join(result.stderr.split())


def test_the_command_asks_a_server_that_runs(prompts, toy, tmp_path, monkeypatch):
    """What the settings file says about a model of this machine is not for that server."""
    (tmp_path / "settings.toml").write_text("model = 'coder-1.5b'\n[bench]\nthreads = 1\nnum-draft-tokens = 3\nconcurrency = 2\n")
    monkeypatch.setenv("OUTPACE_CONFIG", str(tmp_path / "settings.toml"))
    with in_thread(create_app(toy)) as url:
        result = bench(
            prompts, "--server", f"{url}/v1", "--clients", "2", "--seconds", "0.2", "--drafters", "none,recycling", "--json", "-"
        )
    assert result.exit_code == 0, result.output
    assert [row["drafter"] for row in json.loads(result.stdout)["load"]] == ["none", "recycling"]


def test_the_command_fails_when_answers_are_exchanged(prompts, toy):
    with in_thread(Fault(create_app(toy), exchanged)) as url:
        result = bench(prompts, "--server", url, "--clients", "3", "--seconds", "0.3", "--drafters", "suffix", "--json", "-")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["load"][0]["num_mixed_up"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clients", "3"], "--clients and --seconds need --server"),
        (["--seconds", "3"], "--clients and --seconds need --server"),
        (["--server", "--clients", "0"], "--clients takes comma-separated numbers"),
        (["--server", "--clients", "1,,2"], "--clients takes comma-separated numbers"),
        (["--server", "--concurrency", "2"], "--concurrency cannot be used with --server"),
        (["--server", "localhost:8000"], "takes an address such as"),
        (["--server", "http://localhost:8000", "--threads", "1"], "--threads applies only to a server started here"),
        (["--server", "--drafters", "nonsense"], "unknown drafter 'nonsense'"),
    ],
)
def test_what_the_command_refuses(prompts, toy_llm, arguments, message):
    result = bench(prompts, *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert message in result.stderr
