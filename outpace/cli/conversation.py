"""The interactive conversation of `outpace chat`."""

from __future__ import annotations

import sys

from rich.console import Console

from outpace.errors import BadInputError, OutpaceError
from outpace.llm import LLM
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams


def converse(llm: LLM, params: SamplingParams) -> None:
    """Read lines, stream answers and keep the history, which the prefix cache holds. A turn without a whole answer is not kept."""
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
            question = {"role": "user", "content": line}
            text, output, failure = _answer(llm, [*history, question], params)
            if failure is None:
                history += [question, {"role": "assistant", "content": text}]
                if output is not None and sys.stdin.isatty():
                    numbers = f"[{output.tokens_per_second:.0f} tokens/s, {output.tokens_per_step:.2f} tokens per step]"
                    console.print(numbers, style="dim")
            else:
                _explain(failure, text, console)


def _write(text: str) -> None:
    """The model's text exactly as it is: no markup, no emoji codes, no tab stops."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _answer(
    llm: LLM, history: list[dict[str, str]], params: SamplingParams
) -> tuple[str, RequestOutput | None, KeyboardInterrupt | OutpaceError | None]:
    """Stream one answer: its text, the output, and what cut it short, if anything did."""
    text, output, failure = "", None, None
    try:
        for piece in llm.stream(llm.tokenizer.encode_chat(history), params):
            text += piece.text
            _write(piece.text)
            output = piece.output
    except (KeyboardInterrupt, OutpaceError) as error:
        failure = error
    if text or failure is None:
        _write("\n")
    return text, output, failure


def _explain(failure: KeyboardInterrupt | OutpaceError, text: str, console: Console) -> None:
    """Say why there is no whole answer, and that the turn is not kept."""
    if isinstance(failure, OutpaceError):
        hint = " (/clear forgets the conversation)" if isinstance(failure, BadInputError) else ""
        console.print(f"error: {failure}{hint}", style="red")
    if text or isinstance(failure, KeyboardInterrupt):
        console.print("[stopped; this turn is not part of the conversation]", style="dim")
