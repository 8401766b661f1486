"""The demo: decodes two jobs with and without speculation and shows both answers side by side, with accepted draft tokens coloured."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from outpace.bench.looping import LOOPS, is_looping
from outpace.bench.tables import SpecText
from outpace.llm import LLM
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams

DRAFTED = "green"
SUMMARY_TOKENS = 200
FRAME_LINES = 4  # terminal lines not available for text: panel borders, the line below, the shell prompt


@dataclass(frozen=True)
class Job:
    """One prompt. `prediction`: a text that the answer is expected to resemble, if there is one."""

    title: str
    prompt: str
    prediction: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The plain and the speculative answer to one job."""

    title: str
    plain: RequestOutput
    fast: RequestOutput

    @property
    def is_identical(self) -> bool:
        return self.plain.token_ids == self.fast.token_ids

    @property
    def speedup(self) -> float:
        """Decoding speed (tokens/s) of the speculative answer, divided by that of the plain one."""
        return self.fast.tokens_per_second / self.plain.tokens_per_second if self.plain.tokens_per_second else 0.0

    @property
    def loops(self) -> bool:
        return is_looping(self.plain.token_ids)


def document() -> str:
    """The bundled public-domain text."""
    return files("outpace").joinpath("assets/eddystone.txt").read_text("utf-8")


def source_file() -> str:
    """The bundled Python file."""
    return files("outpace").joinpath("assets/weather.py.txt").read_text("utf-8")


def jobs() -> tuple[Job, Job]:
    """The two jobs: a summary, whose answer copies phrases of the prompt, and an edit, whose answer copies nearly all of it."""
    text, code = document(), source_file()
    task = (
        "Rename the function `mean` to `average`, also where it is called, "
        "and give it a parameter `digits=1` that its result is rounded to."
    )
    asked = f"```python\n{code}```\n\n{task} Change nothing else. Answer with the whole file."  # last, or small models forget it
    return (
        Job(f"Summary of a text of {len(text.split())} words", "Summarize the following text.\n\n" + text),
        Job(f"Edit of a file of {len(code.splitlines())} lines: rename a function, add a parameter", asked, code),
    )


def coloured(output: RequestOutput) -> Text:
    """The text of the answer, with accepted draft tokens in colour."""
    text = Text()
    for piece, is_drafted in zip(output.pieces, output.from_draft, strict=True):
        text.append(piece, DRAFTED if is_drafted else "")
    return text


def run(llm: LLM, job: Job, max_tokens: int | None, console: Console) -> Comparison:
    """Decode a job plainly, then speculatively. On a terminal, both texts are shown as they are generated.

    `max_tokens` None means 200, or enough for the whole file in an edit. Raises BadInputError if the prompt does not fit.
    """
    prompt = llm.tokenizer.encode_chat([{"role": "user", "content": job.prompt}])
    llm.generate(prompt, SamplingParams(max_tokens=1))  # puts the prompt into the cache for both runs
    if max_tokens is None:
        max_tokens = SUMMARY_TOKENS if job.prediction is None else len(llm.tokenizer.encode(job.prediction)) * 5 // 4
    params = SamplingParams(max_tokens=max_tokens)
    outputs: list[RequestOutput] = []
    shown = ["", ""]
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        for side, name in enumerate(("none", None)):
            for piece in llm.stream(prompt, params, speculative_config=name, prediction=job.prediction):
                shown[side] += piece.text
                bodies = [_tail(text, console) for text in shown]
                live.update(_columns(_panel("plain", bodies[0]), _panel(llm.speculative_config.method, bodies[1])))
                outputs += [piece.output] if piece.output else []
    return Comparison(job.title, outputs[0], outputs[1])


def _tail(text: str, console: Console) -> Text:
    """The last lines of a text that fit into one half of the terminal."""
    lines = Text(text).wrap(console, max(1, console.width // 2 - 2))
    return Text("\n").join(lines[-max(1, console.height - FRAME_LINES) :])


def _panel(title: str, body: RenderableType, footer: str = "") -> Panel:
    return Panel(body, title=Text(title), subtitle=footer or None, padding=0)


def _columns(left: RenderableType, right: RenderableType) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(left, right)
    return grid


def render(compared: Comparison) -> Group:
    """Both answers side by side, a table of their figures, and whether they are identical."""
    plain, fast = compared.plain, compared.fast
    texts = _columns(
        _panel("plain", Text(plain.text), f"{plain.tokens_per_second:.1f} tokens/s"),
        _panel(fast.drafter, coloured(fast), f"{fast.tokens_per_second:.1f} tokens/s"),
    )
    same = Text("identical", "bold green") if compared.is_identical else Text("NOT IDENTICAL", "bold red")
    verdict = Text.assemble(same, ". ", ("Green", DRAFTED), ": accepted draft tokens.", f" Note: {LOOPS}." if compared.loops else "")
    return Group(Text(compared.title, "bold"), texts, _figures(compared), verdict, "")


def _figures(compared: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", overflow="fold")
    for heading in ("tokens", "tokens/s", "tokens per step", "accepted", "speedup"):
        table.add_column(heading, justify="right")
    for output in (compared.plain, compared.fast):
        is_plain = output is compared.plain
        table.add_row(
            "plain" if is_plain else SpecText(output.drafter),
            str(len(output.token_ids)),
            f"{output.tokens_per_second:.1f}",
            f"{output.tokens_per_step:.2f}",
            "" if is_plain else f"{output.acceptance_rate:.0%}",
            "" if is_plain else f"{compared.speedup:.2f}x",
        )
    return table


def summary(compared: Comparison) -> dict[str, Any]:
    """The figures of a comparison as a JSON document; `speedup` is the ratio of decoding speeds (tokens/s)."""

    def side(output: RequestOutput) -> dict[str, Any]:
        return {
            "drafter": output.drafter,
            "tokens": len(output.token_ids),
            "tokens_per_second": round(output.tokens_per_second, 2),
            "tokens_per_step": round(output.tokens_per_step, 3),
        }

    return {
        "text": compared.fast.text,
        "identical": compared.is_identical,
        "speedup": round(compared.speedup, 3),
        "plain": side(compared.plain),
        "speculative": side(compared.fast),
        "loops": compared.loops,
    }
