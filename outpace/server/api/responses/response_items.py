"""The output of a response: its items, and the events that tell of them while they are written."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from outpace.server.api.tools.call_reader import CallPart, CallReader

Event = dict[str, Any]


@dataclass
class OutputWriter:
    """Turns the text of an answer into items. `reader` finds the calls; None if there can be none."""

    reader: CallReader | None
    items: list[dict[str, Any]] = field(default_factory=list)
    is_open: bool = False  # the last item is being written

    def feed(self, text: str) -> Iterator[Event]:
        """The events for more text."""
        plain, parts = (text, list[CallPart]()) if self.reader is None else self.reader.feed(text)
        yield from self._add(plain, parts)

    def finish(self) -> Iterator[Event]:
        """The events at the end of the answer."""
        yield from self._add("" if self.reader is None else self.reader.finish(), [])
        is_cut = self.reader is not None and self.reader.is_open
        if not self.items and not is_cut:
            yield from self._open(self._new_message())
        yield from self._close("incomplete" if is_cut else "completed")

    def as_chat(self) -> dict[str, Any]:
        """The answer as a message of chat completions, for the conversation that continues it."""
        texts = [part["text"] for item in self.items if item["type"] == "message" for part in item["content"]]
        calls = [
            {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
            for item in self.items
            if item["type"] == "function_call" and item["status"] == "completed"
        ]
        return {"role": "assistant", "content": "".join(texts), **({"tool_calls": calls} if calls else {})}

    def _add(self, plain: str, parts: Sequence[CallPart]) -> Iterator[Event]:
        if plain.strip() or (plain and self.is_open):
            yield from self._write_text(plain)
        for part in parts:
            if part.name is not None:
                yield from self._close("completed")
                item = {"type": "function_call", "id": f"fc_{uuid.uuid4().hex}", "call_id": part.id, "name": part.name}
                yield from self._open({**item, "arguments": "", "status": "in_progress"})
            if part.arguments:
                self.items[-1]["arguments"] += part.arguments
                yield self._event("function_call_arguments.delta", delta=part.arguments)

    def _write_text(self, text: str) -> Iterator[Event]:
        if not self.is_open:
            yield from self._open(self._new_message())
        self.items[-1]["content"][0]["text"] += text
        yield self._event("output_text.delta", content_index=0, delta=text, logprobs=[])

    @staticmethod
    def _new_message() -> dict[str, Any]:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "status": "in_progress", "content": [part]}

    def _open(self, item: dict[str, Any]) -> Iterator[Event]:
        self.items.append(item)
        self.is_open = True
        is_message = item["type"] == "message"
        shown = {**item, "content": []} if is_message else dict(item)
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": shown}
        if is_message:
            yield self._event("content_part.added", content_index=0, part=dict(item["content"][0]))

    def _close(self, status: str) -> Iterator[Event]:
        if not self.is_open:
            return
        item, self.is_open = self.items[-1], False
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            yield self._event("output_text.done", content_index=0, text=part["text"], logprobs=[])
            yield self._event("content_part.done", content_index=0, part=part)
        else:
            yield self._event("function_call_arguments.done", name=item["name"], arguments=item["arguments"])
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": item}

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": f"response.{kind}", "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields}
