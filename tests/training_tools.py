"""A training run that is killed with SIGKILL, for tests of --resume."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

KILLED_AT_A_CHECKPOINT = """
from outpace.training import loop
save, calls = loop.save_checkpoint, []
def killed(folder, step, module, optimizer):
    save(folder, step, module, optimizer)
    calls.append(step)
    if len(calls) == 3:
        (folder / f'.step-{step + 1:08d}.1.tmp').mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
loop.save_checkpoint = killed
"""


def run_killed(code: str) -> None:
    """Run Python code in a process of its own, with as many threads as here; it must kill itself."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    whole = f"import os, signal\nfrom pathlib import Path, PosixPath\n{code}"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == -9, done.stderr[-2000:]
