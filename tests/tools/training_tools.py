"""What tests of training share: a run that is killed with SIGKILL, and decoding of what was kept apart."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outpace.llm import LLM
from outpace.params import SamplingParams
from outpace.training import loop, stages
from outpace.training.data import answers, capture
from outpace.training.data.texts import choose, held_out, read_texts

FORKS = multiprocessing.get_context("forkserver")  # it imports once what takes seconds
FORKS.set_forkserver_preload(["torch", "transformers", "openvino", "outpace.training.stages", "outpace.training.loop"])


def kill_after(calls: int, module: Any, name: str, last_act: Callable[..., None]) -> None:
    """Let a function of a module work so many times; then this process dies, and leaves something half done."""
    function, done = getattr(module, name), []

    def killed(*arguments: Any) -> Any:
        done.append(function(*arguments))
        if len(done) == calls:
            last_act(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return done[-1]

    setattr(module, name, killed)


def die_in_answers() -> None:
    def half_a_line(file: Any, *_: Any) -> None:
        file.write('{"id": "p')
        file.flush()

    kill_after(20, answers, "_write", half_a_line)


def die_in_capture() -> None:
    stages.capture = functools.partial(capture.capture, shard_bytes=30_000)
    kill_after(2, capture, "add_shard", lambda folder, *_: (folder / "shard-00002.tmp").write_bytes(b"half"))


def die_in_training() -> None:
    kill_after(3, loop, "save_checkpoint", lambda folder, step, *_: (folder / f".step-{step + 1:08d}.1.tmp").mkdir())


def _run(die: Callable[[], None], train: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    die()
    train(*arguments)


def run_killed(die: Callable[[], None], train: Callable[..., Any], *arguments: Any) -> None:
    """Train in a process of its own that is prepared to die; it must do so."""
    process = FORKS.Process(target=_run, args=(die, train, arguments))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


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
