"""Answers the requests of a batch on a Ray cluster, by Ray Data: a pool of workers with a model each, and every batch of requests a task.

A worker that is lost is started anew and its tasks run again. Only the driver writes answers, and it drops a second one to a request.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext

from outpace.arrays import Array
from outpace.batch.local import answers as local_answers
from outpace.batch.requests import BatchAnswer, BatchRequest
from outpace.reason import explained

TASK_SIZE = 32  # requests in a task: what is lost with a worker, and how often answers are kept
AHEAD = 2  # tasks that a worker is given at once


class Worker:
    """A model that answers batches of pickled requests."""

    def __init__(self, arguments: Mapping[str, Any]):
        from outpace.llm import LLM

        self.llm = LLM(**arguments)

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        found = list(local_answers(self.llm, (pickle.loads(data) for data in batch["request"])))
        columns = {
            "key": [answer.key for answer in found],
            "answer": [json.dumps(answer.answer) for answer in found],
            "error": [answer.error for answer in found],
        }
        return {name: np.array(values, dtype=object) for name, values in columns.items()}


def answers(arguments: Mapping[str, Any], requests: Iterator[BatchRequest], num_workers: int | None, threads: int) -> Iterator[BatchAnswer]:
    """The answer of every request, task by task, on the cluster that RAY_ADDRESS names, else on this machine alone.

    `arguments` are those of LLM; each of the `num_workers` workers (by default as many as there are CPUs for) takes `threads` CPUs. All
    requests are held in memory.
    """
    with explained("Ray did not start"):
        ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    DataContext.get_current().enable_progress_bars = False
    size = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    rows = [{"request": pickle.dumps(request)} for request in requests]
    data = ray.data.from_items(rows, override_num_blocks=max(1, -(-len(rows) // TASK_SIZE)))
    pool = ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=AHEAD)
    own = {**arguments, "threads": threads}
    needs: dict[str, Any] = {"num_cpus": threads}
    if str(arguments["device"]).startswith("cuda"):
        needs["num_gpus"] = 1
    found = data.map_batches(Worker, fn_constructor_args=(own,), batch_size=None, compute=pool, **needs)
    for row in found.iter_rows():
        yield BatchAnswer(row["key"], json.loads(row["answer"]), row["error"])
