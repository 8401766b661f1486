"""The target writes the answers to train on, many at once, to a file that stays valid if the process is killed at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.outputs import Job
from outpace.params import SamplingParams
from outpace.progress import meter, note
from outpace.training.data.texts import Prompt


def answered(path: Path) -> set[str]:
    """The ids of the answers in a file. An incomplete last line, left by a killed writer, is cut off. Raises BadInputError for a damaged
    file."""
    if not path.exists():
        return set()
    whole = path.read_bytes()
    if not whole.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(whole.rfind(b"\n") + 1)
    lines = whole[: whole.rfind(b"\n") + 1].splitlines()
    try:
        return {json.loads(line)["id"] for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path} is damaged; delete it to write the answers again") from error


def write_answers(llm: LLM, prompts: Sequence[Prompt], path: Path, max_tokens: int) -> None:
    """Append a line {"id", "messages", "prompt_ids", "token_ids", "finish_reason"} for every prompt that is not answered yet.

    Prompts that leave no room for `max_tokens` tokens are skipped, with a note of their number.
    """
    done = answered(path)
    room = llm.engine.max_len - max_tokens
    todo = [prompt for prompt in prompts if prompt.id not in done and len(prompt.prompt_ids) <= room]
    num_long = sum(len(prompt.prompt_ids) > room for prompt in prompts)
    if num_long:
        note(f"skipped {num_long} prompts of more than {room} tokens")
    params = SamplingParams(max_tokens=max_tokens)
    start, num_tokens = time.monotonic(), 0
    with path.open("a", encoding="utf-8") as file, meter("answers", len(prompts), len(prompts) - len(todo)) as show:
        for count, (prompt, job) in enumerate(_finished(llm, todo, params), len(prompts) - len(todo) + 1):
            num_tokens += _write(file, prompt, job)
            show(count, f"{num_tokens:,} tokens, {num_tokens / (time.monotonic() - start):.0f} tokens/s")


def _finished(llm: LLM, prompts: Sequence[Prompt], params: SamplingParams) -> Iterator[tuple[Prompt, Job]]:
    """Every prompt with its answer, in the order they finish; the engine runs as many at once as it can."""
    waiting = iter(prompts)
    running: list[tuple[Prompt, Job]] = []
    try:
        while True:
            while len(running) < llm.engine.config.max_num_seqs and (prompt := next(waiting, None)) is not None:
                running.append((prompt, llm.submit(prompt.prompt_ids, params)))
            if not running:
                return
            llm.step()
            for prompt, job in [pair for pair in running if pair[1].is_done]:
                llm.abort(job)
                running.remove((prompt, job))
                yield prompt, job
    finally:
        for _, job in running:
            llm.abort(job)


def _write(file: TextIO, prompt: Prompt, job: Job) -> int:
    """Write one complete line, flush it, and return the number of tokens of the answer. Raises the error that ended the request."""
    request = job.request
    if request.error is not None:
        raise request.error
    row: dict[str, Any] = {"id": prompt.id, "messages": prompt.messages, "prompt_ids": prompt.prompt_ids}
    row |= {"token_ids": request.output_token_ids, "finish_reason": request.finish_reason}
    file.write(json.dumps(row) + "\n")
    file.flush()
    return request.num_output_tokens
