"""OpenAI's own client: the loop by hand, streamed."""

import sys

from agent_tools import QUESTION, TOOLS, report, run
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="none")
messages = [{"role": "user", "content": QUESTION}]
for _ in range(6):
    with client.chat.completions.stream(model="default", messages=messages, tools=TOOLS) as stream:
        message = stream.get_final_completion().choices[0].message
    messages.append(message)
    for call in message.tool_calls or ():
        messages.append({"role": "tool", "tool_call_id": call.id, "content": run(call.function.name, call.function.arguments)})
    if not message.tool_calls:
        break
report(message.content)
