"""Answers by key, appended to one file as they come: a killed batch goes on from it, and a batch larger than memory fits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any


def json_line(value: Any) -> bytes:
    """A JSON document as one line of UTF-8; half of a surrogate pair, which UTF-8 cannot show, is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


class AnswerLog:
    """A file of lines {"key", "answer"}. The last line may be cut off by a kill: it is dropped. Use it in a `with` block."""

    def __init__(self, path: Path):
        self.path = path
        self._offsets: dict[str, int] = {}  # key -> where its line begins
        self._file = path.open("a+b")
        self._end = 0
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._remember(line)
            self._end += len(line)
        self._file.truncate(self._end)

    def _remember(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self._offsets[entry["key"]] = self._end
        except (ValueError, TypeError, KeyError):
            return  # not a line of this file: its request runs once more

    def __enter__(self) -> AnswerLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def add(self, key: str, answer: dict[str, Any]) -> None:
        """Append an answer; it is in the file when this returns. The first answer of a key stays."""
        if key in self._offsets:
            return
        line = json_line({"key": key, "answer": answer})
        self._file.write(line)
        self._file.flush()
        self._offsets[key] = self._end
        self._end += len(line)

    def get(self, key: str) -> dict[str, Any]:
        """The answer of a key. Raises KeyError."""
        self._file.seek(self._offsets[key])
        answer: dict[str, Any] = json.loads(self._file.readline())["answer"]
        return answer
