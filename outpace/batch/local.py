"""Answers the requests of a batch on this machine: as many as fit run at once, and the next one begins when one ends."""

from __future__ import annotations

from collections.abc import Iterator

from outpace.batch.requests import BatchAnswer, BatchRequest
from outpace.errors import OutpaceError
from outpace.llm import LLM
from outpace.outputs import Job, RequestOutput

QUEUED = 2  # requests handed to the engine, per place in its batch: prompts are ready when a place becomes free


def answers(llm: LLM, requests: Iterator[BatchRequest]) -> Iterator[BatchAnswer]:
    """The answer of every request, in the order in which they end. Requests that run are aborted when the iteration stops early."""
    limit = QUEUED * llm.engine.config.max_num_seqs
    running: dict[str, tuple[str, Job]] = {}
    try:
        while True:
            while len(running) < limit and (request := next(requests, None)) is not None:
                try:
                    job = _submit(llm, request)
                    running[job.request.id] = request.key, job
                except OutpaceError as error:
                    yield BatchAnswer(request.key, None, str(error))
            if not running:
                return
            llm.step()
            done = [name for name, (_, job) in running.items() if job.is_done]
            for _, job in running.values():
                job.steps.clear()  # nobody reads them
            for name in done:
                key, job = running.pop(name)
                output = job.output()
                llm.abort(job)
                yield _answer(key, output)
    finally:
        for _, job in reversed(running.values()):
            llm.abort(job)


def _submit(llm: LLM, request: BatchRequest) -> Job:
    prompt = request.prompt if isinstance(request.prompt, str) else llm.tokenizer.encode_chat(request.prompt)
    return llm.submit(prompt, request.sampling_params)


def _answer(key: str, output: RequestOutput) -> BatchAnswer:
    if output.error is not None:
        return BatchAnswer(key, None, f"the request failed: {output.error}")
    facts = {"text": output.text, "finish_reason": output.finish_reason, "seed": output.seed}
    return BatchAnswer(key, facts | {"prompt_tokens": len(output.prompt_token_ids), "completion_tokens": len(output.token_ids)})
