"""The command `outpace train draft`."""

from __future__ import annotations

from typing import Annotated

import typer

from outpace.cli.reporting import needing
from outpace.cli.train.shared import LearningRate, TensorBoard, TrainingOptions, training_command


@training_command()
def draft(
    options: TrainingOptions,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the texts.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step, including prompts and padding.")] = 1024,
    learning_rate: LearningRate = 1e-3,
    num_layers: Annotated[int, typer.Option(min=1, help="Layers of the draft model: the first ones of the model.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; on a CPU a seed gives the same draft model.")] = 0,
    tensorboard: TensorBoard = False,
) -> None:
    """Distill a draft model from the first layers of the model. The result is an ordinary transformers folder.

    Example: `outpace train draft --data prompts.jsonl --generate --out small`, then `outpace chat --drafter draft_model:small`
    """
    with needing("train", "training"):
        from outpace.training.draft.run import tables, train_draft
        from outpace.training.draft.task import DraftSettings
        from outpace.training.loop import LoopSettings
    loop = LoopSettings(epochs, 1, learning_rate, seed=seed, tensorboard=tensorboard)
    record = train_draft(options.source, options.out, DraftSettings(num_layers, batch_size), loop, options.resume)
    options.show(record, tables(record), "The draft model is", f"draft_model:{options.out}")
