"""Draw docs/pictures/ten-minutes.svg: the draft tree of docs/learn/ten-minutes.md, and the tokens per step to expect.

usage: python dev/pictures/pictures_ten_minutes.py       a test checks that the picture is that of the page's example
"""

from __future__ import annotations

import contextlib
import io
import re
from html import escape
from pathlib import Path
from typing import Any

from outpace.tree.draft import depths

DOCS = Path(__file__).parents[2] / "docs"
PAGE, OUT = DOCS / "learn" / "ten-minutes.md", DOCS / "pictures" / "ten-minutes.svg"
WIDTH, HEIGHT = 960, 420
INK, GREY, GREEN, RED, BLUE = "#222", "#777", "#1a7f37", "#b42318", "#0b5cad"
CURVES = {0.5: RED, 0.8: BLUE, 0.9: GREEN}  # probability that a guess is right -> colour
MAX_GUESSES, MAX_TOKENS = 12, 8
LEFT, RIGHT, TOP, BOTTOM = 590, 900, 90, 340  # of the chart


def example() -> dict[str, Any]:
    """The names that the Python blocks of the page define."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(block, names)
    return names


def text(x: float, y: float, words: str, colour: str = INK, size: int = 16, anchor: str = "middle", weight: str = "normal") -> str:
    """A line of text."""
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'


def line(start: tuple[float, float], end: tuple[float, float], colour: str, width: float = 1.5, dash: str = "") -> str:
    """A straight line."""
    style = f'stroke="{colour}" stroke-width="{width:g}"' + (f' stroke-dasharray="{dash}"' if dash else "")
    return f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" {style}/>'


def box(at: tuple[float, float], word: str, colour: str) -> str:
    """A token in a frame; `at` is its centre."""
    frame = f'<rect x="{at[0] - 42:g}" y="{at[1] - 18:g}" width="84" height="36" rx="6" fill="#fff" stroke="{colour}" stroke-width="2"/>'
    return frame + text(at[0], at[1] + 6, word, colour, 17)


def tree(names: dict[str, Any]) -> list[str]:
    """The draft of the example: accepted tokens green, rejected ones red, the target's own token blue."""
    draft, verdict, words = names["draft"], names["verdict"], names["words"]
    levels = depths(draft.parents)
    places: dict[int, tuple[float, float]] = {-1: (60, 130)}
    counts: dict[int, int] = {}
    for node, level in enumerate(levels):
        place = counts.get(level, 0)
        counts[level] = place + 1
        places[node] = (170 + 112 * level, 130 + 90 * place)
    own = (places[verdict.path[-1]][0] + 112, places[verdict.path[-1]][1])
    last = places[verdict.path[-1]]
    parts = [line(places[draft.parents[node]], places[node], GREY) for node in range(len(draft))] + [line(last, own, GREY, dash="5 4")]
    parts.append(box(places[-1], words[names["text"][-1]], INK))
    parts += [box(places[node], words[token], GREEN if node in verdict.path else RED) for node, token in enumerate(draft.token_ids)]
    parts.append(box(own, words[verdict.next_token], BLUE))
    total = len(verdict.path) + 1
    parts.append(text(30, 40, f"{len(draft)} draft tokens, one forward pass, {total} tokens of text", INK, 18, "start", "bold"))
    legend = ((GREEN, "accepted"), (RED, "rejected"), (BLUE, "the target's own token"))
    parts += [text(30, 335 + 26 * row, f"■ {meaning}", colour, 16, "start") for row, (colour, meaning) in enumerate(legend)]
    return parts


def curves(names: dict[str, Any]) -> list[str]:
    """Tokens per step by length of a chain."""

    def at(num_guesses: float, num_tokens: float) -> tuple[float, float]:
        x = LEFT + (RIGHT - LEFT) * num_guesses / MAX_GUESSES
        return x, BOTTOM - (BOTTOM - TOP) * num_tokens / MAX_TOKENS

    parts = [text(LEFT - 30, 40, "Tokens per step to expect", INK, 18, "start", "bold")]
    for tokens in range(0, MAX_TOKENS + 1, 2):
        parts += [line(at(0, tokens), at(MAX_GUESSES, tokens), "#ddd", 1), text(LEFT - 14, at(0, tokens)[1] + 5, str(tokens), GREY, 14)]
    parts += [text(at(k, 0)[0], BOTTOM + 22, str(k), GREY, 14) for k in range(0, MAX_GUESSES + 1, 2)]
    for a, colour in CURVES.items():
        points = " ".join("{:.1f},{:.1f}".format(*at(k, names["expected"](a, k))) for k in range(MAX_GUESSES + 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        end = at(MAX_GUESSES, names["expected"](a, MAX_GUESSES))
        parts.append(text(end[0] + 8, end[1] + 5, f"{a:.0%}", colour, 15, "start"))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 46, "guesses in a chain; colours: how often a guess is right", GREY, 15))
    return parts


def picture() -> str:
    """The whole picture as SVG."""
    names = example()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fafafa"/>'
    return "\n".join([head, ground, *tree(names), *curves(names), "</svg>", ""])


if __name__ == "__main__":
    OUT.write_text(picture(), "utf-8")
