"""What users import, and which settings are refused."""

import ast
import importlib
import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import outpace
from outpace import BadInputError, EngineConfig, OutpaceError, SamplingParams, SpeculativeConfig

ROOT = Path(outpace.__file__).parents[1]


def isort_key(name: str) -> tuple[int, str]:
    """The order ruff asks for: CONSTANTS, Classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", ["outpace", "outpace.testing"])
def test_all_is_sorted_and_every_name_exists(module):
    found = importlib.import_module(module)
    assert found.__all__ == sorted(found.__all__, key=isort_key)
    assert len(set(found.__all__)) == len(found.__all__)
    for name in found.__all__:
        assert getattr(found, name) is not None


def test_all_is_complete():
    """The list, the table of lazy imports and what type checkers see are the same names from the same places."""
    source = ast.parse(Path(outpace.__file__).read_text("utf-8"))
    (block,) = [node for node in source.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == outpace._WHERE
    assert set(outpace.__all__) == set(outpace._WHERE)
    for name, module in outpace._WHERE.items():
        assert getattr(outpace, name) is getattr(importlib.import_module(module), name)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        outpace.Nothing  # noqa: B018
    assert not hasattr(outpace, "nothing")
    assert outpace.__version__.count(".") >= 2


def test_dir_shows_the_public_names_before_they_are_imported():
    code = "import outpace, sys; print(*dir(outpace)); print('outpace.llm' in sys.modules or 'numpy' in sys.modules)"
    shown, is_heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    names = [name for name in shown.split() if not name.startswith("__")]
    assert sorted(names) == sorted(outpace.__all__)
    assert "__version__" in shown.split()
    assert is_heavy == "False"


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "outpace", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout
    assert subprocess.run([sys.executable, "-m", "outpace", "nonsense"], capture_output=True, cwd=ROOT).returncode == 2


def test_errors():
    assert (OutpaceError.exit_code, BadInputError.exit_code) == (1, 2)
    assert issubclass(BadInputError, OutpaceError)
    assert issubclass(BadInputError, ValueError)


# ---- SamplingParams


def test_defaults_are_plain_greedy_decoding():
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0, 0, 1, 0)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1, 0, 0)
    assert (params.seed, params.logprobs, params.stop, params.stop_token_ids) == (None, None, (), ())


GOOD = {
    "temperature": [0, 0.0, 1e-6, 1, 100.0],
    "top_k": [-1, 0, 1, 10**9],
    "top_p": [1e-9, 0.5, 1, 1.0],
    "min_p": [0, 0.0, 0.5, 1.0],
    "repetition_penalty": [0.5, 1, 2.0],
    "presence_penalty": [-100, 0, 2.0],
    "frequency_penalty": [-2.0, 100],
    "min_tokens": [0, 128],
    "max_tokens": [1, 10**9],
    "n": [1, 16],
    "seed": [None, 0, 2**63 - 1],
    "logprobs": [None, 0, 100],
    "stop": ["x", ["a", "b"], ("a",), ()],
    "stop_token_ids": [(), [1, 2], (0,)],
    "logit_bias": [None, {}, {1: 2.0}],
    "allowed_token_ids": [None, [1], (0, 2)],
    "bad_words_ids": [(), [[1, 2], [3]]],
    "prompt_logprobs": [None, 0, 100],
    "skip_special_tokens": [True, False],
    "include_stop_str_in_output": [True, False],
}
BAD = {
    "temperature": [-0.1, 100.1, math.nan, math.inf, "1", None, True],
    "top_k": [-2, 1.5, "1", None],
    "top_p": [0, -1, 1.01, math.nan, "x"],
    "min_p": [-0.1, 1.1, math.nan],
    "repetition_penalty": [0, -1, math.inf, math.nan],
    "presence_penalty": [-101, 101, math.nan],
    "frequency_penalty": [-101, 101, None],
    "min_tokens": [-1, 1.0, 129],
    "max_tokens": [0, -1, 2.0, None],
    "seed": [-1, 2**63, 1.0, "1"],
    "logprobs": [-1, 101, 1.0],
    "prompt_logprobs": [-1, 101, 1.0],
    "allowed_token_ids": [[-1], ["a"], [1.0]],
    "bad_words_ids": [[[-1]], [["a"]]],
    "skip_special_tokens": [None, 1, "yes"],
    "include_stop_str_in_output": [None, 1, "yes"],
    "stop": ["", [""], ["a", ""], [1]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_good_sampling_params(name, value):
    SamplingParams(**{name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_sampling_params(name, value):
    with pytest.raises(BadInputError) as caught:
        SamplingParams(**{name: value})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_parameter_is_in_the_table():
    assert {field.name for field in fields(SamplingParams)} - GOOD.keys() == {"ignore_eos", "logits_processors", "structured"}


def test_stops_become_tuples():
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    assert SamplingParams(stop_token_ids=[1, 2]).stop_token_ids == (1, 2)


def test_min_tokens_may_not_pass_max_tokens():
    with pytest.raises(BadInputError, match=r"min_tokens \(9\) is larger than max_tokens \(8\)"):
        SamplingParams(min_tokens=9, max_tokens=8)


@pytest.mark.parametrize("name", ["temperature", "seed", "max_tokens"])
def test_params_are_frozen(name):
    with pytest.raises(AttributeError):
        setattr(SamplingParams(), name, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"stop_token_ids": ("x",)},
        {"stop_token_ids": (-1,)},
        {"logit_bias": {1: math.nan}},
        {"logit_bias": {1: math.inf}},
        {"max_tokens": True},
    ],
)
def test_values_that_cannot_work_are_refused(options):
    with pytest.raises(BadInputError):
        SamplingParams(**options)


# ---- SpeculativeConfig and EngineConfig


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (None, SpeculativeConfig("auto")),
        (True, SpeculativeConfig()),
        (False, SpeculativeConfig("none")),
        ("blind", SpeculativeConfig("blind")),
        (SpeculativeConfig("blind", 3), SpeculativeConfig("blind", 3)),
        ({}, SpeculativeConfig("auto")),
        ({"num_speculative_tokens": 3, "prompt_lookup_max": 5}, SpeculativeConfig("prompt_lookup:max_ngram=5", 3)),
        ({"method": "blind", "num_draft_tokens": 0}, SpeculativeConfig("blind", 0)),
        ({"method": "ngram", "num_speculative_tokens": 4}, SpeculativeConfig("prompt_lookup", 4)),
        ({"method": "ngram", "prompt_lookup_max": 5, "prompt_lookup_min": 2}, SpeculativeConfig("prompt_lookup:max_ngram=5:min_ngram=2")),
        ({"verifier": "typical"}, SpeculativeConfig(verifier="typical")),
    ],
)
def test_speculative_settings(value, want):
    assert SpeculativeConfig.of(value) == want


@pytest.mark.parametrize(
    "value", [{"methd": "blind"}, 3, ["blind"], {"num_draft_tokens": -1}, {"num_draft_tokens": 65}, {"num_draft_tokens": "3"}]
)
def test_bad_speculative_settings(value):
    with pytest.raises(BadInputError):
        SpeculativeConfig.of(value)


@pytest.mark.parametrize("name", ["max_num_seqs", "max_num_batched_tokens", "min_prefill_chunk", "max_model_len", "kv_cache_tokens"])
def test_engine_sizes(name):
    with pytest.raises(BadInputError, match=name):
        EngineConfig(**{name: 0})
    assert getattr(EngineConfig(**{name: 2}), name) == 2


def test_no_stored_prefixes_is_a_size_too():
    assert EngineConfig(prefix_cache_tokens=0).prefix_cache_tokens == 0
    with pytest.raises(BadInputError, match="prefix_cache_tokens"):
        EngineConfig(prefix_cache_tokens=-1)
