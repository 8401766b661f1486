"""The line of an answer file for each line of the input: outpace's own form, or that of OpenAI's batches for their lines."""

from __future__ import annotations

from typing import Any

from outpace.batch.requests import BadLine, BatchRequest

BAD_REQUEST, FAILED = 400, 500  # HTTP's numbers, as OpenAI's batch files have them


def answered(request: BatchRequest, answer: dict[str, Any]) -> dict[str, Any]:
    """A line with its answer."""
    if not request.url:
        return {"line": request.number, "id": request.id, **answer}
    is_chat = request.url.endswith("/chat/completions")
    choice: dict[str, Any] = {"index": 0, "finish_reason": answer["finish_reason"]}
    choice |= {"message": {"role": "assistant", "content": answer["text"]}} if is_chat else {"text": answer["text"]}
    num_prompt, num_completion = answer["prompt_tokens"], answer["completion_tokens"]
    usage = {"prompt_tokens": num_prompt, "completion_tokens": num_completion, "total_tokens": num_prompt + num_completion}
    body = {"id": f"cmpl-{request.key}", "object": "chat.completion" if is_chat else "text_completion", "choices": [choice], "usage": usage}
    return _openai(request.number, request.id, {"status_code": 200, "request_id": request.key, "body": body}, None)


def failed(request: BatchRequest, error: str) -> dict[str, Any]:
    """A line whose request failed."""
    return _error(request.number, request.id, error, bool(request.url), FAILED)


def refused(line: BadLine) -> dict[str, Any]:
    """A line that asks for nothing that can be answered."""
    return _error(line.number, line.id, line.error, line.is_openai, BAD_REQUEST)


def _error(number: int, name: Any, error: str, is_openai: bool, status: int) -> dict[str, Any]:
    if not is_openai:
        return {"line": number, "id": name, "error": error}
    facts = {"message": error, "code": status}
    return _openai(number, name, {"status_code": status, "request_id": "", "body": {"error": facts}}, facts)


def _openai(number: int, name: Any, response: dict[str, Any], error: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": f"batch-{number}", "custom_id": name, "response": response, "error": error}
