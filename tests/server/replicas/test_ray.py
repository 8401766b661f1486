"""Ray Serve and Ray Data with two local replicas, in the short form of dev/robust. Skipped where ray is not installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from outpace import cli

ROOT = Path(__file__).parents[3]
has_ray = importlib.util.find_spec("ray") is not None


@pytest.mark.skipif(has_ray, reason="ray is installed")
@pytest.mark.parametrize("command", [["serve", "--ray"], ["generate", "--ray", "--input", "in.jsonl", "--output", "out"]])
def test_without_ray_the_message_says_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"prompt": "abc"}\n')
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: --ray needs the package ray; run: pip install 'outpace[scale]'"


def test_what_the_commands_ask_of_ray(tmp_path, monkeypatch):
    """Without ray: its two modules are replaced."""
    from outpace.batch.requests import BatchAnswer

    calls = []

    def answers(arguments, requests, num_workers, threads):
        calls.append((arguments, num_workers, threads))
        facts = {"text": "t", "finish_reason": "stop", "seed": 0, "prompt_tokens": 1, "completion_tokens": 1}
        yield from (BatchAnswer(request.key, facts) for request in requests)

    serving = SimpleNamespace(RayOptions=lambda **options: SimpleNamespace(**options), run=lambda *given: calls.append(given))
    monkeypatch.setitem(sys.modules, "outpace.server.ray", serving)
    monkeypatch.setitem(sys.modules, "outpace.batch.ray_data", SimpleNamespace(answers=answers))
    monkeypatch.chdir(tmp_path)
    command = (
        "serve --ray --replicas 3 --threads 2 --model tiny --drafter suffix --max-num-seqs 5 --max-queue 9 --port 0 --shutdown-timeout 7"
    )
    result = CliRunner().invoke(cli.app, command.split())
    assert result.exit_code == 0, result.output
    options, host, port = calls.pop()
    assert (options.model, options.drafter, options.replicas, options.threads) == ("tiny", "suffix", 3, 2)
    assert (options.engine, options.server["max_queue"], options.shutdown_timeout) == ({"max_num_seqs": 5}, 9, 7.0)
    assert (host, port > 0) == ("127.0.0.1", True)
    (tmp_path / "in.jsonl").write_text('{"prompt": "abc"}\n')
    result = CliRunner().invoke(
        cli.app, ["generate", "--input", "in.jsonl", "--output", "out", "--ray", "--replicas", "2", "--model", "tiny"]
    )
    assert result.exit_code == 0, result.output
    arguments, num_workers, threads = calls.pop()
    assert (arguments["model"], num_workers, threads) == ("tiny", 2, 1)
    assert json.loads((tmp_path / "out" / "in.jsonl").read_text())["text"] == "t"


@pytest.mark.real
@pytest.mark.timeout(900)
@pytest.mark.skipif(not has_ray, reason="ray is not installed")
@pytest.mark.parametrize("script", [["ray_serve.py", "--seconds", "20"], ["ray_batch.py", "--lines", "128"]], ids=["serve", "batch"])
def test_one_of_two_replicas_is_killed(script):
    """Only the streams that it had begun end, with an error event; no other request fails, and a batch has every answer once."""
    name, *arguments = script
    done = subprocess.run([sys.executable, ROOT / "dev" / "robust" / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert json.loads(done.stdout[done.stdout.index("{") :])["is_good"]


@pytest.mark.skipif(not has_ray, reason="ray is not installed")
def test_settings_of_the_application():
    from pydantic import ValidationError

    from outpace.errors import BadInputError
    from outpace.server.ray import RayOptions, build_app

    assert RayOptions.model_validate({"model": "tiny", "replicas": "2"}).replicas == 2
    assert build_app({"model": "tiny", "replicas": "2"}) is not None  # as `serve run` gives them
    with pytest.raises(ValidationError):
        build_app({"modle": "tiny"})
    with pytest.raises(BadInputError):
        build_app(RayOptions(drafter="no_such_drafter"))
    with pytest.raises(BadInputError):
        build_app(RayOptions(server={"max_queue": -1}))


@pytest.mark.skipif(not has_ray, reason="ray is not installed")
def test_what_can_never_run_is_refused_before_replicas_start(capsys, monkeypatch):
    from outpace.errors import BadInputError
    from outpace.server import ray

    options = ray.RayOptions(model="tiny", replicas=3, threads=2)
    ray.check_cores(options, 6.0, True)
    assert capsys.readouterr().err == ""
    with pytest.raises(BadInputError, match="6 cores are needed"):
        ray.check_cores(options, 2.0, True)
    ray.check_cores(options, 2.0, False)  # a cluster may grow
    assert "Ray has 2: replicas without cores wait" in capsys.readouterr().err
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(BadInputError, match="no model 'nosuchmodel'"):
        ray.run(ray.RayOptions(model="nosuchmodel"), "127.0.0.1", 1)


@pytest.mark.skipif(not has_ray, reason="ray is not installed")
@pytest.mark.parametrize(
    ("key", "lengths", "order"),
    [
        ("a conversation", [0, 0, 0], ["[a]", "[b]", "[c]"]),
        ("a conversation", [9, 1, 3], ["[b]", "[c]", "[a]"]),
        ("kept by c", [0, 0, 9], ["[c]"]),
        ("kept by gone", [0, 0, 0], ["[a]", "[b]", "[c]"]),
        ("", [0, 0, 0], ["[a]", "[b]", "[c]"]),
    ],
)
def test_the_replicas_that_a_request_is_offered_to(monkeypatch, key, lengths, order):
    import asyncio

    from outpace.server.ray import AffinityRouter, ConsistentHashRouter

    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in "abc"]

    async def ring(self, candidates, pending):
        return [[replica] for replica in candidates]

    monkeypatch.setattr(ConsistentHashRouter, "choose_replicas", ring)
    known = {id(replica.replica_id): length for replica, length in zip(replicas, lengths, strict=True)}
    cache = SimpleNamespace(get=lambda replica_id: known[id(replica_id)])
    monkeypatch.setattr(AffinityRouter, "replica_queue_len_cache", cache, raising=False)
    pending = SimpleNamespace(metadata=SimpleNamespace(session_id=key, internal_request_id="one"))
    found = asyncio.run(AffinityRouter.__new__(AffinityRouter).choose_replicas(replicas, pending))
    assert [f"[{','.join(replica.replica_id.unique_id for replica in rank)}]" for rank in found] == order
