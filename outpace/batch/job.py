"""A batch: files of requests, and a folder with one file of answers for each.

Answers go to a log in the folder as they come. When all lines of a file have one, its answers are written, whole and in the order of the
file. The log stays: the same command resumes a killed batch, and answers lines that were added or changed since; nothing else runs again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from outpace.batch.answer_log import AnswerLog, json_line
from outpace.batch.records import answered, failed, refused
from outpace.batch.requests import BadLine, BatchAnswer, BatchRequest, BatchSettings, read_requests
from outpace.errors import BadInputError, OutpaceError
from outpace.files import replacing
from outpace.progress import meter

LOG, LOCK = ".answers.jsonl", ".lock"
MAX_SHOWN = 5  # errors that a summary names
Answerer = Callable[[Iterator[BatchRequest]], Iterable[BatchAnswer]]


@dataclass
class Summary:
    """`num_new` answers are of this run, the others of an earlier one or of an equal line; `num_errors` lines have an error instead."""

    num_lines: int = 0
    num_new: int = 0
    num_errors: int = 0
    num_tokens: int = 0  # of the new answers
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)  # the first MAX_SHOWN

    def add_error(self, text: str) -> None:
        """Count a line without an answer."""
        self.num_errors += 1
        if len(self.errors) < MAX_SHOWN:
            self.errors.append(text)


def inputs_of(patterns: Sequence[str]) -> list[Path]:
    """The files behind names, folders (their .jsonl files) and patterns such as `data/*.jsonl`. Raises BadInputError."""
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            files = sorted(path.glob("*.jsonl"))
        elif path.exists() or not any(letter in pattern for letter in "*?["):
            files = [path]
        else:
            anchor = Path(path.anchor or ".")
            files = sorted(anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
        if not files:
            raise BadInputError(f"no .jsonl files in {pattern}" if path.is_dir() else f"no files match {pattern}")
        found += [file for file in files if file not in found]
    for file in found:
        if not file.is_file():
            raise BadInputError(f"there is no file {file}")
    return found


class Batch:
    """Answers the lines of `inputs` into files of the same names in `output`. Raises BadInputError if an answer file would replace an
    input, or two inputs have one name."""

    def __init__(self, inputs: Sequence[Path], output: Path, settings: BatchSettings):
        self.inputs, self.output, self.settings = list(inputs), output, settings
        self.summary = Summary()
        self._failed: dict[str, str] = {}  # key -> why there is no answer
        self._wanted: dict[str, list[Path]] = {}  # key without an answer -> the files that wait for it
        self._num_left: Counter[Path] = Counter()  # answers that a file waits for
        names = Counter(path.name for path in inputs)
        if twice := [name for name, count in names.items() if count > 1]:
            raise BadInputError(f"two inputs are called {twice[0]}, and their answers would go to one file")
        for path in inputs:
            if (output / path.name).resolve() == path.resolve():
                raise BadInputError(f"the answers would replace the input {path}; choose another --output")

    def run(self, answerer: Answerer) -> Summary:
        """Answer every line that has no answer yet; `answerer` is called if there is one. Raises OutpaceError if another batch writes to
        the folder, or an input changes in the meantime."""
        started = time.perf_counter()
        with self._locked(), AnswerLog(self.output / LOG) as log:
            self._look_through(log)
            for path in self.inputs:
                if not self._num_left[path]:
                    self._write(path, log)
            if self._wanted:
                self._answer(answerer, log)
        self.summary.seconds = time.perf_counter() - started
        return self.summary

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"cannot make the folder {self.output}: {error.strerror}") from error
        try:
            with FileLock(self.output / LOCK, timeout=0):
                yield
        except Timeout as error:
            raise OutpaceError(f"another batch is writing to {self.output}") from error

    def _look_through(self, log: AnswerLog) -> None:
        """Find out which answers are missing, and for which files."""
        for path in self.inputs:
            for entry in read_requests(path, self.settings):
                if isinstance(entry, BadLine) or entry.key in log:
                    continue
                waiting = self._wanted.setdefault(entry.key, [])
                if path not in waiting:
                    waiting.append(path)
                    self._num_left[path] += 1

    def _requests(self) -> Iterator[BatchRequest]:
        """The requests without an answer, each once."""
        asked = set[str]()
        for path in self.inputs:
            for entry in read_requests(path, self.settings):
                if isinstance(entry, BatchRequest) and entry.key in self._wanted and entry.key not in asked:
                    asked.add(entry.key)
                    yield entry

    def _answer(self, answerer: Answerer, log: AnswerLog) -> None:
        total, started = len(self._wanted), time.perf_counter()
        with meter("answers", total) as show:
            for answer in answerer(self._requests()):
                if answer.key not in self._wanted:
                    continue  # a second answer to one request, after a worker was lost
                self._take(answer, log)
                rate = self.summary.num_tokens / (time.perf_counter() - started)
                show(total - len(self._wanted), f"{total - len(self._wanted)} of {total}, {rate:.0f} tokens/s")
        if self._wanted:
            raise OutpaceError(f"{len(self._wanted)} of {total} requests have no answer; run the command again")

    def _take(self, answer: BatchAnswer, log: AnswerLog) -> None:
        """Keep an answer, and write the files that waited for it alone."""
        if answer.answer is None:
            self._failed[answer.key] = answer.error
        else:
            log.add(answer.key, answer.answer)
            self.summary.num_new += 1
            self.summary.num_tokens += answer.answer["completion_tokens"]
        for path in self._wanted.pop(answer.key):
            self._num_left[path] -= 1
            if not self._num_left[path]:
                self._write(path, log)

    def _write(self, path: Path, log: AnswerLog) -> None:
        """Write all answers of a file, in its order."""
        with replacing(self.output / path.name) as name, name.open("wb") as file:
            for entry in read_requests(path, self.settings):
                self.summary.num_lines += 1
                if isinstance(entry, BadLine):
                    self.summary.add_error(entry.error)
                    file.write(json_line(refused(entry)))
                elif entry.key in log:
                    file.write(json_line(answered(entry, log.get(entry.key))))
                elif entry.key in self._failed:
                    self.summary.add_error(f"{path.name}:{entry.number}: {self._failed[entry.key]}")
                    file.write(json_line(failed(entry, self._failed[entry.key])))
                else:
                    raise OutpaceError(f"{path} has changed while the batch ran; run the command again")
