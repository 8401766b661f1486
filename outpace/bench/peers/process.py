"""One way of a peer to decode, in a process of its own that speaks JSON lines with `peer_worker.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from outpace.errors import OutpaceError

WORKER = Path(__file__).with_name("peer_worker.py")
LOAD_SECONDS, ANSWER_SECONDS = 600.0, 600.0


class PeerProcess:
    """Starts `python peer_worker.py FILE` and loads the model. `about` is what the peer says of itself: version and settings.

    Raises OutpaceError if the peer cannot load, fails on a prompt, ends, or takes longer than ten minutes.
    """

    def __init__(self, python: Path, file: Path, arguments: Mapping[str, Any]):
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the process
        threads = str(arguments["threads"])
        self.process = subprocess.Popen(
            [str(python), "-I", str(WORKER), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,  # so that all it has started can be ended
            env={**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"},
        )
        try:
            self.about = self._call(arguments, LOAD_SECONDS)
        except BaseException:
            self.close()
            raise

    def answer(self, prompt: list[int], max_tokens: int) -> dict[str, Any]:
        """The answer to a prompt: see `outpace.bench.peers`, and `total_seconds`."""
        return self._call({"prompt": prompt, "max_tokens": max_tokens}, ANSWER_SECONDS)

    def close(self) -> None:
        """End the process; a second call does nothing."""
        self._kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.log.close()

    def _call(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self._kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(dict(message)) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise OutpaceError(f"ended with exit code {self.process.wait()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OutpaceError(answer["error"])
        return answer

    def _kill(self) -> None:
        """End it at once, with the processes that it has started."""
        if self.process.poll() is not None:
            return
        if os.name == "posix":
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = [line.strip() for line in self.log.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else "no message"
