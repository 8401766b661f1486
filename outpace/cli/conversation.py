"""The interactive conversation of `outpace chat`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from outpace.bench.looping import LOOPS, is_looping
from outpace.errors import BadInputError, OutpaceError
from outpace.llm import LLM
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams

QUOTES = '"""'  # around a question of several lines
HELP = f"""\
/help           show this list
/system TEXT    set the system prompt and start a new conversation
/system         show the system prompt; /system - removes it
/reset          start a new conversation
/exit           quit; Ctrl-D does too
{QUOTES}             begin and end a question of several lines
Ctrl-C          stop an answer, or drop the line that you are typing"""


class Conversation:
    """Reads lines, streams answers and keeps the history, which the prefix cache holds. A turn without a whole answer is not kept."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None = None):
        self.llm, self.params, self.system = llm, params, system
        self.history: list[dict[str, str]] = []
        self.is_interactive = sys.stdin.isatty()
        self.console = Console(highlight=False, soft_wrap=True, markup=False)
        self.commands: dict[str, Callable[[str], None]] = {"/help": self._help, "/system": self._set_system, "/reset": self._reset}

    def run(self) -> None:
        """Talk until the input ends or the user leaves."""
        if self.is_interactive:
            _edit_lines()
            self._greet()
        while (question := self._read()) is not None:
            word, _, rest = question.partition(" ")
            if word in ("/exit", "/quit"):
                return
            if word in self.commands:
                self.commands[word](rest.strip())
            elif word == question and word.startswith("/") and word[1:].isalpha():
                self.console.print(f"there is no command {word}; /help lists them")
            elif question:
                self._turn(question)
        self.console.print()

    def _greet(self) -> None:
        """Say which model answers, how it is decoded, and where help is."""
        sampling = "greedy" if self.params.is_greedy else f"temperature {self.params.temperature:g}"
        drafter = self.llm.speculative_config.method
        self.console.print(f"{self.llm.name} ({self.llm.precision}, drafter {drafter}, {sampling})", style="bold")
        self.console.print("/help lists the commands, Ctrl-D quits", style="dim")

    # ---- reading

    def _read(self) -> str | None:
        """A line, or the lines between two QUOTES; "" after Ctrl-C at a terminal, None at the end of the input."""
        try:
            line = self._line("> ").strip()
            if not line.startswith(QUOTES):
                return line
            lines = [line.removeprefix(QUOTES)]
            while not lines[-1].rstrip().endswith(QUOTES):
                lines.append(self._line("... "))
            return "\n".join(lines).rstrip().removesuffix(QUOTES).strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            self.console.print()
            return "" if self.is_interactive else None

    def _line(self, prompt: str) -> str:
        return input(prompt if self.is_interactive else "")

    # ---- commands

    def _help(self, _: str) -> None:
        self.console.print(HELP)

    def _set_system(self, text: str) -> None:
        if text:
            self.system = None if text == "-" else text
            self._reset("")
        else:
            self.console.print(f"system prompt: {self.system}" if self.system else "there is no system prompt")

    def _reset(self, _: str) -> None:
        self.history.clear()
        if self.is_interactive:
            self.console.print("new conversation", style="dim")

    # ---- answers

    def _turn(self, question: str) -> None:
        """Answer a question, and keep both if the answer is whole."""
        asked = [*self.history, {"role": "user", "content": question}]
        text, output, failure = self._answer(asked)
        if failure is not None:
            self._explain(failure, text)
            return
        self.history = [*asked, {"role": "assistant", "content": text}]
        if output is not None and self.is_interactive:
            self.console.print(f"[{output.tokens_per_second:.0f} tokens/s, {output.tokens_per_step:.2f} tokens per step]", style="dim")
            if output.finish_reason == "length":
                self.console.print(f"[stopped at --max-tokens {self.params.max_tokens}]", style="dim")
            if is_looping(output.token_ids):
                self.console.print(f"[{LOOPS}; /reset, or start with --repetition-penalty 1.1]", style="dim")

    def _answer(self, asked: list[dict[str, str]]) -> tuple[str, RequestOutput | None, KeyboardInterrupt | OutpaceError | None]:
        """Stream one answer: its text, the output, and what cut it short, if anything did."""
        messages = asked if self.system is None else [{"role": "system", "content": self.system}, *asked]
        text, output, failure = "", None, None
        try:
            for piece in self.llm.stream(self.llm.tokenizer.encode_chat(messages), self.params):
                text += piece.text
                _write(piece.text)
                output = piece.output
        except (KeyboardInterrupt, OutpaceError) as error:
            failure = error
        if text or failure is None:
            _write("\n")
        return text, output, failure

    def _explain(self, failure: KeyboardInterrupt | OutpaceError, text: str) -> None:
        """Say why there is no whole answer, and that the turn is not kept."""
        if isinstance(failure, OutpaceError):
            hint = " (/reset starts a new conversation)" if isinstance(failure, BadInputError) and self.history else ""
            self.console.print(f"error: {failure}{hint}", style="red")
        if text or isinstance(failure, KeyboardInterrupt):
            self.console.print("[stopped; this turn is not part of the conversation]", style="dim")


def _edit_lines() -> None:
    """Arrow keys, earlier lines and pasted lines, where the system has readline."""
    with suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")


def _write(text: str) -> None:
    """The model's text exactly as it is: no markup, no emoji codes, no tab stops."""
    sys.stdout.write(text)
    sys.stdout.flush()
