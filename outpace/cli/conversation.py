"""The interactive conversation of `outpace chat`."""

from __future__ import annotations

import sys

from rich.console import Console

from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams


def converse(llm: LLM, params: SamplingParams) -> None:
    """Read lines, stream answers, keep the history. The conversation so far is found in the prefix cache."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    history: list[dict[str, str]] = []
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line in ("/exit", "/quit"):
            return
        if line == "/clear":
            history.clear()
        elif line:
            history.append({"role": "user", "content": line})
            try:
                answer, output = _answer(llm, history, params, console)
            except BadInputError as error:
                history.pop()
                console.print(f"error: {error} (/clear forgets the conversation)", style="red")
                continue
            history.append({"role": "assistant", "content": answer})
            if output is not None and sys.stdin.isatty():
                console.print(f"[{output.tokens_per_second:.0f} tokens/s, {output.tokens_per_step:.2f} tokens a step]", style="dim")


def _write(text: str) -> None:
    """The model's text exactly as it is: no markup, no emoji codes, no tab stops."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _answer(llm: LLM, history: list[dict[str, str]], params: SamplingParams, console: Console) -> tuple[str, RequestOutput | None]:
    """Stream one answer; Ctrl-C ends it and keeps what was said."""
    text = ""
    output = None
    try:
        for piece in llm.stream(llm.tokenizer.encode_chat(history), params):
            text += piece.text
            _write(piece.text)
            output = piece.output
    except KeyboardInterrupt:
        console.print(" [stopped]", style="dim", end="")
    console.print()
    return text, output
