"""Finished answers as a source for later drafts: bounded, separate for each scope (cache salt), saved and loaded on request."""

from __future__ import annotations

import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from outpace.drafters.suffix.automaton import SuffixAutomaton
from outpace.errors import BadInputError

FORMAT, VERSION = "outpace answers", 1
TOKEN_BYTES = 450  # of memory for each token, measured on 23,000 tokens of documentation
BETWEEN = -1  # stands after each answer in the automaton: no token, so no match crosses it


@dataclass
class Generation:
    """Answers of about the same age, and the automaton over them."""

    answers: list[list[int]] = field(default_factory=list)
    text: SuffixAutomaton = field(default_factory=SuffixAutomaton)

    def add(self, token_ids: Sequence[int]) -> None:
        """Append an answer."""
        self.answers.append(list(token_ids))
        self.text.extend([*token_ids, BETWEEN])


class AnswerMemory:
    """At most the latest `num_tokens` tokens of answers for each of the `num_scopes` scopes used last.

    A scope has two generations of at most half the tokens each. When the younger is full, the older is dropped: an automaton cannot
    forget, and rebuilding it from time to time would block all requests for a moment. Scopes are stored as hashes only, because they may be
    secrets (API keys).
    """

    def __init__(self, num_tokens: int, vocab_size: int, num_scopes: int = 8):
        self.num_tokens, self.vocab_size, self.num_scopes = num_tokens, vocab_size, num_scopes
        self.scopes: OrderedDict[str, list[Generation]] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Memory of all answers, roughly."""
        return TOKEN_BYTES * sum(one.text.num_tokens for generations in list(self.scopes.values()) for one in generations)

    def texts(self, scope: str) -> list[SuffixAutomaton]:
        """The automata of a scope, the younger last."""
        return [generation.text for generation in self.scopes.get(_hashed(scope), ())]

    def add(self, scope: str, token_ids: Sequence[int]) -> None:
        """Remember an answer; the oldest ones make room for it."""
        self._add(_hashed(scope), token_ids)

    def _add(self, key: str, token_ids: Sequence[int]) -> None:
        most = self.num_tokens // 2
        token_ids = token_ids[-(most - 1) :]
        generations = self.scopes.setdefault(key, [Generation()])
        self.scopes.move_to_end(key)
        if generations[-1].text.num_tokens + len(token_ids) + 1 > most:
            generations[:] = [generations[-1], Generation()]
        generations[-1].add(token_ids)
        while len(self.scopes) > self.num_scopes:
            self.scopes.popitem(last=False)

    def save(self, path: Path) -> None:
        """Write everything to a JSON file that only its owner can read; after a crash the old file is intact. Raises BadInputError."""
        scopes = {key: [answer for one in generations for answer in one.answers] for key, generations in self.scopes.items()}
        data = {"format": FORMAT, "version": VERSION, "vocab_size": self.vocab_size, "scopes": scopes}
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(data, file, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise BadInputError(f"cannot write the answers to {path}: {error.strerror or error}") from error

    def load(self, path: Path) -> None:
        """Replace everything by the contents of a file. Raises BadInputError and then changes nothing."""
        try:
            data = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise BadInputError(f"cannot read the answers in {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{path} is damaged: not JSON ({error})") from error
        scopes = self._checked(data, path)
        self.scopes.clear()
        for key, answers in scopes.items():
            for answer in answers:
                self._add(key, answer)

    def _checked(self, data: Any, path: Path) -> dict[str, list[list[int]]]:
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise BadInputError(f"{path} holds no answers saved by outpace")
        if data.get("version") != VERSION:
            raise BadInputError(f"{path} has version {data.get('version')!r}; this outpace reads version {VERSION}")
        if data.get("vocab_size") != self.vocab_size:
            raise BadInputError(f"{path} is of a model with {data.get('vocab_size')!r} tokens, this one has {self.vocab_size}")
        scopes = data.get("scopes")
        if not isinstance(scopes, dict) or not all(isinstance(answers, list) for answers in scopes.values()):
            raise BadInputError(f"{path} is damaged: no table of scopes")
        for answer in (answer for answers in scopes.values() for answer in answers):
            if not isinstance(answer, list) or not all(type(token) is int and 0 <= token < self.vocab_size for token in answer):
                raise BadInputError(f"{path} is damaged: an answer is no list of tokens of this model")
        return scopes


def _hashed(scope: str) -> str:
    return blake2b(scope.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
