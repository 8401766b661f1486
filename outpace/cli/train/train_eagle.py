"""The command `outpace train eagle`."""

from __future__ import annotations

from typing import Annotated

import typer

from outpace.cli.reporting import needing
from outpace.cli.train.shared import DraftVocab, LearningRate, StartFrom, TensorBoard, TrainingOptions, training_command


@training_command()
def eagle(
    options: TrainingOptions,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the texts.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per step.")] = 8,
    learning_rate: LearningRate = 1e-3,
    rounds: Annotated[int, typer.Option(min=1, max=8, help="Tokens predicted in sequence in training, each from the one before.")] = 3,
    feature_weight: Annotated[float, typer.Option(min=0, help="Weight of the distance to the model's own features in the loss.")] = 0.1,
    num_draft_vocab: DraftVocab = 16384,
    start_from: StartFrom = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; on a CPU a seed gives the same head.")] = 0,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a feature-level head (EAGLE): one layer that continues the model's hidden states token by token. The model is not changed.

    Example: `outpace train eagle --data prompts.jsonl --generate --out head`, then `outpace chat --drafter eagle:head`
    """
    with needing("train", "training"):
        from outpace.training.eagle.run import tables, train_eagle
        from outpace.training.eagle.task import EagleSettings
        from outpace.training.loop import LoopSettings
    loop = LoopSettings(epochs, batch_size, learning_rate, seed=seed, tensorboard=tensorboard, start_from=start_from)
    settings = EagleSettings(rounds, feature_weight, num_draft_vocab or None)
    heads = train_eagle(options.source, options.out, settings, loop, options.resume)
    options.show(heads, tables(heads), "The head is", f"eagle:{options.out}")
