"""A program in a terminal: what it shows, and keys that are pressed."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
TOY = [sys.executable, str(HERE / "toy_outpace.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'tools'}"}
CTRL_C, CTRL_D = "\x03", "\x04"


def _own_terminal() -> None:
    """Make the terminal on stdin that of the new session, so that Ctrl-C reaches the program."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program on a terminal of 100 columns; leave the `with` block and it is ended."""

    def __init__(self, *arguments: str, **environment: str):
        self.master, side = pty.openpty()
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), side)
        size = {"COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color"}
        env = {**ENVIRONMENT, **size, **environment}
        self.process = subprocess.Popen([*TOY, *arguments], env=env, start_new_session=True, preexec_fn=_own_terminal, **streams)
        os.close(side)
        self.raw = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    @property
    def text(self) -> str:
        """All that was shown, without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw).replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self.master, keys.encode())

    def wait_for(self, words: str, after: int = 0, seconds: float = 60) -> int:
        """Read until the words are shown, at character `after` of the text or later. Returns where they end."""
        limit = time.monotonic() + seconds
        while words not in self.text[after:]:
            assert time.monotonic() < limit, f"{words!r} was never shown, but this: {self.text!r}"
            if not self._read(0.2) and self.process.poll() is not None and not self._read(0.2):
                assert words in self.text[after:], f"the program ended ({self.process.returncode}) and showed {self.text!r}"
        return self.text.index(words, after) + len(words)

    def wait_for_more(self, after: int, seconds: float = 60) -> int:
        """Read until anything that can be seen follows character `after` of the text. Returns `after`."""
        limit = time.monotonic() + seconds
        while not self.text[after:].strip():
            assert time.monotonic() < limit, f"nothing followed: {self.text!r}"
            self._read(0.2)
        return after

    def press_until(self, words: str, key: str, after: int) -> int:
        """Press a key until the words are shown: one that comes while readline handles another key is heard with the next one only."""
        for _ in range(20):
            self.type(key)
            with suppress(AssertionError):
                return self.wait_for(words, after, 3)
        raise AssertionError(f"{words!r} was never shown, but this: {self.text!r}")

    def end(self, seconds: float = 60) -> int:
        """Wait for the program's end. Returns its exit code."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < limit, f"still running: {self.text!r}"
            self._read(0.1)
        while self._read(0.1):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        """Take what is there; whether there was anything."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the program's side is closed
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)
