"""What tests of training share: a run that is killed with SIGKILL, and decoding of what was kept apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from outpace.llm import LLM
from outpace.params import SamplingParams
from outpace.training.data.texts import choose, held_out, read_texts

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


def decoded_length(llm: LLM, answers: Path, max_tokens: int) -> float:
    """Tokens a step of the held-out texts of a run, each decoded as far as its answer goes, which must come out again."""
    texts, _ = choose(read_texts(answers, llm.tokenizer, 96, max_tokens), 256)
    apart = held_out([text.id for text in texts])
    num_tokens = num_steps = 0
    for text in texts:
        if text.id in apart:
            job = llm.submit(text.prompt_ids, SamplingParams(max_tokens=100))
            while job.request.num_output_tokens < len(text.token_ids):
                num_steps += len(llm.step())
            assert job.request.output_token_ids[: len(text.token_ids)] == text.token_ids
            num_tokens += len(text.token_ids)
            llm.abort(job)
    return num_tokens / num_steps
