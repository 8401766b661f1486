"""Finished responses, which later requests may continue: in memory, the oldest forgotten first."""

from __future__ import annotations

import json
import re
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MAX_RESPONSES = 1000
MAX_CHARACTERS = 32 << 20
_ID = re.compile(r"resp_[0-9a-f]{32}_([0-9A-Za-z]{1,64})")


@dataclass(frozen=True)
class StoredResponse:
    """A response, and the conversation up to and with its answer, as messages of chat completions. `owner`: the API key's salt."""

    owner: str
    body: dict[str, Any]
    messages: list[dict[str, Any]]
    size: int


class ResponseStore:
    """At most `max_responses` responses, of `max_characters` in all. `replica`: letters and digits that every id ends with, where several
    servers have one address. Used by the event loop only."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_characters: int = MAX_CHARACTERS, replica: str = ""):
        self.max_responses, self.max_characters, self.replica = max_responses, max_characters, replica
        self.found: OrderedDict[str, StoredResponse] = OrderedDict()
        self.size = 0

    def new_id(self) -> str:
        """An id for a response that will be kept here."""
        return f"resp_{uuid.uuid4().hex}" + (f"_{self.replica}" if self.replica else "")

    def add(self, owner: str, body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Keep a response; forget the oldest ones that have no room beside it."""
        size = len(json.dumps([body, messages]))
        self.found[body["id"]] = StoredResponse(owner, body, messages, size)
        self.size += size
        while len(self.found) > self.max_responses or self.size > self.max_characters:
            self.size -= self.found.popitem(last=False)[1].size

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """A response of this owner."""
        found = self.found.get(response_id)
        return found if found is not None and found.owner == owner else None

    def remove(self, owner: str, response_id: str) -> bool:
        """Forget a response; says whether there was one."""
        if self.get(owner, response_id) is None:
            return False
        self.size -= self.found.pop(response_id).size
        return True


def replica_of(response_id: str) -> str:
    """The replica that keeps a response; empty if the id names none."""
    found = _ID.fullmatch(response_id)
    return found[1] if found else ""
