"""litellm: the loop by hand."""

import sys

import litellm
from agent_tools import QUESTION, TOOLS, report, run

messages = [{"role": "user", "content": QUESTION}]
for _ in range(6):
    answer = litellm.completion(model="openai/default", api_base=sys.argv[1], api_key="none", messages=messages, tools=TOOLS)
    message = answer.choices[0].message
    messages.append(message)
    for call in message.tool_calls or ():
        result = run(call.function.name, call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": result})
    if not message.tool_calls:
        break
report(message.content)
