"""Do trained helpers gain in decoding what training said? The default model answers held-out prompts, and both figures stand side by side.

usage: python dev/training/train_serve_gap.py SHARDS LIMIT DRAFTER…

SHARDS are captured rows (RUN/shards of `outpace train`), a DRAFTER is such as medusa or eagle:RUN. The first LIMIT held-out texts are
decoded once on paper, as training does it (`training/replay.py`), and once by the model. Where the model now writes another text than was
captured, the figures are of different texts; so those that are the same are counted alone as well.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outpace import LLM, SamplingParams
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.progress import track
from outpace.training.data.shards import Rows
from outpace.training.replay import replay
from outpace.training.stages import split_texts


@dataclass(frozen=True)
class Decoded:
    """A held-out text's number, the tokens and steps of decoding it, and whether the text came out as it was captured."""

    number: int
    num_tokens: int
    num_steps: int
    is_same: bool


def paper(llm: LLM, rows: Rows, texts: Sequence[int], spec: str) -> float:
    """Tokens a step that training states."""
    drafter = create_drafter(spec, DrafterContext(llm.target))
    return replay(llm.target, drafter, rows, texts, drafter.num_draft_tokens).mean_length


def decoded(llm: LLM, rows: Rows, texts: Sequence[int], spec: str) -> list[Decoded]:
    """The model itself, text by text."""
    found = []
    for number in track(texts, len(texts), spec):
        begin, first, end = (int(places[at]) for places, at in ((rows.starts, number), (rows.answers, number), (rows.starts, number + 1)))
        prompt, params = rows.inputs[begin : first + 1].tolist(), SamplingParams(max_tokens=end - first)
        (output,) = llm.generate(prompt, params, speculative_config=spec)
        is_same = output.token_ids == rows.tokens[first:end].tolist()
        found.append(Decoded(number, len(output.token_ids), output.stats.num_steps, is_same))
    return found


def tokens_a_step(texts: Sequence[Decoded]) -> float:
    """Over all of them."""
    return sum(text.num_tokens for text in texts) / sum(text.num_steps for text in texts)


def main(shards: Path, limit: int, drafters: Sequence[str]) -> None:
    """Two lines a drafter."""
    rows, llm = Rows(shards), LLM("default", "none")
    held_out = split_texts(rows)[1][:limit].tolist()
    for spec in drafters:
        texts = decoded(llm, rows, held_out, spec)
        same = [text for text in texts if text.is_same]
        for which, chosen in {"held-out texts": texts, "of them written as they were captured": same}.items():
            if chosen:
                on_paper = paper(llm, rows, [text.number for text in chosen], spec)
                print(f"{spec}, {len(chosen)} {which}: {on_paper:.3f} tokens a step on paper, {tokens_a_step(chosen):.3f} decoded")  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(str(__doc__))
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
