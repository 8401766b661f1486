"""What stands around a command: texts as other programs write them, and streams that are closed or cannot show every character."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import OUTPACE, call

from outpace.cli.commands.generate import _read_prompt
from outpace.errors import BadInputError
from outpace.files import decoded, read_json, read_text

MARK = b"\xef\xbb\xbf"


def test_a_text_is_the_same_from_every_source(files, toy_llm):
    """With the mark of some editors and the line ends of Windows, in a file and through a pipe."""
    (files / "windows.txt").write_bytes(MARK + b"one two\r\nthree\r\n")
    (files / "plain.txt").write_text("one two\nthree\n")
    outputs = [call("generate", "--raw", "--file", name, "--json", "--max-tokens", "4") for name in ("windows.txt", "plain.txt")]
    outputs.append(call("generate", "--raw", "-", "--json", "--max-tokens", "4", stdin=MARK + b"one two\r\nthree\r\n"))
    counts = [json.loads(output.stdout)["prompt_tokens"] for output in outputs]
    assert counts == [len("one two\nthree\n")] * 3
    assert _read_prompt(None, files / "windows.txt") == "one two\nthree\n"


def test_json_with_a_mark_in_front(tmp_path):
    (tmp_path / "c.json").write_bytes(MARK + b'{"method": "blind"}\r\n')
    assert read_json(tmp_path / "c.json") == {"method": "blind"}
    (tmp_path / "c.json").write_bytes(b"a\xff")
    with pytest.raises(BadInputError, match=r"cannot read .*: it is not UTF-8 text \(invalid start byte at byte 1\)"):
        read_text(tmp_path / "c.json")


@pytest.mark.parametrize(("data", "text"), [(b"a\rb\r\nc\n", "a\nb\nc\n"), (MARK * 2, "\ufeff"), (b"", ""), ("é".encode(), "é")])
def test_decoded(data, text):
    assert decoded(data) == text


# ---- streams

SPEAK = r"""
import sys
from outpace.cli.reporting import open_streams
open_streams()
import typer
typer.echo("caf\u00e9 \u4e2d \U0001f600")
sys.stdout.flush()
print("error \udcff", file=sys.stderr)
sys.exit(5 if sys.stdin.read() == "" else 6)
"""


@pytest.mark.parametrize(("encoding", "shown"), [("cp1252", "café ? ?"), ("latin-1", "café ? ?"), ("utf-8", "café 中 😀")])
def test_a_terminal_that_cannot_show_a_character_shows_the_rest(encoding, shown):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", SPEAK], env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.decode(encoding).strip()) == (5, shown)
    assert done.stderr.decode(encoding).strip() == "error ?"


@pytest.mark.parametrize(("closed", "out"), [("<&-", "café 中 😀"), (">&-", ""), ("2>&-", "café 中 😀"), ("<&- >&- 2>&-", "")])
def test_streams_that_are_closed(closed, out):
    command = f'"$1" -c "$2" {closed}'
    if "<&-" not in closed:
        command += " < /dev/null"
    done = subprocess.run(["sh", "-c", command, "sh", sys.executable, SPEAK], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.decode().strip()) == (5, out), done.stderr


def test_half_a_character_among_the_arguments(files):
    """As the shell hands over bytes that are no UTF-8."""
    command = [*OUTPACE, "generate", b"hi", b"--model", b"no\xffmodel"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: no model ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk_behind_stdout_is_one_line(options):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*OUTPACE, "drafters", *options], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")
