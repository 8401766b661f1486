"""The stages before the training itself, the same for every kind of helper: answers, hidden states, the folder of the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.files import check_writable, read_json, write_whole
from outpace.llm import LLM
from outpace.progress import note
from outpace.targets.identity import Base
from outpace.training.data.answers import write_answers
from outpace.training.data.capture import capture
from outpace.training.data.shards import Origin, Rows
from outpace.training.data.texts import Text, choose, digest, held_out, read_prompts, read_texts
from outpace.training.processes import processes

RUN, ANSWERS, SHARDS = "run.json", "answers.jsonl", "shards"
MAX_TEXT_TOKENS = 2048  # prompt and answer together; longer texts are left out


@dataclass(frozen=True)
class Source:
    """Which model is helped, and by what data: a file of prompts or texts, or a folder of captured rows from an earlier run."""

    model: str
    data: Path
    generate: bool = False
    max_tokens: int = 256
    target: str = "auto"
    precision: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Run:
    """The folder of a run. `record` are the settings it was started with; only the same ones may go on with it."""

    out: Path
    record: dict[str, Any]
    resume: bool

    @classmethod
    def of(cls, out: Path, kind: str, source: Source, settings: Sequence[Any], resume: bool) -> Run:
        """Look before anything is loaded. Raises BadInputError for a folder that cannot be written to or belongs to another run."""
        parts = {name: value for part in settings for name, value in asdict(part).items()}
        run = cls(out, {"kind": kind, **asdict(source), "data": str(source.data), **parts}, resume)
        run._check()
        return run

    def _check(self) -> None:
        if (self.out / RUN).exists():
            if not self.resume:
                raise BadInputError(f"{self.out} already holds a run; --resume goes on with it, or choose another --out")
            earlier = read_json(self.out / RUN)
            for name, value in self.record.items():
                if earlier.get(name) != value:
                    was = f"{name} {earlier.get(name)!r}, not {value!r}"
                    raise BadInputError(f"the run in {self.out} has {was}; --resume needs the same settings")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"cannot write to {self.out}: {error.strerror}") from error
        check_writable(self.out / RUN)

    def begin(self) -> None:
        """From here on the folder has something to go on with."""
        processes().wait()  # all have looked at it
        if processes().is_first:
            write_whole(self.out / RUN, json.dumps(self.record, indent=2))


def rows_of(source: Source, run: Run) -> Rows:
    """The captured rows to train on; made where they are missing. Raises BadInputError for data that does not fit the model."""
    if source.data.is_dir():
        if source.generate:
            raise BadInputError(f"--generate needs a file of prompts, and {source.data} is a folder")
        return Rows(source.data)
    _check_alone("hidden states are captured")
    llm = llm_of(source)
    base = llm.target.base
    if base is None or not llm.target.capabilities.hidden:
        raise BadInputError("this target gives no hidden states, so nothing can be trained for it")
    texts = texts_of(source, run, llm)
    origin = Origin(base.name, base.fingerprint, llm.target.fingerprint, base.hidden_size, base.vocab_size, digest(texts))
    run.begin()
    capture(llm.target, texts, origin, run.out / SHARDS)
    return Rows(run.out / SHARDS)


def llm_of(source: Source) -> LLM:
    """The model that reads the data and, if it is told to, writes the answers. Raises BadInputError where there is no data."""
    if not source.data.is_file():
        raise BadInputError(f"there is no file {source.data}")
    return open_llm(source, "auto" if source.generate else "none")


def open_llm(source: Source, drafter: str = "none") -> LLM:
    """The model that is helped, as it will run."""
    return LLM(source.model, drafter, target=source.target, precision=source.precision, threads=source.threads)


def texts_of(source: Source, run: Run, llm: LLM) -> list[Text]:
    """The texts to train on, their answers written by the model where `generate` says so. Raises BadInputError if they do not fit."""
    data = source.data
    if source.generate:
        _check_alone("answers are written")
        prompts, data = read_prompts(source.data, llm.tokenizer), run.out / ANSWERS
        run.begin()
        write_answers(llm, prompts, data, source.max_tokens)
    found = read_texts(data, llm.tokenizer, llm.target.capabilities.vocab_size, source.max_tokens)
    texts, counts = choose(found, min(MAX_TEXT_TOKENS, llm.engine.max_len))
    note(counts.line)
    return texts


def _check_alone(what: str) -> None:
    """Raise BadInputError when several processes run: they would do the same work and write the same files."""
    if processes().count > 1:
        raise BadInputError(f"{what} by one process; let it do that first, then give several the file or folder that it made as --data")


def check_rows(rows: Rows, base: Base, data: Path) -> None:
    """Raise BadInputError when the rows are of another model."""
    origin = rows.index.origin
    for name in ("hidden_size", "vocab_size", "fingerprint"):
        if getattr(origin, name) != getattr(base, name):
            mine, theirs = getattr(origin, name), getattr(base, name)
            raise BadInputError(f"the rows captured from {data} are of {origin.name} with {name} {mine}, but {base.name} has {theirs}")


def split(rows: Rows) -> tuple[Array, list[Array]]:
    """(rows to train on [n], the rows of each held-out text), of answers only. A text's last row is not trained on: no token is left to
    guess there."""
    apart = held_out(rows.ids)
    train, texts = [], []
    for name, begin, end in zip(rows.ids, rows.answers, rows.starts[1:], strict=True):
        if name in apart:
            texts.append(np.arange(begin, end))
        else:
            train.append(np.arange(begin, end - 1))
    return np.concatenate(train) if train else np.empty(0, np.int64), texts


def split_texts(rows: Rows) -> tuple[Array, Array]:
    """(texts to train on, held-out texts), by number."""
    apart = held_out(rows.ids)
    is_apart = np.array([name in apart for name in rows.ids])
    return np.flatnonzero(~is_apart), np.flatnonzero(is_apart)
