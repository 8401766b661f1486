"""What a converter process tells its parent: JSON lines on a stdout of its own, to which no library can write."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from outpace.errors import BadInputError, OutpaceError
from outpace.reason import reason_of

Tell = Callable[[str], None]


def run(work: Callable[[Tell], None]) -> int:
    """Run `work(tell)` in the child; `tell(stage)` names what happens next. A failure is told too, with the exit code, which is returned.

    What anything else prints on stdout goes to stderr.
    """
    channel = os.dup(1)
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        os.write(channel, (json.dumps(message) + "\n").encode())

    try:
        work(lambda stage: say(stage=stage))
    except Exception as error:
        traceback.print_exc()
        reason, code = reason_of(error), getattr(error, "exit_code", 1 if _is_of_disk(error) else BadInputError.exit_code)
        say(error=reason, exit_code=code)
        return int(code)
    finally:
        os.dup2(channel, 1)
        os.close(channel)
    return 0


def _is_of_disk(error: Exception) -> bool:
    """Whether it is the machine that failed, not the model."""
    return isinstance(error, OSError) or "iostream error" in str(error)


def listen(lines: Iterable[str], show: Tell) -> OutpaceError | None:
    """Show the stages that a child tells; returns the error that it told last."""
    error = None
    for line in lines:
        message = _message(line)
        if isinstance(message.get("stage"), str):
            show(message["stage"])
        if isinstance(message.get("error"), str):
            kind = OutpaceError if message.get("exit_code") == OutpaceError.exit_code else BadInputError
            error = kind(message["error"])
    return error


def _message(line: str) -> dict[str, Any]:
    """The JSON object at the end of a line, whatever stands before it."""
    start = line.find("{")
    while start >= 0:
        try:
            found = json.loads(line[start:])
        except ValueError:
            start = line.find("{", start + 1)
            continue
        return found if isinstance(found, dict) else {}
    return {}
