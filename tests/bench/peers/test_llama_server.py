"""The peer `llama-server`, with a program that speaks as much of its interface as the peer asks for."""

import os
import sys
import time
from pathlib import Path

import pytest

from outpace.bench.peers import environment, llama_server
from outpace.bench.peers.process import PeerProcess
from outpace.errors import OutpaceError

SERVER = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if options.get("--verbosity") == "4":
    print("0.01 I common_param: system_info: n_threads = 2 | CPU : AVX512 = 1 |", flush=True)
if options["--model"] != "m.gguf":
    sys.exit(f"error: {{options['--model']}} is no model")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{"status": "ok", "build_info": "b7000-abc"}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        timings = {{"predicted_n": len(asked["prompt"]), "predicted_ms": 500.0}}
        self.answer({{"content": " ".join(sys.argv[1:]) + f" pid={{os.getpid()}}", "timings": timings}})

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""
ARGUMENTS = {"model": "m.gguf", "draft_model": None, "way": "ngram-simple", "options": {"size_n": "3"}, "threads": 2}
FILE = Path(llama_server.__file__)


@pytest.fixture
def program(tmp_path, monkeypatch):
    found = tmp_path / "my-server"
    found.write_text(SERVER.format(python=sys.executable))
    found.chmod(0o755)
    monkeypatch.setenv("LLAMA_SERVER", str(found))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_it_starts_the_program_asks_it_and_ends_it(program):
    process = PeerProcess(environment.python_of("llama-server"), FILE, ARGUMENTS)
    try:
        assert process.about["version"] == "llama.cpp b7000-abc"
        assert process.about["settings"] == {"size_n": "3", "system": "n_threads = 2 | CPU : AVX512 = 1 |"}
        answer = process.answer([1, 2, 3], 5)
        assert "--spec-type ngram-simple --spec-ngram-simple-size-n 3" in answer["text"]
        assert (answer["num_decoded"], answer["decode_seconds"]) == (2, 0.5)  # the first token comes with the prompt
        pid = int(answer["text"].partition("pid=")[2])
        assert is_running(pid)
    finally:
        process.close()
    for _ in range(100):
        if not is_running(pid):
            return
        time.sleep(0.05)
    pytest.fail("the program outlives its peer")


@pytest.mark.parametrize(
    ("way", "draft_model", "options", "expected"),
    [
        ("plain", None, {}, "--spec-type none"),
        ("ngram-mod", None, {}, "--spec-type ngram-mod"),
        ("draft", "d.gguf", {"n_max": "4"}, "--spec-type draft-simple --spec-draft-model d.gguf --spec-draft-n-max 4"),
    ],
)
def test_ways_become_options_of_the_program(program, way, draft_model, options, expected):
    process = PeerProcess(Path(sys.executable), FILE, {**ARGUMENTS, "way": way, "draft_model": draft_model, "options": options})
    try:
        assert expected in process.answer([1], 1)["text"]
    finally:
        process.close()


def test_a_program_that_cannot_load_says_why(program):
    with pytest.raises(OutpaceError, match="is no model"):
        PeerProcess(Path(sys.executable), FILE, {**ARGUMENTS, "model": "bad.gguf"})


@pytest.mark.parametrize(
    ("named", "message"), [("", "name it in LLAMA_SERVER"), ("/nowhere/server", "LLAMA_SERVER=/nowhere/server is no program")]
)
def test_without_a_program_the_peer_says_what_to_do(monkeypatch, named, message):
    monkeypatch.setenv("LLAMA_SERVER", named)
    monkeypatch.setenv("PATH", "/nowhere")
    for call in (environment.python_of, environment.install):
        with pytest.raises(OutpaceError, match=message):
            call("llama-server")
    assert not environment.is_installed("llama-server")


def test_with_a_program_it_needs_no_environment(program):
    assert environment.install("llama-server") == environment.python_of("llama-server") == Path(sys.executable)
