"""The command train draft."""

from __future__ import annotations

from typing import Annotated

import typer

from outpace.cli.options import AsJson, Model, Precision, Target, Threads
from outpace.cli.reporting import needing
from outpace.cli.train.shared import Data, Generate, LearningRate, MaxTokens, Out, Resume, TensorBoard, show


def draft(
    data: Data,
    out: Out,
    model: Model = "default",
    generate: Generate = False,
    resume: Resume = False,
    max_tokens: MaxTokens = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every text is seen.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step, prompts and padding included.")] = 1024,
    learning_rate: LearningRate = 1e-3,
    num_layers: Annotated[int, typer.Option(min=1, help="Layers of the model that the draft model begins with.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same model on a CPU.")] = 0,
    tensorboard: TensorBoard = False,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Distil a draft model: the first layers of the model, trained to go on as all of them would. An ordinary transformers folder.

    Example: `outpace train draft --data prompts.jsonl --generate --out small`, then `outpace chat --drafter draft_model:small`
    """
    with needing("train", "training"):
        from outpace.training.draft.run import tables, train_draft
        from outpace.training.draft.task import DraftSettings
        from outpace.training.loop import LoopSettings
        from outpace.training.stages import Source
    source = Source(model, data, generate, max_tokens, target, precision, threads)
    loop = LoopSettings(epochs, 1, learning_rate, seed=seed, tensorboard=tensorboard)
    record = train_draft(source, out, DraftSettings(num_layers, batch_size), loop, resume)
    show(record, out, tables(record), f"The draft model is in {out}; use it with --drafter draft_model:{out}", as_json)
