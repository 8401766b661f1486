"""The prompts that come with outpace."""

from collections import Counter

import pytest

from outpace.bench.builtin import SETS, builtin_prompts, load_prompts
from outpace.errors import BadInputError

KINDS = {
    "builtin": dict.fromkeys(("summary", "question", "edit", "code", "chat", "translation"), 8),
    "builtin:code": dict.fromkeys(("edit", "test", "document", "port", "write", "explain"), 4),
}


@pytest.mark.parametrize("name", SETS)
def test_every_kind_is_there(name):
    workloads = builtin_prompts(name)
    assert Counter(workload.category for workload in workloads) == KINDS[name]
    assert (
        len({workload.id for workload in workloads}) == len({workload.messages[0]["content"] for workload in workloads}) == len(workloads)
    )
    for workload in workloads:
        (message,) = workload.messages
        assert workload.id.startswith(f"{workload.category}-")
        assert len(message["content"].split()) < 300
        assert workload.prediction is None or workload.prediction.strip() in message["content"]
    assert all(workload.prediction for workload in workloads if workload.category == "edit")


def test_coding_jobs_have_a_file_of_20_to_80_lines():
    for workload in builtin_prompts("builtin:code"):
        body = workload.messages[0]["content"].split("```")[1]
        assert 20 <= body.count("\n") <= 80, workload.id


@pytest.mark.parametrize("name", SETS)
def test_python_sources_compile(name):
    for workload in builtin_prompts(name):
        _, python, rest = workload.messages[0]["content"].partition("```python\n")
        if python:
            compile(rest.removesuffix("```"), workload.id, "exec")


def test_a_limit_takes_every_kind():
    assert Counter(workload.category for workload in load_prompts("builtin", 6)) == dict.fromkeys(KINDS["builtin"], 1)
    assert len(load_prompts("builtin:code", 7)) == 7


def test_an_unknown_set_is_refused():
    with pytest.raises(BadInputError, match="known: builtin, builtin:code"):
        load_prompts("builtin:nonsense")
