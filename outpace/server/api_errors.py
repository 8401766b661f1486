"""Every error in OpenAI's form: {"error": {"message", "type", "param", "code"}}. Nothing of the machine is in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from outpace.errors import BadInputError
from outpace.server.api.wire import json_response

KINDS = {  # OpenAI's error type of each status
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class ErrorFacts(BaseModel):
    """What went wrong, and with which field of the request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorFacts


class ApiError(HTTPException):
    """An answer other than 200. `code` is a word for programs, `param` the request's field that is wrong."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None):
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = KINDS.get(self.status_code, "invalid_request_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        return json_response(self.body(), self.status_code, self.headers or {})


def internal_error() -> ApiError:
    """Our fault; the log has the details."""
    return ApiError(500, "the request failed inside the server", code="internal_error")


def bad_input(error: BadInputError, param: str | None = None) -> ApiError:
    """What the engine refuses is the client's to mend."""
    return ApiError(400, str(error), param=param)


def install(app: FastAPI) -> None:
    """Let every way of failing answer in the same form."""

    @app.exception_handler(ApiError)
    async def of_ours(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(BadInputError)
    async def of_the_engine(_: Request, error: BadInputError) -> Response:
        return bad_input(error).response()

    @app.exception_handler(RequestValidationError)
    async def of_a_field(_: Request, error: RequestValidationError) -> Response:
        return _invalid(error).response()

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> Response:
        return _http(request, error).response()

    @app.exception_handler(Exception)
    async def of_a_bug(_: Request, error: Exception) -> Response:
        return internal_error().response()  # the ASGI server logs the error


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
    """The most specific complaint of pydantic, as a sentence."""
    worst = max(error.errors(), key=lambda found: len(found["loc"]))
    if worst["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {worst['ctx']['error']} at character {worst['loc'][-1]}")
    param = _param(worst, error.body)
    if param is None:
        if isinstance(error.body, bytes):
            return ApiError(400, "send the body as JSON, with the header Content-Type: application/json")
        return ApiError(400, f"the body must be a JSON object: {worst['msg']}")
    if worst["type"] == "extra_forbidden":
        return ApiError(
            400, f"{param} is not supported; nothing is ignored silently, so leave it out", param=param, code="unsupported_field"
        )
    return ApiError(400, f"{param}: {worst['msg']}", param=param)


def _param(complaint: Mapping[str, Any], body: Any) -> str | None:
    """`messages.0.content`: pydantic's location without the names of the types it tried."""
    kind, *places = complaint["loc"]
    found: list[str] = []
    for number, place in enumerate(places):
        is_last = number == len(places) - 1
        if (isinstance(body, dict) and place in body) or (isinstance(body, list) and isinstance(place, int) and place < len(body)):
            body = body[place]
        elif not (is_last and complaint["type"] == "missing") and kind == "body":
            continue
        found.append(str(place))
    return ".".join(found) or None
