"""A server without a model that answers the playground from a script, slowly enough to press stop."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[2] / "outpace" / "server" / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
TEXT = (
    "The first lighthouse was built of wood. The second lighthouse was built like a ship, of oak. The third lighthouse was built of stone."
)
DRAFTERS = ("none", "blind", "prompt_lookup", "suffix", "recycling", "prediction", "house:special")
DEFAULT = "prompt_lookup"
ABOUT = {"description": "What it does.", "options": {"branches": 3}}


@dataclass
class Script:
    """What the server does next; tests change it between requests. `requests` are the bodies it has received."""

    text: str = TEXT
    step_seconds: float = 0.004
    first_seconds: float = 0.0  # reading the prompt
    key: str = ""
    status: int = 0  # answer chat requests with this error
    message: str = "no"
    is_away: bool = False  # refuse the lists of models and drafters with 503
    break_after: int | None = None  # close the connection after this many steps
    other_text: str = ""  # the answer with any drafter but none
    requests: list[dict[str, Any]] = field(default_factory=list)
    num_hung_up: int = 0


def words(text: str) -> list[str]:
    """Tokens of the fake model: words with the space before them."""
    return [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]


def plain_steps(text: str, limit: int) -> Iterator[dict[str, Any]]:
    """One token per step, without a draft."""
    draft = {"tokens": [], "parents": [], "confidences": [], "sources": [], "accepted": []}
    for number, word in enumerate(words(text)[:limit]):
        yield {"step": number, "milliseconds": 4.0, "tokens": [{"text": word, "source": ""}], "draft": draft}


def drafted_steps(text: str, limit: int, name: str) -> Iterator[dict[str, Any]]:
    """Steps of three kinds in turn: a draft that is partly accepted, one that is accepted as a whole, none."""
    tokens, place, number = words(text)[:limit], 0, 0
    both = name if "+" in name else f"{name}+suffix"
    while place < len(tokens):
        ahead = tokens[place : place + 2]
        own = tokens[place + 2 : place + 3]
        draft: dict[str, Any] = {"tokens": [], "parents": [], "confidences": [], "sources": [], "accepted": []}
        if number % 3 == 2 or not own:
            ahead, own = [], tokens[place : place + 1]
        else:
            draft = {"tokens": list(ahead), "parents": [-1, 0], "confidences": [0.9, None], "sources": [name, both], "accepted": [0, 1]}
            if number % 3 == 0:
                draft["tokens"] += [" wrong", " guess", " other"]
                draft["parents"] += [1, 2, -1]
                draft["confidences"] += [0.4, 0.2, 0.1]
                draft["sources"] += [name, name, name]
        given = [{"text": text, "source": source} for text, source in zip(ahead, draft["sources"], strict=False)]
        yield {"step": number, "milliseconds": 5.0, "tokens": [*given, *({"text": word, "source": ""} for word in own)], "draft": draft}
        place, number = place + len(ahead) + len(own), number + 1


class Handler(BaseHTTPRequestHandler):
    """One connection; it follows the script of its server."""

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def script(self) -> Script:
        return self.server.script  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        path = "/static/index.html" if self.path == "/" else self.path
        if path.startswith("/static/") and (file := STATIC / path.removeprefix("/static/")).is_file():
            self.reply(200, file.read_bytes(), TYPES[file.suffix])
        elif path.startswith("/v1/") and not self.is_allowed():
            self.error(401, "a key is needed")
        elif path.startswith("/v1/") and self.script.is_away:
            self.error(503, "starting")
        elif path == "/v1/models":
            self.json({"object": "list", "data": [{"id": "toy-1b", "object": "model"}]})
        elif path == "/v1/outpace/drafters":
            self.json([{"name": name, **ABOUT, "default": name == DEFAULT} for name in DRAFTERS])
        else:
            self.error(404, "not found")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.script.requests.append(body)
        if not self.is_allowed():
            self.error(401, "a key is needed")
        elif self.script.status:
            self.error(self.script.status, self.script.message)
        else:
            self.stream(body)

    def is_allowed(self) -> bool:
        return not self.script.key or self.headers.get("Authorization") == f"Bearer {self.script.key}"

    def stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        method, limit, script = body["speculative"]["method"], body["max_completion_tokens"], self.script
        text = script.text if method == "none" or not script.other_text else script.other_text
        steps = plain_steps(text, limit) if method == "none" else drafted_steps(text, limit, method)
        num_steps = num_tokens = 0
        try:
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
            time.sleep(script.first_seconds)
            for trace in steps:
                time.sleep(script.step_seconds)
                content = "".join(token["text"] for token in trace["tokens"])
                self.event({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}], "trace": trace})
                num_steps, num_tokens = num_steps + 1, num_tokens + len(trace["tokens"])
                if num_steps == script.break_after:
                    return
            figures = {"num_steps": num_steps, "num_draft_tokens": 2 * num_tokens, "num_accepted_tokens": num_tokens - num_steps, "seed": 1}
            figures |= {"tokens_per_step": num_tokens / num_steps, "tokens_per_second": 100.0, "drafter": method}
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], "speculative": figures})
            self.event({"choices": [], "usage": {"completion_tokens": num_tokens}, "speculative": figures})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            script.num_hung_up += 1

    def event(self, document: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps({'object': 'chat.completion.chunk', **document})}\n\n".encode())
        self.wfile.flush()

    def json(self, document: Any) -> None:
        self.reply(200, json.dumps(document).encode(), "application/json")

    def error(self, status: int, message: str) -> None:
        self.reply(status, json.dumps({"error": {"message": message, "type": "error"}}).encode(), "application/json")

    def reply(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class FakeServer:
    """The server in a thread of its own, until `close`; `port` restarts it at the same address."""

    def __init__(self, script: Script | None = None, port: int = 0):
        self.script = script or Script()
        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.http.script = self.script  # type: ignore[attr-defined]
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
