"""The stages before training, shared by all kinds: answers, hidden states, the folder of the run."""

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
MAX_TEXT_TOKENS = 2048  # prompt and answer together; longer texts are skipped


@dataclass(frozen=True)
class Source:
    """The model to train for, and the data: a file of prompts or texts, or a folder of captured rows from an earlier run."""

    model: str
    data: Path
    generate: bool = False
    max_tokens: int = 256
    target: str = "auto"
    precision: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Run:
    """The folder of a run. `record` are the settings it was started with; only a run with the same settings can resume it."""

    out: Path
    record: dict[str, Any]
    resume: bool

    @classmethod
    def of(cls, out: Path, kind: str, source: Source, settings: Sequence[Any], resume: bool) -> Run:
        """Check the folder before anything is loaded. Raises BadInputError if it cannot be written to or belongs to another run."""
        parts = {name: value for part in settings for name, value in asdict(part).items()}
        run = cls(out, {"kind": kind, **asdict(source), "data": str(source.data), **parts}, resume)
        run._check()
        return run

    def _check(self) -> None:
        if (self.out / RUN).exists():
            if not self.resume:
                raise BadInputError(f"{self.out} already contains a run; resume it with --resume or choose another --out")
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
        """Write the record; from here on the run can be resumed."""
        processes().wait()  # until all have checked the folder
        if processes().is_first:
            write_whole(self.out / RUN, json.dumps(self.record, indent=2))


def rows_of(source: Source, run: Run) -> Rows:
    """The captured rows to train on; captures them first if needed. Raises BadInputError for data that does not fit the model."""
    if source.data.is_dir():
        if source.generate:
            raise BadInputError(f"--generate needs a file of prompts, but {source.data} is a folder")
        return Rows(source.data)
    _check_alone("hidden states are captured")
    llm = llm_of(source)
    base = llm.target.base
    if base is None or not llm.target.capabilities.hidden:
        raise BadInputError("this target returns no hidden states, which training needs")
    texts = texts_of(source, run, llm)
    origin = Origin(base.name, base.fingerprint, llm.target.fingerprint, base.hidden_size, base.vocab_size, digest(texts))
    run.begin()
    capture(llm.target, texts, origin, run.out / SHARDS)
    return Rows(run.out / SHARDS)


def llm_of(source: Source) -> LLM:
    """The model that reads the data and, with `generate`, writes the answers. Raises BadInputError if there is no data."""
    if not source.data.is_file():
        raise BadInputError(f"there is no file {source.data}")
    return open_llm(source, "auto" if source.generate else "none")


def open_llm(source: Source, drafter: str = "none") -> LLM:
    """Load the model to train for, with the target and precision it will run with."""
    return LLM(source.model, drafter, target=source.target, precision=source.precision, threads=source.threads)


def texts_of(source: Source, run: Run, llm: LLM) -> list[Text]:
    """The texts to train on; with `generate` the model writes their answers first. Raises BadInputError if they do not fit."""
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
    """Raise BadInputError if several processes run, which would do the same work and write the same files."""
    if processes().count > 1:
        raise BadInputError(f"{what} by one process only; run that first, then pass its file or folder to several processes as --data")


def check_rows(rows: Rows, base: Base, data: Path) -> None:
    """Raise BadInputError if the rows were captured from another model."""
    origin = rows.index.origin
    for name in ("hidden_size", "vocab_size", "fingerprint"):
        if getattr(origin, name) != getattr(base, name):
            mine, theirs = getattr(origin, name), getattr(base, name)
            raise BadInputError(f"the rows captured from {data} are from {origin.name} with {name} {mine}, but {base.name} has {theirs}")


def split(rows: Rows) -> tuple[Array, list[Array]]:
    """(rows to train on [n], the rows of each held-out text), of answers only. The last row of a text is not trained on, as no token is
    left to predict."""
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
