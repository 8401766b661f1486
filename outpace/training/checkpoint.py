"""Checkpoints of a training run: written atomically, only the latest one is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model

from outpace.errors import BadInputError
from outpace.files import replacing

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"


def save_checkpoint(folder: Path, step: int, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after `step` steps next to the older checkpoint, rename it when it is complete, then delete the older one."""
    whole = folder / f"step-{step:08d}"
    with replacing(whole) as written:
        written.mkdir(parents=True)
        save_model(module, str(written / WEIGHTS))
        torch.save(optimizer.state_dict(), written / OPTIMIZER)
    for other in [*folder.glob("step-*"), *folder.glob(".step-*.tmp")]:
        if other != whole:
            shutil.rmtree(other, ignore_errors=True)


def restore(folder: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the latest checkpoint and return its number of steps, 0 if there is none. Raises BadInputError for a damaged checkpoint."""
    found = max(folder.glob("step-*"), default=None)
    if found is None:
        return 0
    try:
        load_model(module, str(found / WEIGHTS))
        optimizer.load_state_dict(torch.load(found / OPTIMIZER, weights_only=True))
        return int(found.name.removeprefix("step-"))
    except Exception as error:  # torch and safetensors raise a dozen types
        raise BadInputError(f"the checkpoint {found} cannot be read ({error}); delete it to start the training over"[:400]) from error
