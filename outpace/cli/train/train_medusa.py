"""The command `outpace train medusa`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from outpace.cli.reporting import needing
from outpace.cli.train.shared import DraftVocab, LearningRate, StartFrom, TensorBoard, TrainingOptions, training_command


@training_command()
def medusa(
    options: TrainingOptions,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 512,
    learning_rate: LearningRate = 1e-3,
    num_heads: Annotated[int, typer.Option(min=1, max=16, help="Number of heads: tokens predicted ahead.")] = 4,
    num_layers: Annotated[int, typer.Option(min=1, max=8, help="Blocks per head.")] = 1,
    num_draft_vocab: DraftVocab = 16384,
    lm_head: Annotated[
        Literal["shared", "own"], typer.Option(help="shared: use the model's LM head; own: train one per head, much larger on disk.")
    ] = "shared",
    start_from: StartFrom = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; on a CPU a seed gives the same heads.")] = 0,
    tensorboard: TensorBoard = False,
) -> None:
    """Train Medusa heads: small networks that predict the tokens after the next one. The model is not changed.

    Example: `outpace train medusa --data prompts.jsonl --generate --out heads`, then `outpace chat --drafter medusa:heads`
    """
    with needing("train", "training"):
        from outpace.training.loop import LoopSettings
        from outpace.training.medusa.module import MedusaSettings
        from outpace.training.medusa.run import tables, train_medusa
    loop = LoopSettings(epochs, batch_size, learning_rate, seed=seed, tensorboard=tensorboard, start_from=start_from)
    shape = MedusaSettings(num_heads, num_layers, num_draft_vocab or None, lm_head)
    heads = train_medusa(options.source, options.out, shape, loop, options.resume)
    options.show(heads, tables(heads), "The heads are", f"medusa:{options.out}")
