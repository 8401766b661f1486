"""The command train eagle."""

from __future__ import annotations

from typing import Annotated

import typer

from outpace.cli.options import AsJson, Model, Precision, Target, Threads
from outpace.cli.reporting import needing
from outpace.cli.train.shared import Data, DraftVocab, Generate, LearningRate, MaxTokens, Out, Resume, StartFrom, TensorBoard, show


def eagle(
    data: Data,
    out: Out,
    model: Model = "default",
    generate: Generate = False,
    resume: Resume = False,
    max_tokens: MaxTokens = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every text is seen.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a step.")] = 8,
    learning_rate: LearningRate = 1e-3,
    rounds: Annotated[int, typer.Option(min=1, max=8, help="Tokens guessed in a row in training, each from the guess before.")] = 3,
    feature_weight: Annotated[float, typer.Option(min=0, help="How much the distance to the model's own features counts.")] = 0.1,
    num_draft_vocab: DraftVocab = 16384,
    start_from: StartFrom = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same head on a CPU.")] = 0,
    tensorboard: TensorBoard = False,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Train a feature-level head: one layer that goes on from the model's last hidden state, token by token. The model is not changed.

    Example: `outpace train eagle --data prompts.jsonl --generate --out head`, then `outpace chat --drafter eagle:head`
    """
    with needing("train", "training"):
        from outpace.training.eagle.run import tables, train_eagle
        from outpace.training.eagle.task import EagleSettings
        from outpace.training.loop import LoopSettings
        from outpace.training.stages import Source
    source = Source(model, data, generate, max_tokens, target, precision, threads)
    loop = LoopSettings(epochs, batch_size, learning_rate, seed=seed, tensorboard=tensorboard, start_from=start_from)
    helper = train_eagle(source, out, EagleSettings(rounds, feature_weight, num_draft_vocab or None), loop, resume)
    show(helper, out, tables(helper), f"The head is in {out}; use it with --drafter eagle:{out}", as_json)
