"""Prompts, sampling parameters and speculative settings in every form that the API accepts, and the refusals of all others."""

from __future__ import annotations

import math

import numpy as np
import pytest
from api_tools import facts, params

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.errors import BadInputError
from outpace.params import SamplingParams

# ---- prompts


def test_empty_prompts(toy_llm):
    for prompts, message in (("", "the prompt is empty"), ([""], "the prompt is empty"), ([[]], "the prompt is empty"), ([], "no prompt")):
        with pytest.raises(BadInputError, match=message):
            toy_llm.generate(prompts)
    with pytest.raises(BadInputError, match="the prompt is empty"):
        toy_llm.chat([{"role": "user", "content": ""}])
    with pytest.raises(BadInputError, match="the conversation is empty"):
        toy_llm.chat([])
    with pytest.raises(BadInputError, match="outside the vocabulary"):
        toy_llm.generate([[1, 10**6]])
    assert not toy_llm.engine.has_unfinished


def test_a_wrong_prompt_among_good_ones_leaves_nothing(toy_llm):
    with pytest.raises(BadInputError):
        toy_llm.generate(["abc", "", "abc"], params())
    assert not toy_llm.engine.has_unfinished
    assert toy_llm._jobs == {}


@pytest.mark.parametrize("prompt", [(1, 2, 3), [np.int64(1), np.int64(2)], range(1, 3)])
def test_token_ids_in_other_types(toy_llm, prompt):
    assert toy_llm.generate(prompt, params(3))[0].prompt_token_ids == [int(token) for token in prompt]


@pytest.mark.parametrize(
    "value", [b"hello", bytearray(b"a"), None, {"role": "user"}, 5, 1.5, [None], [1.5], [b"a"], [[1, "a"]], [True], {"a"}, np.array(3)]
)
def test_prompts_of_a_wrong_type(toy_llm, value):
    for call in (toy_llm.generate, toy_llm.submit, lambda wrong: list(toy_llm.stream(wrong))):
        with pytest.raises(BadInputError, match=r"^prompts must be a text") as caught:
            call(value)
        assert "\n" not in str(caught.value)
    if value is not None:
        with pytest.raises(BadInputError, match=r"^prediction must be a text"):
            toy_llm.generate("hello", prediction=value)
    assert toy_llm._jobs == {}


@pytest.mark.parametrize("value", ["hello", b"hello", ["hello"], [b"a"], [1.5], {"role": "user", "content": "hello"}, None, 5])
def test_conversations_of_a_wrong_type(toy_llm, value):
    with pytest.raises(BadInputError, match="message"):
        toy_llm.chat(value, params(2))


def test_an_array_of_tokens(toy_llm):
    assert toy_llm.generate(np.array([1, 2, 3]), params(3))[0].prompt_token_ids == [1, 2, 3]


def test_rows_of_an_array_are_prompts(toy_llm):
    outputs = toy_llm.generate(np.array([[1, 2, 3], [4, 5, 6]]), params(3))
    assert [output.prompt_token_ids for output in outputs] == [[1, 2, 3], [4, 5, 6]]


# ---- sampling parameters


def test_sampling_params_by_name_as_a_dict_and_as_a_list(toy_llm):
    prompts = ["hello", "abc", "x"]
    each = [params(5, ignore_eos=True), {"max_tokens": 9, "temperature": 0.8, "seed": 4, "ignore_eos": True}, None]
    outputs = toy_llm.generate(prompts, sampling_params=each)
    wants = [toy_llm.generate(prompt, own)[0] for prompt, own in zip(prompts, each, strict=True)]
    assert [facts(output) for output in outputs] == [facts(want) for want in wants]
    assert [len(output.token_ids) for output in outputs][:2] == [5, 9]
    talk = [{"role": "user", "content": "hello"}]
    assert facts(toy_llm.chat(talk, sampling_params={"max_tokens": 7})[0]) == facts(toy_llm.chat([talk], [params(7)])[0])
    *_, last = toy_llm.stream("hello", sampling_params={"max_tokens": 7})
    assert facts(last.output) == facts(toy_llm.generate("hello", params(7))[0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([SamplingParams()], "sampling_params has 1 entries for 2 prompts"),
        ([], "sampling_params has 0 entries for 2 prompts"),
        ({"max_token": 5}, "sampling_params has no parameter 'max_token'; known: temperature, "),
        ({"max_tokens": "5"}, "max_tokens must be an integer"),
        (5, "sampling_params must be SamplingParams or a dict, not int"),
        ("greedy", "sampling_params must be SamplingParams or a dict, not str"),
        ([SamplingParams(), 0.5], "sampling_params must be SamplingParams or a dict, not float"),
    ],
)
def test_wrong_sampling_params(toy_llm, value, message):
    with pytest.raises(BadInputError, match=message):
        toy_llm.generate(["hello", "abc"], value)
    assert toy_llm._jobs == {}


def test_several_answers_to_a_prompt(toy_llm):
    asked = params(12, temperature=1.0, seed=7, n=3)
    outputs = toy_llm.generate(["hello", "abc"], [asked, params(5)])
    assert [(output.index, output.seed) for output in outputs] == [(0, 7), (1, 8), (2, 9), (0, 0)]
    for output in outputs[:3]:
        (alone,) = toy_llm.generate("hello", params(12, temperature=1.0, seed=output.seed))
        assert facts(alone) == facts(output)
    assert len({output.text for output in outputs[:3]}) == 3
    assert len({output.seed for output in toy_llm.generate("hello", params(3, temperature=1.0, n=4))}) == 4
    assert toy_llm._jobs == {}


def test_further_answers_wait_until_the_prompt_is_in_the_cache(toy_llm, monkeypatch):
    seen, add = [], toy_llm.engine.add
    monkeypatch.setattr(toy_llm.engine, "add", lambda request: seen.append(toy_llm.engine.metrics.num_prompt_tokens) or add(request))
    toy_llm.generate("a prompt of some length", params(5, n=4))
    assert seen == [0, 22, 22, 22]


def test_several_answers_in_a_stream(toy_llm):
    asked = params(12, temperature=1.0, seed=7, n=3)
    texts, outputs = ["", "", ""], {}
    for piece in toy_llm.stream("hello", asked):
        texts[piece.index] += piece.text
        if piece.output is not None:
            outputs[piece.index] = piece.output
    wants = toy_llm.generate("hello", asked)
    assert texts == [want.text for want in wants]
    assert [facts(outputs[index]) for index in range(3)] == [facts(want) for want in wants]


def test_answers_whose_first_one_is_aborted_go_on(toy_llm):
    jobs = toy_llm.submit_all("hello", params(6, n=3))
    toy_llm.abort(jobs[0])
    toy_llm.abort(jobs[2])
    while not jobs[1].is_done:
        toy_llm.step()
    assert [job.output().finish_reason for job in jobs] == ["abort", "length", "abort"]
    toy_llm.abort(jobs[1])
    assert toy_llm._jobs == {}
    assert not toy_llm.engine.has_unfinished


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8])
def test_numpy_scalars_are_numbers(kind):
    names = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    found = SamplingParams(**dict.fromkeys(names, kind(1)), logit_bias={np.int32(3): kind(1)})
    assert found == SamplingParams(**dict.fromkeys(names, 1.0), logit_bias={3: 1.0})
    assert all(type(getattr(found, name)) is float for name in names)
    if issubclass(kind, np.integer):
        names = ("top_k", "min_tokens", "max_tokens", "n", "seed", "logprobs")
        found = SamplingParams(**dict.fromkeys(names, kind(2)), stop_token_ids=np.array([4, 5], kind), ignore_eos=np.bool_(True))
        assert found == SamplingParams(**dict.fromkeys(names, 2), stop_token_ids=(4, 5), ignore_eos=True)
        assert all(type(getattr(found, name)) is int for name in names)
        assert SpeculativeConfig(num_draft_tokens=kind(3)) == SpeculativeConfig(num_draft_tokens=3)
        assert EngineConfig(max_num_seqs=kind(3)) == EngineConfig(max_num_seqs=3)


def test_none_means_none():
    assert SamplingParams(stop=None, stop_token_ids=None, logits_processors=None, logit_bias=None) == SamplingParams()


WRONG = {
    "temperature": [None, "1", b"1", True, [0.5], np.array([0.5]), 1j],
    "top_p": ["x", None, np.float32("nan")],
    "top_k": [1.5, "1", None, True, np.float32(1)],
    "max_tokens": [None, "5", 2.0, True, [5]],
    "min_tokens": [None, False, "0"],
    "n": [0, -1, 1.0, None, True, "2"],
    "seed": ["1", 1.0, True, -1, 2**63],
    "logprobs": [True, 1.0, "1"],
    "stop": [5, b"x", [b"x"], [None], "", {"a": 1}, 1.5],
    "stop_token_ids": [5, "ab", [1.5], [True], ["1"], [-1], b"a"],
    "logit_bias": [
        5,
        [(1, 2.0)],
        {"1": 2.0},
        {1: "2"},
        {1: True},
        {1: math.nan},
        {1: math.inf},
        {1: 1e39},
        {1: -(10**400)},
        {1.5: 1.0},
        {-1: 1.0},
    ],
    "ignore_eos": [None, 1, "yes"],
    "logits_processors": [5, [5], "x", print],
    "structured": [{"kind": "json_object"}, "json_object"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_type_is_refused_by_the_name_of_its_parameter(name, value):
    with pytest.raises(BadInputError, match=f"^{name} ") as caught:
        SamplingParams(**{name: value})
    assert "\n" not in str(caught.value)


def test_the_seeds_of_all_answers_must_exist():
    SamplingParams(seed=2**63 - 4, n=4)
    with pytest.raises(BadInputError, match="leaves no room for 5 seeds"):
        SamplingParams(seed=2**63 - 4, n=5)


# ---- speculative settings


VLLM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}


def test_vllms_keys_in_the_constructor_and_in_a_call(make_toy):
    llm = make_toy(VLLM)
    assert llm.speculative_config == SpeculativeConfig("prompt_lookup:max_ngram=4", 5)
    assert llm.generate("abcabcabc", params(9))[0].drafter == "prompt_lookup:max_ngram=4"
    assert make_toy("none").generate("abcabcabc", params(9), speculative_config=VLLM)[0].drafter == "prompt_lookup:max_ngram=4"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"method": 5}, "method"),
        ({"method": None}, "method"),
        ({"method": ["ngram"]}, "method"),
        ({"verifier": None}, "verifier"),
        ({"num_draft_tokens": True}, "num_draft_tokens"),
        ({"num_speculative_tokens": 1.0}, "num_draft_tokens"),
        ({"prompt_lookup_max": "4"}, "prompt_lookup_max"),
        ({"prompt_lookup_max": 0}, "prompt_lookup_max"),
        ({"prompt_lookup_min": 1.5}, "prompt_lookup_min"),
        ({5: 6, "a": 7}, "unknown speculative setting 5"),
        (5, "speculative settings"),
        (b"none", "speculative settings"),
    ],
)
def test_wrong_speculative_settings(toy_llm, value, name):
    with pytest.raises(BadInputError, match=f"^{name}") as caught:
        toy_llm.generate("hello", speculative_config=value)
    assert "\n" not in str(caught.value)
    assert toy_llm._jobs == {}


def test_engine_settings_as_a_dict(make_toy):
    assert make_toy(engine={"max_num_seqs": 3}).engine.config == EngineConfig(max_num_seqs=3)
    for wrong, message in (({"max_seqs": 3}, "engine has no setting 'max_seqs'"), (5, "engine must be"), ({"max_num_seqs": 0}, "max_num")):
        with pytest.raises(BadInputError, match=message):
            make_toy(engine=wrong)


@pytest.mark.parametrize("value", ["3", 2.0, True, None])
@pytest.mark.parametrize("name", ["max_num_seqs", "max_num_batched_tokens", "max_draft_tokens", "min_prefill_chunk"])
def test_engine_sizes_are_integers(name, value):
    with pytest.raises(BadInputError, match=f"^{name} must be an integer"):
        EngineConfig(**{name: value})
