"""The command `outpace train medusa`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from outpace.cli.options import AsJson, Model, Precision, Target, Threads
from outpace.cli.reporting import needing

if TYPE_CHECKING:
    pass
from outpace.cli.train.shared import Data, DraftVocab, Generate, LearningRate, MaxTokens, Out, Resume, StartFrom, TensorBoard, show


def medusa(
    data: Data,
    out: Out,
    model: Model = "default",
    generate: Generate = False,
    resume: Resume = False,
    max_tokens: MaxTokens = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every row is seen.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 512,
    learning_rate: LearningRate = 1e-3,
    num_heads: Annotated[int, typer.Option(min=1, max=16, help="Tokens guessed ahead.")] = 4,
    num_layers: Annotated[int, typer.Option(min=1, max=8, help="Blocks a head.")] = 1,
    num_draft_vocab: DraftVocab = 16384,
    lm_head: Annotated[
        Literal["shared", "own"], typer.Option(help="shared: the model's own; own: each head trains one, much larger on disk.")
    ] = "shared",
    start_from: StartFrom = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same heads on a CPU.")] = 0,
    tensorboard: TensorBoard = False,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Train Medusa heads: small networks that guess the tokens after the next one. The model itself is not changed.

    Example: `outpace train medusa --data prompts.jsonl --generate --out heads`, then `outpace chat --drafter medusa:heads`
    """
    with needing("train", "training"):
        from outpace.training.loop import LoopSettings
        from outpace.training.medusa.module import MedusaSettings
        from outpace.training.medusa.run import tables, train_medusa
        from outpace.training.stages import Source
    source = Source(model, data, generate, max_tokens, target, precision, threads)
    loop = LoopSettings(epochs, batch_size, learning_rate, seed=seed, tensorboard=tensorboard, start_from=start_from)
    shape = MedusaSettings(num_heads, num_layers, num_draft_vocab or None, lm_head)
    helper = train_medusa(source, out, shape, loop, resume)
    show(helper, out, tables(helper), f"The heads are in {out}; use them with --drafter medusa:{out}", as_json)
