"""The demonstration: one document, summarised plainly and speculatively, side by side, with the guessed tokens coloured."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from outpace.llm import LLM
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams

INSTRUCTION = "Summarize the following text.\n\n"
GUESSED = "bold black on green"


def document() -> str:
    """The bundled public-domain text."""
    return files("outpace").joinpath("assets/eddystone.txt").read_text("utf-8")


def coloured(output: RequestOutput) -> Text:
    """The answer with every accepted guess marked."""
    text = Text()
    for piece, guessed in zip(output.pieces, output.from_draft, strict=True):
        text.append(piece, GUESSED if guessed else "")
    return text


def run(llm: LLM, max_tokens: int, console: Console) -> tuple[RequestOutput, RequestOutput]:
    """Plain, then speculative; on a terminal both are shown as they appear."""
    messages = [{"role": "user", "content": INSTRUCTION + document()}]
    prompt = llm.tokenizer.encode_chat(messages)
    llm.generate(prompt, SamplingParams(max_tokens=1))  # both runs find the prompt in the cache
    params = SamplingParams(max_tokens=max_tokens)
    outputs: list[RequestOutput] = []
    shown = ["", ""]
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        for side, name in enumerate(("none", None)):
            for piece in llm.stream(prompt, params, speculative_config=name):
                shown[side] += piece.text
                live.update(_columns(_panel("plain", Text(shown[0])), _panel(llm.speculative_config.method, Text(shown[1]))))
                outputs += [piece.output] if piece.output else []
    return outputs[0], outputs[1]


def _panel(title: str, body: RenderableType, footer: str = "") -> Panel:
    return Panel(body, title=title, subtitle=footer or None)


def _columns(left: RenderableType, right: RenderableType) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(left, right)
    return grid


def _speed(output: RequestOutput) -> str:
    return f"{output.tokens_per_second:.1f} tokens/s, {output.tokens_per_step:.2f} tokens a step"


def render(plain: RequestOutput, fast: RequestOutput) -> Group:
    """Both answers side by side, and the verdict."""
    numbers = summary(plain, fast)
    same = Text("identical" if numbers["identical"] else "NOT IDENTICAL", "bold green" if numbers["identical"] else "bold red")
    verdict = Text.assemble(same, f": {len(plain.token_ids)} and {len(fast.token_ids)} tokens, ", f"{numbers['speedup']:.2f}x as fast. ")
    verdict.append(" a guess that was kept ", GUESSED)
    return Group(_columns(_panel("plain", Text(plain.text), _speed(plain)), _panel(fast.drafter, coloured(fast), _speed(fast))), verdict)


def summary(plain: RequestOutput, fast: RequestOutput) -> dict[str, Any]:
    """The demonstration's figures; speedup compares tokens/s of decoding."""

    def side(output: RequestOutput) -> dict[str, Any]:
        return {
            "drafter": output.drafter,
            "tokens": len(output.token_ids),
            "tokens_per_second": round(output.tokens_per_second, 2),
            "tokens_per_step": round(output.tokens_per_step, 3),
        }

    speedup = fast.tokens_per_second / plain.tokens_per_second if plain.tokens_per_second else 0.0
    identical = plain.token_ids == fast.token_ids
    return {"text": fast.text, "identical": identical, "speedup": round(speedup, 3), "plain": side(plain), "speculative": side(fast)}
