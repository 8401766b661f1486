"""instructor: an answer as an object, by a call of one function."""

import sys

import instructor
from agent_tools import calls, report
from openai import OpenAI
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    celsius: float


client = instructor.from_openai(OpenAI(base_url=sys.argv[1], api_key="none"))
found = client.chat.completions.create(
    model="default", response_model=Weather, messages=[{"role": "user", "content": "18 degrees in Paris"}]
)
calls.append(["Weather", found.city, found.celsius])
report("")
