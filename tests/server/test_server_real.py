"""Forms and predictions on the default model, by the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import pytest
from openai import OpenAI
from server_tools import serving

from outpace.server import create_app

pytestmark = pytest.mark.real
RECIPE = {
    "type": "object",
    "properties": {
        "dish": {"type": "string", "maxLength": 30},
        "minutes": {"type": "integer", "minimum": 1, "maximum": 600},
        "vegetarian": {"type": "boolean"},
        "course": {"enum": ["starter", "main", "dessert"]},
        "ingredients": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 1, "maxItems": 4},
    },
    "required": ["dish", "minutes", "vegetarian", "course", "ingredients"],
    "additionalProperties": False,
}
UNITS = "metre, inch, foot, yard, mile, gram, pound, ounce"


@pytest.fixture
def client(llm) -> Iterator[OpenAI]:
    with serving(create_app(llm)) as address:
        yield OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=600)


def test_answers_fit_their_schema(client):
    """Of random texts, drafted by a grammar and `auto`: all valid, and the first one as plain decoding writes it."""
    form = {"type": "json_schema", "json_schema": {"name": "recipe", "schema": RECIPE, "strict": True}}
    options = {"model": "default", "messages": [{"role": "user", "content": "Write down a recipe as JSON."}], "response_format": form}
    options |= {"temperature": 0.8, "max_completion_tokens": 600}  # a character may take four tokens
    answers = []
    for seed in (0, 100):
        answers += client.chat.completions.create(**options, seed=seed, n=8, extra_body={"speculative": "auto"}).choices
    assert len(answers) == 16
    for choice in answers:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), RECIPE)
    assert len({choice.message.content for choice in answers}) > 8
    plain = client.chat.completions.create(**options, seed=0, extra_body={"speculative": False})
    assert plain.choices[0].message.content == answers[0].message.content


def old_version(text: str) -> str:
    """The file before an edit: every ninth line differs, three lines are missing, three are extra."""
    lines = [f"{line}  # to be checked" if number % 9 == 4 else line for number, line in enumerate(text.splitlines())]
    del lines[15:18]
    return "\n".join([*lines[:30], "def gone():", "    pass", "", *lines[30:]])


def test_the_edit_of_a_file_with_its_old_text_as_prediction(client):
    """About 50 lines, a ninth of them changed. A model of this size does not carry out an edit of that length when told to (it comments
    on the file instead), so the roles are turned: what it writes is the new text, and the prediction is made from that by undoing edits."""
    question = f"Write a long Python file with one function for each of these units: {UNITS}. Give each a docstring. Write only code."
    options = {"model": "default", "messages": [{"role": "user", "content": question}], "temperature": 0, "max_completion_tokens": 300}
    plain = client.chat.completions.create(**options, extra_body={"speculative": False, "ignore_eos": True})
    text = plain.choices[0].message.content
    assert len(text.splitlines()) >= 40
    prediction = {"type": "content", "content": old_version(text)}
    fast = client.chat.completions.create(**options, prediction=prediction, extra_body={"speculative": "prediction", "ignore_eos": True})
    assert fast.choices[0].message.content == text
    assert 3 * fast.speculative["num_steps"] <= plain.speculative["num_steps"] == plain.usage.completion_tokens
    details = fast.usage.completion_tokens_details
    assert details.accepted_prediction_tokens > plain.usage.completion_tokens / 2
    assert 0 < details.rejected_prediction_tokens < plain.usage.completion_tokens / 2
