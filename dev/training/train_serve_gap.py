"""Compare the tokens per step that training predicts for trained heads with those of real decoding, on held-out prompts.

usage: python dev/training/train_serve_gap.py SHARDS LIMIT DRAFTER…

SHARDS are captured rows (RUN/shards of `outpace train`), a DRAFTER is a spec such as medusa or eagle:RUN. Decoding of the first LIMIT
held-out texts is simulated as in training (`training/replay.py`), then run by the model. If the model now writes another text than the
captured one, the two values belong to different texts; the identical texts are therefore also reported separately.
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
    """The number of a held-out text, the tokens and steps of its decoding, and whether it is identical to the captured text."""

    number: int
    num_tokens: int
    num_steps: int
    is_same: bool


def simulated(llm: LLM, rows: Rows, texts: Sequence[int], spec: str) -> float:
    """Tokens per step of simulated decoding, as reported by training."""
    drafter = create_drafter(spec, DrafterContext(llm.target))
    return replay(llm.target, drafter, rows, texts, drafter.num_draft_tokens).mean_length


def decoded(llm: LLM, rows: Rows, texts: Sequence[int], spec: str) -> list[Decoded]:
    """Decode the texts with the model, one at a time."""
    found = []
    for number in track(texts, len(texts), spec):
        begin, first, end = (int(places[at]) for places, at in ((rows.starts, number), (rows.answers, number), (rows.starts, number + 1)))
        prompt, params = rows.inputs[begin : first + 1].tolist(), SamplingParams(max_tokens=end - first)
        (output,) = llm.generate(prompt, params, speculative_config=spec)
        is_same = output.token_ids == rows.tokens[first:end].tolist()
        found.append(Decoded(number, len(output.token_ids), output.stats.num_steps, is_same))
    return found


def tokens_per_step(texts: Sequence[Decoded]) -> float:
    """Tokens per step over all texts."""
    return sum(text.num_tokens for text in texts) / sum(text.num_steps for text in texts)


def main(shards: Path, limit: int, drafters: Sequence[str]) -> None:
    """Print two lines per drafter."""
    rows, llm = Rows(shards), LLM("tiny", "none")
    held_out = split_texts(rows)[1][:limit].tolist()
    for spec in drafters:
        texts = decoded(llm, rows, held_out, spec)
        same = [text for text in texts if text.is_same]
        for which, chosen in {"held-out texts": texts, "of them identical to the captured text": same}.items():
            if chosen:
                expected = simulated(llm, rows, [text.number for text in chosen], spec)
                print(f"{spec}, {len(chosen)} {which}: {expected:.3f} tokens per step simulated, {tokens_per_step(chosen):.3f} decoded")  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(str(__doc__))
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
