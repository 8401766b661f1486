"""`outpace serve`: what it rejects before it loads a model, and what it prints when it starts."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from outpace.cli import app
from outpace.controller import factory
from outpace.progress import note
from outpace.server import listen as run
from outpace.trace.reader import read_trace


@pytest.fixture
def started(make_toy, monkeypatch) -> list:
    """Collects the calls that would start a server."""
    calls: list = []
    monkeypatch.setattr(run, "run", lambda *arguments: calls.append(arguments))
    return calls


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["serve", "--port", "0", *arguments])


def test_it_says_where(started, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\n", "utf-8")
    result = invoke(
        "--api-key-file", str(keys), "--max-num-seqs", "3", "--max-queue", "5", "--drafter", "suffix", "--cors", "https://a.example",
        "--kv-cache-tokens", "4096", "--prefix-cache-tokens", "0", "--max-body-mb", "inf",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "outpace serves toy at http://127.0.0.1:" in result.stderr
    assert "(drafter suffix)" in result.stderr
    assert "warning" not in result.stderr
    server = started[0][0].state.server
    assert server.settings.api_keys == ("one", "two")
    assert server.settings.max_body_bytes > 1e12
    config = server.llm.engine.config
    assert (config.max_num_seqs, config.kv_cache_tokens, config.prefix_cache_tokens, server.settings.max_queue) == (3, 4096, 0, 5)


def test_two_servers_cannot_start_at_one_address():
    """The second one is refused while the first still loads its model, and before it loads its own."""
    with run.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        result = invoke("--port", str(port))
        assert result.exit_code == 1
        assert result.stderr == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_auto_is_measured_before_it_listens(started, monkeypatch):
    measure = factory.cost_of
    monkeypatch.setattr(factory, "cost_of", lambda *arguments: note("measured") or measure(*arguments))
    result = invoke("--drafter", "auto")
    assert result.exit_code == 0, result.stderr
    assert 0 <= result.stderr.index("measured") < result.stderr.index("outpace serves toy")
    assert "(drafter auto)" in result.stderr
    server = started[0][0].state.server
    assert [config.method for config in server.llm.strategies.own] == ["auto", "auto:prediction+suffix+recycling"]


def test_an_open_server_is_warned_about(started):
    assert "warning: anyone who can reach 0.0.0.0 can use this server" in invoke("--host", "0.0.0.0").stderr
    assert "warning" not in invoke("--host", "localhost").stderr


def test_names_of_the_server_are_checked_where_a_browser_could_be_tricked(started, tmp_path):
    """On this machine only, and without keys: there a web page of another name could reach the server (DNS rebinding)."""
    keys = tmp_path / "keys"
    keys.write_text("one", "utf-8")
    for arguments, hosts in (
        ([], ()),
        (["--host", "localhost", "--allow-host", "a.lan", "--allow-host", "b.lan"], ("a.lan", "b.lan")),
        (["--api-key-file", str(keys)], None),
        (["--host", "0.0.0.0"], None),
        (["--host", "0.0.0.0", "--allow-host", "a.lan"], ("a.lan",)),
    ):
        assert invoke(*arguments).exit_code == 0
        assert started.pop()[0].state.server.settings.allowed_hosts == hosts


def test_what_is_refused_in_one_line(started, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = invoke("--port", str(taken.getsockname()[1]))
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "cannot listen on 127.0.0.1" in result.stderr
    for arguments, word in (
        (["--api-key-file", str(tmp_path / "none")], "cannot read the keys"),
        (["--drafter", "magic"], "unknown drafter 'magic'"),
        (["--config", str(tmp_path / "none.json")], "cannot read"),
        (["--allow-drafter", "magic"], "unknown drafter 'magic'"),
        (["--client-choice", "some"], "client_choice must be one of all, lossless, allowed"),
        (["--max-num-seqs", "0"], "max-num-seqs"),
        (["--request-timeout", "nan"], "request-timeout"),
    ):
        result = invoke(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr
        assert word in result.stderr
    assert invoke("--host", "nowhere.invalid").exit_code == 1
    assert not started


def test_the_steps_of_a_server_are_written_while_it_runs(make_toy, monkeypatch, tmp_path):
    """Two requests, and the lines of their steps are in the file before the server ends."""
    path, found = tmp_path / "t.jsonl", []

    def serve(app, *_):
        llm = app.state.server.llm
        outputs = [llm.generate([prompt], {"max_tokens": 6, "ignore_eos": True})[0] for prompt in ("abc abc", "hello")]
        found.append((read_trace(path), outputs))

    monkeypatch.setattr(run, "run", serve)
    assert invoke("--trace", str(path)).exit_code == 0
    trace, outputs = found[0]
    answers = [answer for step in trace.steps for answer in step["answers"]]
    assert [answer["request"] for answer in answers] == [1] * outputs[0].stats.num_steps + [2] * outputs[1].stats.num_steps
    assert "abc" not in path.read_text("utf-8")
    assert "--trace cannot be used with --ray" in invoke("--trace", str(path), "--ray").stderr
