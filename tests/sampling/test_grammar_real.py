"""Structured output of the default model."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from grammar_tools import FORMS, PERSON, allowed

from outpace.params import SamplingParams, StructuredOutput
from outpace.sampling import grammar

SCHEMAS = [
    PERSON,
    {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome", "Oslo"]}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 99}, "minItems": 2, "maxItems": 4},
    {
        "type": "object",
        "properties": {
            "steps": {
                "type": "array",
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"do": {"type": "string", "pattern": "^[a-z ]{3,20}$"}, "cost": {"type": ["number", "null"]}},
                    "required": ["do", "cost"],
                    "additionalProperties": False,
                },
            },
            "date": {"type": "string", "format": "date"},
        },
        "required": ["steps", "date"],
        "additionalProperties": False,
    },
]
QUESTION = [{"role": "user", "content": "Tell me about a trip to the sea, as JSON."}]


@pytest.mark.real
@pytest.mark.parametrize("schema", SCHEMAS, ids=["person", "city", "numbers", "steps"])
def test_real_answers_fit_their_schema_with_any_drafter(llm, schema):
    """At temperature 0.8: all that ended are valid, and identical to plain decoding."""
    num_saved = 0
    for seed in range(3):
        params = SamplingParams(temperature=0.8, seed=seed, max_tokens=160, structured=StructuredOutput("json_schema", schema), logprobs=0)
        plain = llm.chat(QUESTION, params, speculative_config="none")[0]
        fast = llm.chat(QUESTION, params, speculative_config="suffix+recycling")[0]
        assert (fast.token_ids, fast.text, fast.finish_reason, fast.logprobs) == (
            plain.token_ids,
            plain.text,
            plain.finish_reason,
            plain.logprobs,
        )
        assert plain.finish_reason == "stop", plain.text
        jsonschema.validate(json.loads(plain.text), schema, format_checker=jsonschema.FormatChecker())
        num_saved += plain.stats.num_steps - fast.stats.num_steps
    assert num_saved > 0


@pytest.mark.real
def test_real_objects_are_json(llm):
    params = SamplingParams(max_tokens=120, structured=StructuredOutput("json_object"), temperature=0.8)
    outputs = [llm.chat(QUESTION, SamplingParams(**{**vars(params), "seed": seed}))[0] for seed in range(6)]
    complete = [json.loads(output.text) for output in outputs if output.finish_reason == "stop"]
    assert complete
    assert all(isinstance(answer, dict) for answer in complete)
    assert all(output.text.startswith("{") for output in outputs)


@pytest.mark.real
def test_applying_the_grammar_is_cheap(llm):
    """A row of 49,152 logits with a new mask, in the median over an answer; a pass of the model takes some 10 ms."""
    text = '{"name": "Anna Lind", "age": 41}'
    row, tokens = np.zeros(llm.target.capabilities.vocab_size, np.float32), llm.tokenizer.encode(text)
    medians = []
    for _ in range(5):  # the best of a few walks, each with masks of its own: the machine may be busy
        found = llm.grammars.processor(FORMS["schema"], llm.eos_token_ids)
        times = []
        for at in range(len(tokens)):
            started = time.thread_time()
            found.apply(row.copy(), tokens[:at])
            times.append(time.thread_time() - started)
        medians.append(sorted(times)[len(times) // 2])
    assert min(medians) < 3e-4
    assert grammar.SOURCE == "grammar"


@pytest.mark.real
def test_real_tokens_on_a_path_are_judged_as_if_committed(llm):
    """Tokens of several characters: forced tokens are forced on every way to the same place, wherever the cursor has been before."""
    form = StructuredOutput("json_schema", SCHEMAS[3])
    for seed in range(6):
        rng, walked = np.random.default_rng(seed), list[int]()
        found, fresh = (llm.grammars.processor(form, llm.eos_token_ids) for _ in range(2))
        while len(walked) < 25 and (tokens := sorted(allowed(found, walked) - llm.eos_token_ids)):
            assert (found.forced(walked) is not None) == (len(tokens) == 1)
            allowed(found, [*walked, int(rng.choice(tokens))])  # looked at, and left again
            walked.append(int(rng.choice(tokens)))
        for at, token in enumerate(walked):
            assert allowed(fresh) == allowed(found, walked[:at])
            fresh.commit([token])


@pytest.mark.real
def test_the_documents_run(llm, monkeypatch):
    """The Python of docs/server/structured-output.md and docs/drafters/prediction.md, with the model that is loaded already."""
    monkeypatch.setattr("outpace.llm.load", lambda *_: (llm.name, llm.target, llm.tokenizer, llm.eos_token_ids, llm.precision))
    docs = Path(__file__).parents[2] / "docs"
    for page in (docs / "server" / "structured-output.md", docs / "drafters" / "prediction.md"):
        (source,) = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        exec(compile(source, page.name, "exec"), {})
