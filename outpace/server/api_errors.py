"""Every error in OpenAI's format: {"error": {"message", "type", "param", "code"}}. No error reveals anything about the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.server.api.wire import json_response

TYPES = {  # OpenAI's error type for each status
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
PROMPT_FIELDS = {"/chat/completions": "messages", "/completions": "prompt", "/responses": "input"}  # what a 400 is about by default
FIELDS = {field.name for field in fields(SamplingParams)}
MEDIA = {"image": "images", "image_url": "images", "input_image": "images", "input_audio": "sounds", "audio": "sounds"}
MEDIA |= {"video_url": "videos", "file": "files", "input_file": "files"}  # types of message parts
BAD_BODY = "invalid_body"


class ErrorFacts(BaseModel):
    """What went wrong, and in which field of the request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorFacts


class ApiError(HTTPException):
    """An answer other than 200. `code` is an identifier for programs, `param` the field of the request that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        headers = {**(headers or {}), **({} if retry_after is None else {"Retry-After": str(retry_after)})}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = TYPES.get(self.status_code, "invalid_request_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        return json_response(self.body(), self.status_code, self.headers or {})


def internal_error() -> ApiError:
    """A fault of the server, whose log has the details."""
    return ApiError(500, "the request failed inside the server", code="internal_error")


def bad_input(error: BadInputError, param: str | None = None) -> ApiError:
    """What the engine rejects, the client can correct. `param`: by default the error's own field, or the one its message starts with."""
    first = str(error).partition(" ")[0]
    if error.field == "speculative_config":
        param = param or "speculative"
    return ApiError(400, str(error), param=param or (first if first in FIELDS else None))


def install(app: FastAPI) -> None:
    """Give every kind of failure an answer in this format."""

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return _naming_a_field(request, error).response()

    @app.exception_handler(BadInputError)
    async def on_bad_input(request: Request, error: BadInputError) -> Response:
        return _naming_a_field(request, bad_input(error)).response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid_field(_: Request, error: RequestValidationError) -> Response:
        return _invalid(error).response()

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        return _http(request, error).response()


def _naming_a_field(request: Request, error: ApiError) -> ApiError:
    """The error with the field that holds the prompt, if it is about no other."""
    if error.param is None and error.status_code == 400 and error.code != BAD_BODY:
        error.param = next((field for path, field in PROMPT_FIELDS.items() if request.url.path.rstrip("/").endswith(path)), None)
    return error


def _http(request: Request, error: HTTPException) -> ApiError:
    messages = {
        400: "the body cannot be read: it must be JSON in UTF-8",
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is not possible at {request.url.path}",
    }
    found = ApiError(error.status_code, messages.get(error.status_code, str(error.detail)))
    found.headers = error.headers
    return found


def _invalid(error: RequestValidationError) -> ApiError:
    """The error of pydantic's that comes closest to what was meant, as a sentence."""
    worst = max(error.errors(), key=_closeness)
    if worst["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {worst['ctx']['error']} at character {worst['loc'][-1]}")
    param = _param(worst, error.body)
    if param is None:
        if isinstance(error.body, bytes):
            return ApiError(400, "send the body as JSON, with the header Content-Type: application/json")
        return ApiError(400, f"the body must be a JSON object: {worst['msg']}")
    if (media := _media(error.body, worst["loc"])) is not None:
        return ApiError(400, f"{param}: {media} are not supported, only text", param=param, code="unsupported_content")
    if worst["type"] == "extra_forbidden":
        return ApiError(
            400, f"{param} is not supported; nothing is ignored silently, so leave it out", param=param, code="unsupported_field"
        )
    return ApiError(400, f"{param}: {worst['msg']}", param=param)


def _closeness(error: Mapping[str, Any]) -> tuple[bool, int, int]:
    """How well the branch of a union fits that this error comes from: a wrong value beats a wrong type, then depth, then the place."""
    loc = error["loc"]
    is_type = error["type"].endswith("_type") or error["type"] == "missing"
    return not is_type, len(loc), loc[-1] if loc and isinstance(loc[-1], int) else 0


def _has(body: Any, place: Any) -> bool:
    return (isinstance(body, dict) and place in body) or (isinstance(body, list) and isinstance(place, int) and place < len(body))


def _media(body: Any, loc: Sequence[Any]) -> str | None:
    """What the part of a message at this place carries, if it is not text: "images"."""
    for place in loc:
        if _has(body, place):
            body = body[place]
        if isinstance(body, dict) and isinstance(kind := body.get("type"), str) and kind in MEDIA:
            return MEDIA[kind]
    return None


def _param(error: Mapping[str, Any], body: Any) -> str | None:
    """The path of the field, such as `messages.0.content`: pydantic's location without the names of the types it tried."""
    kind, *places = error["loc"]
    found: list[str] = []
    for number, place in enumerate(places):
        is_last = number == len(places) - 1
        if _has(body, place):
            body = body[place]
        elif not (is_last and error["type"] == "missing") and kind == "body":
            continue
        found.append(str(place))
    return ".".join(found) or None
