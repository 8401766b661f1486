"""Writes a trace: a watcher of the engine that puts every step into a file as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from outpace import __version__
from outpace.engine.engine import Engine
from outpace.engine.step_record import StepRecord
from outpace.errors import BadInputError
from outpace.files import check_writable
from outpace.trace.lines import TextOf, answer_of, line_of

VERSION = 1


class TraceRecorder:
    """Writes the header at once and a line per step to `file`. `about`: what the header says of the model; `text_of` gives the texts of
    tokens, None leaves them out."""

    def __init__(self, file: TextIO, about: Mapping[str, Any], text_of: TextOf | None = None):
        self.file, self.text_of = file, text_of
        self.started_at, self.num_steps, self.num_requests = time.perf_counter(), 0, 0
        self.numbers: dict[str, int] = {}  # of the requests that run
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        self._write({"trace": VERSION, "outpace": __version__, **about, "has_text": text_of is not None, "started_at": started})

    def __call__(self, record: StepRecord) -> None:
        """Write a step."""
        self.num_steps += 1
        answers = [answer_of(step, self._number(step.request.id), self.text_of) for step in record.outputs]
        self._write(line_of(record, self.num_steps, self.started_at, answers))
        for step in record.outputs:
            if step.finish_reason is not None:
                self.numbers.pop(step.request.id, None)

    def _number(self, request_id: str) -> int:
        if request_id not in self.numbers:
            self.num_requests += 1
            self.numbers[request_id] = self.num_requests
        return self.numbers[request_id]

    def _write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


@contextmanager
def recording(engine: Engine, path: Path | None, about: Mapping[str, Any], text_of: TextOf | None = None) -> Iterator[None]:
    """Write the steps of an engine to a file while this block runs; None writes nothing. Every line is in the file when its step ends.

    Raises BadInputError if the file cannot be written.
    """
    if path is None:
        yield
        return
    check_writable(path)
    try:
        file = path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise BadInputError(f"cannot write {path}: {error.strerror}") from error
    with file, engine.watched_by(TraceRecorder(file, about, text_of)):
        yield
