"""Data-parallel training with one process per GPU, as started by `accelerate launch` and `torchrun`, or with a single process.

Each process takes a share of every batch, and the gradients are averaged by the sizes of the shares. This is nearly the step of one
process with the whole batch; only a mean over known labels becomes the mean of the shares' means. The first process alone writes files
and shows progress.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import torch

from outpace.arrays import Array
from outpace.errors import OutpaceError


@dataclass(frozen=True)
class Processes:
    """The processes of a run: `rank` is the index of this one among `count`; `device` is the one it trains on."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, items: Array) -> tuple[Array, float]:
        """(this process's items of a batch, their share of the batch). A process without items takes the first one with weight 0."""
        mine = items[self.rank :: self.count]
        return (mine, len(mine) / len(items)) if len(mine) else (items[:1], 0.0)

    def add_gradients(self, module: torch.nn.Module) -> None:
        """Replace every gradient by the sum over the processes."""
        if self.count == 1:
            return
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in parameters:  # the same ones in every process, or all_reduce would never return
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        whole = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        torch.distributed.all_reduce(whole)
        start = 0
        for parameter in parameters:
            parameter.grad = whole[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.count > 1:
            torch.distributed.barrier()

    def part(self) -> None:
        """Close the process group; all processes but the first exit here."""
        if self.count > 1:
            torch.distributed.destroy_process_group()
        if not self.is_first:
            raise SystemExit(0)


@cache
def processes() -> Processes:
    """The processes of this run. Raises OutpaceError if they cannot connect to each other."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    from accelerate import PartialState

    try:
        state = PartialState(cpu=not torch.cuda.is_available())
    except Exception as error:  # torch raises whatever its backends raise
        raise OutpaceError(f"the {os.environ['WORLD_SIZE']} training processes cannot connect to each other: {error}"[:400]) from error
    return Processes(state.process_index, state.num_processes, state.device)
