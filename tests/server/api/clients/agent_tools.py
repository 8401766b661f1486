"""The tools of the test's agents, and the question."""

from __future__ import annotations

import json
import sys

QUESTION = "How warm is it in Paris, in Fahrenheit? Get the weather, then convert the temperature."
calls: list[list] = []


def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    calls.append(["get_weather", city])
    return f"18 degrees Celsius in {city}"


def to_fahrenheit(celsius: float) -> str:
    """Convert a temperature from Celsius to Fahrenheit."""
    calls.append(["to_fahrenheit", celsius])
    return f"{celsius * 9 / 5 + 32:.1f} degrees Fahrenheit"


def schema(name: str, kind: str, **more) -> dict:
    """The parameters of a function with one argument, in OpenAI's form."""
    return {"type": "object", "properties": {name: {"type": kind}}, "required": [name], "additionalProperties": False, **more}


TOOLS = [
    {"type": "function", "function": {"name": function.__name__, "description": function.__doc__, "parameters": schema(name, kind)}}
    for function, name, kind in ((get_weather, "city", "string"), (to_fahrenheit, "celsius", "number"))
]


def run(name: str, arguments: str) -> str:
    """The result of a call."""
    return {"get_weather": get_weather, "to_fahrenheit": to_fahrenheit}[name](**json.loads(arguments))


def report(answer: str) -> None:
    """What the agent did, for the test."""
    sys.stdout.write(json.dumps({"calls": calls, "answer": answer}) + "\n")
