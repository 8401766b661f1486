"""The command train blanks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.options import AsJson, Model, Precision, Target, Threads
from outpace.cli.reporting import needing
from outpace.cli.train.shared import Generate, LearningRate, MaxTokens, Out, Resume, TensorBoard, show

Data = Annotated[Path, typer.Option(help="JSON lines with prompts or whole texts, or a plain text.")]


def blanks(
    data: Data,
    out: Out,
    model: Model = "default",
    generate: Generate = False,
    resume: Resume = False,
    max_tokens: MaxTokens = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every text is seen.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a step.")] = 8,
    learning_rate: LearningRate = 1e-2,
    count: Annotated[int, typer.Option(min=1, max=16, help="Blanks in a row: tokens guessed ahead.")] = 4,
    num_anchors: Annotated[int, typer.Option(min=1, help="Places of each text that blanks are put behind.")] = 64,
    rank: Annotated[int, typer.Option(min=0, max=64, help="Of weights in every layer that act at blanks only; 0: none.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same blanks on a CPU.")] = 0,
    tensorboard: TensorBoard = False,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Train blanks: embeddings that stand for words not written yet, a few kilobytes. The model itself is not changed.

    Example: `outpace train blanks --data prompts.jsonl --generate --out blanks`, then `outpace chat --drafter blanks:blanks`
    """
    with needing("train", "training"):
        from outpace.training.loop import LoopSettings
        from outpace.training.mask_tokens.run import tables, train_blanks
        from outpace.training.mask_tokens.task import BlanksSettings
        from outpace.training.stages import Source
    source = Source(model, data, generate, max_tokens, target, precision, threads)
    loop = LoopSettings(epochs, batch_size, learning_rate, seed=seed, tensorboard=tensorboard)
    helper = train_blanks(source, out, BlanksSettings(count, num_anchors, rank), loop, resume)
    show(helper, out, tables(helper), f"The blanks are in {out}; use them with --drafter blanks:{out}", as_json)
