"""Failures of the command line: exit code 1 and one clear line, 130 after Ctrl-C; a bug keeps its trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import call

from outpace.errors import BadInputError, OutpaceError
from outpace.testing import AcceptEverythingVerifier


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (OutpaceError("pip could not download it"), 1, "error: pip could not download it"),
        (BadInputError("no such thing"), 2, "error: no such thing"),
        (OSError(28, "No space left on device", "/x/y"), 1, "error: No space left on device: /x/y"),
        (OSError("odd"), 1, "error: odd"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_while_loading(toy_llm, monkeypatch, error, exit_code, line):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("outpace.cli.options.loading.Loading.llm", fail)
    result = call("generate", "hi")
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", line + "\n")


def test_a_bug_is_not_hidden(toy_llm, monkeypatch):
    monkeypatch.setattr("outpace.cli.options.loading.Loading.llm", lambda *_: 1 / 0)
    assert isinstance(call("generate", "hi").exception, ZeroDivisionError)


def test_a_request_that_fails_is_exit_code_1(toy_llm, monkeypatch):
    class Broken(AcceptEverythingVerifier):
        def verify(self, request, draft, logits):
            if request.num_output_tokens > 3:
                raise RuntimeError("the verifier is broken")
            return super().verify(request, draft, logits)

    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: Broken())
    result = call("generate", "hello", "--raw", "--drafter", "none")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: the request failed: the verifier is broken"
    assert "Traceback" not in result.stderr


def test_the_file_of_bench_is_written_whole_or_not_at_all(files, toy_llm, monkeypatch):
    (files / "out.json").write_text("old")

    def full(self: Path, text: str, *_: object) -> None:
        self.write_bytes(text[:10].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        result = call("bench", "--prompts", "good.jsonl", "--drafters", "none", "--max-tokens", "4", "--json", "out.json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: No space left on device"
    assert (files / "out.json").read_text() == "old"
    assert call("bench", "--prompts", "good.jsonl", "--drafters", "none", "--max-tokens", "4", "--json", "out.json").exit_code == 0
    assert json.loads((files / "out.json").read_text())["model"] == "toy"
    assert [p.name for p in files.iterdir() if p.suffix == ".tmp"] == []
