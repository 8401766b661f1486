"""The training loop of all kinds. On a CPU a seed gives the same result, whether or not the run was interrupted and resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.progress import meter
from outpace.training.checkpoint import restore, save_checkpoint
from outpace.training.processes import processes
from outpace.training.record import Record

Figures = Mapping[str, float]


class Task(Protocol):
    """What the loop trains: a module and its loss on a batch of items (rows or texts, by number)."""

    module: torch.nn.Module
    num_items: int
    device: torch.device

    def loss(self, items: Array) -> tuple[torch.Tensor, Figures]:
        """(loss to minimize, metrics to show) of these items."""
        ...

    def evaluate(self) -> Figures:
        """Metrics on the held-out part."""
        ...


@dataclass(frozen=True)
class LoopSettings:
    """Settings of AdamW and the loop. The learning rate rises over `warmup_share` of the steps, then follows a cosine down to zero.
    `start_from`: the folder of earlier heads to continue from, or "shipped" (start.py)."""

    epochs: int = 2
    batch_size: int = 512
    learning_rate: float = 1e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    seed: int = 0
    record_steps: int = 20
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False
    start_from: str | None = None

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate of step 0 to num_steps - 1."""
        warmup = max(1, math.ceil(self.warmup_share * num_steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def train(task: Task, settings: LoopSettings, folder: Path) -> int:
    """Train to the end and return the number of steps; resumes from the checkpoint in `folder` if there is one.

    Writes metrics.jsonl and checkpoints to `folder`. Of several processes only the first returns; the others exit here. Raises
    BadInputError if there are no items.
    """
    if not task.num_items:
        raise BadInputError("there is nothing to train on")
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps_per_epoch = -(-task.num_items // settings.batch_size)
    num_steps = settings.epochs * steps_per_epoch
    first = restore(folder / "checkpoints", task.module, optimizer)
    processes().wait()
    batches = _batches(task.num_items, settings, first)
    if not processes().is_first:
        for step, items in batches:
            _step(task, optimizer, items, settings, settings.rate(step, num_steps))
        processes().part()
    record, saved_at = Record(folder, first, settings.tensorboard), time.monotonic()
    with meter("training", num_steps, first) as show, record:
        for step, items in batches:
            epoch, place = divmod(step, steps_per_epoch)
            figures = _step(task, optimizer, items, settings, settings.rate(step, num_steps))
            show(step + 1, _line(figures))
            done, ends_epoch = step + 1, place + 1 == steps_per_epoch
            if done % settings.record_steps == 0 or ends_epoch:
                record.add(done, epoch, figures)
            if ends_epoch:
                record.add(done, epoch, {f"held_out_{name}": value for name, value in task.evaluate().items()})
            if done == num_steps or time.monotonic() - saved_at >= settings.checkpoint_seconds:
                record.flush()
                save_checkpoint(folder / "checkpoints", done, task.module, optimizer)
                saved_at = time.monotonic()
    processes().part()
    return num_steps


def _step(task: Task, optimizer: torch.optim.Optimizer, items: Array, settings: LoopSettings, rate: float) -> Figures:
    """Run one optimizer step and return the metrics of its batch. Raises BadInputError if the loss is not finite."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    mine, weight = processes().share(items)
    with torch.autocast(task.device.type, torch.bfloat16, enabled=task.device.type == "cuda"):
        loss, figures = task.loss(mine)
    value = loss.item()
    if not math.isfinite(value):
        raise BadInputError(f"the loss is {value}: try a smaller --learning-rate")
    optimizer.zero_grad(set_to_none=True)
    (loss * weight).backward()
    processes().add_gradients(task.module)
    torch.nn.utils.clip_grad_norm_(task.module.parameters(), settings.max_gradient_norm)
    optimizer.step()
    return {"loss": value, "learning_rate": rate, **figures}


def _batches(num_items: int, settings: LoopSettings, first: int) -> Iterator[tuple[int, Array]]:
    """(step, its items) for every step from `first` on."""
    steps_per_epoch = -(-num_items // settings.batch_size)
    for epoch in range(first // steps_per_epoch, settings.epochs):
        order = _order(num_items, settings.seed, epoch)
        for place in range(max(0, first - epoch * steps_per_epoch), steps_per_epoch):
            yield epoch * steps_per_epoch + place, order[place * settings.batch_size : (place + 1) * settings.batch_size]


def _order(num_items: int, seed: int, epoch: int) -> Array:
    """The items of an epoch, shuffled."""
    return np.random.default_rng([seed, epoch]).permutation(num_items)


def _line(figures: Figures) -> str:
    """The metrics as text for the progress bar."""
    return " ".join(f"{name} {value:.3g}" for name, value in figures.items() if name != "learning_rate")
