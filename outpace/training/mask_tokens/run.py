"""`outpace train blanks`: from texts to a folder with the embeddings of mask tokens and their metrics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outpace.drafters.blanks.drafter import WHERE
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.heads.mask_tokens import MAX_BLANKS
from outpace.training.acceptance import accuracies
from outpace.training.data.texts import Text, digest, held_out
from outpace.training.held_out import NOT_OWN, accuracy_table
from outpace.training.loop import LoopSettings, train
from outpace.training.mask_tokens.frozen import FrozenModel
from outpace.training.mask_tokens.simulate import DRAFT_BRANCHES, DRAFT_NODES, decode
from outpace.training.mask_tokens.task import BlanksSettings, BlanksTask
from outpace.training.processes import processes
from outpace.training.record import check_tensorboard, draw_curves
from outpace.training.stages import Run, Source, llm_of, texts_of

MAX_MEASURED_TOKENS = 4096  # of held-out answers
DRAFT_SIZES = (1, 2, 4, 6, 10)  # draft tokens per step for the expected speedup
OWN_SHARE = 0.9  # least share of tokens that the model, here in another precision, predicts itself, for texts to count as its own


@dataclass(frozen=True)
class Worth:
    """Metrics of mask tokens on held-out texts. accuracies [m][10]: top-1 to top-10; acceptance: tokens per step by the drafter's option
    `after`, None for texts that the model did not write itself; acceptance_by_size: by number of draft tokens per step, after=root."""

    num_texts: int
    num_rows: int
    accuracies: list[list[float]]
    acceptance: dict[str, float] | None
    acceptance_by_size: dict[str, float] | None = None


def train_blanks(source: Source, out: Path, settings: BlanksSettings, loop: LoopSettings, resume: bool = False) -> DraftHeads:
    """Train mask tokens and save them in `out`. Raises BadInputError before the first step for unsuitable data or settings."""
    if not 1 <= settings.count <= MAX_BLANKS or settings.num_anchors < 1:
        raise BadInputError(f"training needs 1 to {MAX_BLANKS} mask tokens after 1 or more positions of a text")
    check_tensorboard(loop.tensorboard)
    run = Run.of(out, "blanks", source, [settings, loop], resume)
    texts = _texts(source, run)
    run.begin()
    model = FrozenModel.of(source.model, processes().device)
    apart = held_out([text.id for text in texts])
    train_texts, measured = ([text for text in texts if (text.id in apart) == is_apart] for is_apart in (False, True))
    start = model.embeddings.float().mean(dim=0).repeat(settings.count, 1)
    task = BlanksTask(model, train_texts, measured, start, settings, loop.seed)
    num_steps = train(task, loop, out)
    draw_curves(out)
    shape = {"count": settings.count, "temperatures": task.calibrate()}
    record = {
        "num_texts": len(texts),
        "num_tokens": sum(len(text.token_ids) for text in texts),
        "num_steps": num_steps,
        **asdict(loop),
        "num_anchors": settings.num_anchors,
        "rank": settings.rank,
        "held_out": asdict(measure(task, measured)),
        "data": digest(texts),
    }
    heads = DraftHeads("blanks", model.base, shape, task.tensors(), None, record)
    heads.save_pretrained(out)
    return heads


def _texts(source: Source, run: Run) -> list[Text]:
    """Read the texts; the LLM that reads them, or writes their answers, is freed before this returns."""
    if source.data.is_dir():
        raise BadInputError(f"mask tokens are trained on texts, but {source.data} is a folder; pass the file with the answers")
    return texts_of(source, run, llm_of(source))


def measure(task: BlanksTask, texts: Sequence[Text]) -> Worth:
    """Metrics of the mask tokens on the first of these texts, up to MAX_MEASURED_TOKENS tokens."""
    ends = list(itertools.accumulate(len(text.token_ids) for text in texts))
    texts = texts[: max(1, sum(end <= MAX_MEASURED_TOKENS for end in ends))]
    ranks, confidences = task.predictions(texts)
    starts = [0, *itertools.accumulate(len(text.token_ids) for text in texts)]
    acceptance = sizes = None
    if task.own_share(texts) >= OWN_SHARE:
        acceptance = {after: round(decode(starts, ranks, confidences, after).mean_length, 4) for after in WHERE}
        sizes = {str(size): round(decode(starts, ranks, confidences, "root", size).mean_length, 4) for size in DRAFT_SIZES}
    shares = [[round(share, 4) for share in blank] for blank in accuracies(ranks)]
    return Worth(len(texts), len(ranks), shares, acceptance, sizes)


def tables(heads: DraftHeads) -> list[Any]:
    """The metrics of a training run for people: accuracies of each mask token, and the expected acceptance length."""
    worth = Worth(**heads.training["held_out"])
    table = accuracy_table(f"{worth.num_rows:,} positions of {worth.num_texts}", "mask token", worth.accuracies)
    if worth.acceptance is None:
        return [table, NOT_OWN]
    lengths = ", ".join(f"{length:.2f} with after={after}" for after, length in worth.acceptance.items())
    return [table, f"Expected tokens per step, {DRAFT_NODES} draft tokens per step, {DRAFT_BRANCHES} branches: {lengths}"]
