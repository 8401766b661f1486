"""The command `outpace train blanks`."""

from __future__ import annotations

from typing import Annotated

import typer

from outpace.cli.reporting import needing
from outpace.cli.train.shared import LearningRate, TensorBoard, Texts, TrainingOptions, training_command


@training_command(data=Texts)
def blanks(
    options: TrainingOptions,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the texts.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per step.")] = 8,
    learning_rate: LearningRate = 1e-2,
    count: Annotated[int, typer.Option(min=1, max=16, help="Consecutive mask tokens: tokens predicted ahead.")] = 4,
    num_anchors: Annotated[int, typer.Option(min=1, help="Positions of each text that mask tokens follow.")] = 64,
    rank: Annotated[int, typer.Option(min=0, max=64, help="Rank of weights in every layer that act on mask tokens only; 0: none.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; on a CPU a seed gives the same mask tokens.")] = 0,
    tensorboard: TensorBoard = False,
) -> None:
    """Train mask tokens: a few kilobytes of embeddings that take the place of tokens not written yet. The model is not changed.

    Example: `outpace train blanks --data prompts.jsonl --generate --out blanks`, then `outpace chat --drafter blanks:blanks`
    """
    with needing("train", "training"):
        from outpace.training.loop import LoopSettings
        from outpace.training.mask_tokens.run import tables, train_blanks
        from outpace.training.mask_tokens.task import BlanksSettings
    loop = LoopSettings(epochs, batch_size, learning_rate, seed=seed, tensorboard=tensorboard)
    heads = train_blanks(options.source, options.out, BlanksSettings(count, num_anchors, rank), loop, options.resume)
    options.show(heads, tables(heads), "The mask tokens are", f"blanks:{options.out}", num_lookahead=count)
