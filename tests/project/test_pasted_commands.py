"""Every command of the README and the quickstart runs as copied, line by line, in a copy of the project: `make demo` too.

Three things are not as on a user's machine, and nothing else: the environment `.venv` is there already, with this Python; the default
model is the tests' (`OUTPACE_MODEL`); and the commands of LONG get options behind their own that make them short. `tune` may refuse a
machine that is too busy to measure, as it does for users; then the settings that it would have written are made here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from test_docs import ROOT, blocks

PAGES = [ROOT / "README.md", ROOT / "docs" / "quickstart.md"]
LONG = {  # command -> what is added, because the whole would take minutes
    "bench": "--limit 1 --max-tokens 8",
    "tune": "--limit 2 --max-tokens 8 --time-limit 3",
    "verify": "--limit 1 --max-tokens 8",
    "generate": "--max-tokens 24",
}
NOT_RUN = {"make test"}  # would run this test; that make knows it is checked
SKIPPED = (".git", ".venv", "build", "dist", "__pycache__", "*.egg-info", "shared", "tests", ".*_cache", ".hypothesis")
TOO_NOISY = "tuned.json was not written: the measurement is too noisy to trust"
SERVES = "outpace serve"  # does not end: it is asked whether it is ready, and stopped


def lines_of(page: Path) -> list[str]:
    """The commands of a page in the order of the page, comments included."""
    return [line for block in blocks(page, "") for line in block.splitlines()]


def is_known(line: str) -> bool:
    return line.startswith(("outpace ", "make ", "source .venv/bin/activate"))


def commands() -> list[str]:
    """Each command of both pages once."""
    return list(dict.fromkeys(line.partition(" #")[0].strip() for page in PAGES for line in lines_of(page)))


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The files of the project, and an environment that is set up."""
    folder = tmp_path_factory.mktemp("clone") / "outpace"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*SKIPPED))
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "outpace").write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" -P -m outpace "$@"\n')
    (programs / "outpace").chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    for stamp in ("use", "ready"):  # of the Makefile: set up
        (folder / ".venv" / stamp).write_text("")
    return folder


def run(clone: Path, command: str) -> subprocess.CompletedProcess[str]:
    """As typed in a shell in which the environment is active; nothing is typed into the command."""
    shell = ["bash", "-c", f"source .venv/bin/activate; {command}"]
    return subprocess.run(shell, cwd=clone, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)


def test_every_line_is_a_command():
    """So that no line is passed over: a block without a language holds commands only."""
    strange = [line for page in PAGES for line in lines_of(page) if not is_known(line)]
    assert not strange
    assert len(commands()) > 12


@pytest.mark.real
@pytest.mark.timeout(900)
def test_the_commands_run_one_after_the_other(clone, llm):
    for command in commands():
        name = command.removeprefix("outpace ").split()[0]
        if command in NOT_RUN:
            assert run(clone, command.replace("make", "make -n")).returncode == 0, command
        elif command.startswith(SERVES):
            assert is_served(clone, command), command
        else:
            done = run(clone, f"{command} {LONG[name]}" if name in LONG else command)
            if TOO_NOISY in done.stderr:
                (clone / "tuned.json").write_text('{"version": 1, "method": "suffix"}')
                continue
            assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
            assert done.stdout or command.startswith(("source", "outpace chat")), command
    assert (clone / "tuned.json").exists()


def is_served(clone: Path, command: str) -> bool:
    """Start a server on a free port, ask it until it is ready, and stop it."""
    port = 18000 + os.getpid() % 2000
    shell = ["bash", "-c", f"source .venv/bin/activate; exec {command} --port {port}"]
    server = subprocess.Popen(shell, cwd=clone, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            time.sleep(0.1)
            if server.poll() is not None:
                return False
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                    return answer.status == 200
            except OSError:
                continue
        return False
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
