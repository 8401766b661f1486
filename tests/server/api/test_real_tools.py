"""Tools and completions on real models: `coder-0.5b`, whose format of calls is Qwen's, and the default model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product

import jsonschema
import numpy as np
import pytest
from openai import OpenAI
from server_tools import serving

from outpace.llm import LLM
from outpace.server import create_app

pytestmark = pytest.mark.real
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}}, "required": ["city"], "additionalProperties": False}
DEGREES = {"type": "object", "properties": {"celsius": {"type": "number"}}, "required": ["celsius"], "additionalProperties": False}
SCHEMAS = {"get_weather": CITY, "to_fahrenheit": DEGREES}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Get the current weather in a city.", "parameters": CITY}},
    {"type": "function", "function": {"name": "to_fahrenheit", "description": "Convert Celsius to Fahrenheit.", "parameters": DEGREES}},
]
QUESTION = [{"role": "user", "content": "How warm is it in Paris, in Fahrenheit? Use the tools."}]


@pytest.fixture(scope="module")
def coder() -> Iterator[OpenAI]:
    with LLM("coder-0.5b", "prompt_lookup") as llm:
        llm.target.fingerprint = ""  # no costs are measured
        with serving(create_app(llm)) as address:
            yield OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=600)


def ask(client: OpenAI, messages: list, **options):
    defaults = {"model": "default", "messages": messages, "tools": TOOLS, "max_tokens": 80, "temperature": 0}
    return client.chat.completions.create(**{**defaults, **options})


def test_an_agents_turns(coder):
    """The model finds its way from the weather to the temperature; that it does not come to an end is its size."""
    messages: list = [*QUESTION]
    called = []
    for _ in range(3):
        answer = ask(coder, messages, parallel_tool_calls=False)
        message = answer.choices[0].message
        messages.append(message)
        for call in message.tool_calls or ():
            assert answer.choices[0].finish_reason == "tool_calls"
            jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
            called.append(call.function.name)
            result = "18 degrees Celsius" if call.function.name == "get_weather" else "64.4 degrees Fahrenheit"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert called[0] == "get_weather"
    assert answer.speculative["tokens_per_step"] > 1.5  # drafting goes on inside calls


def test_one_seed_one_call_with_and_without_drafts(coder):
    for choice, seed in (("auto", 1), ("auto", 2), ("required", 3)):
        found = set()
        for speculative in (False, "prompt_lookup+recycling", "suffix"):
            answer = ask(coder, QUESTION, tool_choice=choice, seed=seed, temperature=0.8, extra_body={"speculative": speculative}).choices[
                0
            ]
            calls = [(call.function.name, call.function.arguments) for call in answer.message.tool_calls or ()]
            found.add((answer.message.content, tuple(calls), answer.finish_reason))
        assert len(found) == 1
        if choice == "required":
            assert calls


IN_TAGS = """{% if tools %}<|im_start|>system
Call functions like this, one after the other. Functions: {{ tools | tojson }}
EXAMPLE<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{{ m.tool_calls or "" }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""
EXAMPLES = {
    "qwen-tags": "<tool_call>\n<function=NAME>\n<parameter=ARGUMENT>\nvalue\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>NAME\n<arg_key>ARGUMENT</arg_key>\n<arg_value>value</arg_value>\n</tool_call>",
    "glm-dense": "<tool_call>NAME<arg_key>ARGUMENT</arg_key><arg_value>value</arg_value></tool_call>",
}


def test_calls_in_tags_with_a_real_vocabulary():
    """The model has not learnt these formats: the grammar leads it, across tokens that hold parts of several tags."""
    with LLM("coder-0.5b", "prompt_lookup") as llm:
        llm.target.fingerprint = ""
        with serving(create_app(llm)) as address:
            client = OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=600)
            for family, choice in product(EXAMPLES, ("required", "auto")):
                llm.tokenizer.chat_template = IN_TAGS.replace("EXAMPLE", EXAMPLES[family])
                found = set()
                for speculative in (False, "prompt_lookup+recycling"):
                    options = {"seed": 3, "temperature": 0.7, "max_tokens": 50, "extra_body": {"speculative": speculative}}
                    answer = ask(client, QUESTION, tool_choice=choice, parallel_tool_calls=False, **options).choices[0]
                    calls = [(call.function.name, call.function.arguments) for call in answer.message.tool_calls or ()]
                    found.add((answer.message.content, tuple(calls), answer.finish_reason))
                assert len(found) == 1
                assert calls or choice == "auto"
                for name, arguments in calls if answer.finish_reason != "length" else ():
                    jsonschema.validate(json.loads(arguments), SCHEMAS[name])


def test_the_middle_of_a_function(coder):
    options = {"model": "default", "max_tokens": 16, "temperature": 0}
    answer = coder.completions.create(**options, prompt="def square(x):\n    result =", suffix="\n    return result\n").choices[0]
    assert answer.text.startswith(" x * x\n")  # whether it stops there depends on the last bits of the weights


def test_the_log_probabilities_of_a_prompt_are_those_of_the_same_answer(llm):
    """Prefill computes what decoding computed; the last bits may differ between kernels."""
    with serving(create_app(llm)) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=600)
        start = llm.tokenizer.encode("The capital of France is")
        options = {"model": "default", "temperature": 0, "logprobs": 3}
        written = client.completions.create(**options, prompt=start, max_tokens=20, extra_body={"speculative": False}).choices[0]
        tokens = llm.tokenizer.encode(written.text, False)
        echo = client.completions.create(**options, prompt=[*start, *tokens], max_tokens=1, echo=True).choices[0]
    np.testing.assert_allclose(echo.logprobs.token_logprobs[len(start) : -1], written.logprobs.token_logprobs[: len(tokens)], atol=0.05)
    assert echo.logprobs.token_logprobs[0] is None
