"""Draw docs/pictures/drafters/prediction.svg from a real run. usage: python dev/pictures/pictures_prediction.py"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text
from terminal_svg import TERMINAL_SVG

from outpace import LLM, SamplingParams
from outpace.cli import side_by_side
from outpace.drafters.prediction import prediction_usage

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "drafters" / "prediction.svg"
PREDICTED, OTHER, OWN = "bold green", "bold blue", "bold black on yellow"


def main() -> None:
    """Make the edit of `outpace demo`, plainly and with the old text as prediction."""
    llm, params = LLM("coder-0.5b", "suffix"), SamplingParams(max_tokens=240)
    job = side_by_side.jobs()[1]
    messages = [{"role": "user", "content": job.prompt}]
    plain = llm.chat(messages, params, speculative_config=False)[0]
    fast = llm.chat(messages, params, prediction=job.prediction)[0]
    if plain.token_ids != fast.token_ids:
        raise SystemExit("the two answers differ")
    answer = Text()
    for piece, source in zip(fast.pieces, fast.sources, strict=True):
        answer.append(piece, PREDICTED if "prediction" in source.split("+") else OTHER if source else OWN)
    accepted, rejected = prediction_usage(fast)
    legend = Text.assemble((" from the prediction ", PREDICTED), (" another draft token ", OTHER), (" the model's own ", OWN))
    steps = (
        f"{len(fast.token_ids)} tokens in {fast.stats.num_steps} steps, {plain.stats.num_steps} with plain decoding; the text is the same. "
    )
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    console.print(Group(answer, Text(), legend, Text(f"{steps}Prediction tokens: {accepted} accepted, {rejected} rejected.")))
    console.save_svg(str(OUT), title="an edit, with the old text as prediction", code_format=TERMINAL_SVG)


if __name__ == "__main__":
    main()
