"""The lines of a batch file: what each asks for, or what is wrong with it.

Two forms: `prompt`, `messages` or `turns` with an `id` and `sampling_params`; and the lines of OpenAI's batch files (`custom_id`, `url`,
`body`), whose answers have OpenAI's form, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from outpace.bench.workloads import messages_of
from outpace.errors import BadInputError
from outpace.params import SamplingParams, StructuredOutput

URLS = ("/v1/chat/completions", "/v1/completions")
NOT_IN_BATCHES = ("n", "logits_processors", "structured", "logprobs", "prompt_logprobs")  # one answer per line, and its text
HARMLESS = ("model", "stream", "user", "metadata", "store")  # fields of OpenAI's bodies that change nothing here
KEY_DIGITS = 24  # hexadecimal digits of a key: 96 bits


@dataclass(frozen=True)
class BatchSettings:
    """What holds for all lines that do not say otherwise. `identity` names the model: answers of another one are not reused. `is_raw`:
    prompts are completed as plain text, without the chat format."""

    identity: str
    sampling_params: SamplingParams = field(default_factory=SamplingParams)
    is_raw: bool = False

    @property
    def seed(self) -> int:
        """The seed of the first line; each sampled line after it has the next one, so that equal prompts get different answers."""
        return self.sampling_params.seed or 0


@dataclass(frozen=True)
class BatchRequest:
    """One line: `prompt` is a raw text or a conversation. Equal keys mean equal answers. `url` is that of an OpenAI batch line."""

    number: int  # of the line, from 1
    id: Any
    prompt: str | list[dict[str, str]]
    sampling_params: SamplingParams
    key: str
    url: str = ""


@dataclass(frozen=True)
class BadLine:
    """A line that asks for nothing that can be answered, and why."""

    number: int
    id: Any
    error: str
    is_openai: bool = False


@dataclass(frozen=True)
class BatchAnswer:
    """What became of the request with this key: `answer` has text, finish_reason, prompt_tokens, completion_tokens and seed; None if the
    request failed, for the reason `error`."""

    key: str
    answer: dict[str, Any] | None
    error: str = ""


def read_requests(path: Path, settings: BatchSettings) -> Iterator[BatchRequest | BadLine]:
    """Every line of a file but the empty ones. Raises BadInputError if the file cannot be read."""
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if data.strip():
                    yield _request(data, f"{path.name}:{number}", number, settings)
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error


def _request(data: bytes, where: str, number: int, settings: BatchSettings) -> BatchRequest | BadLine:
    row: Any = {}
    try:
        row = json.loads(data.decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise BadInputError(f"{where}: not a JSON object")
        return _openai(row, where, number, settings) if "body" in row else _own(row, where, number, settings)
    except UnicodeDecodeError as error:
        text = f"{where}: not UTF-8 text ({error.reason} at byte {error.start})"
    except RecursionError:
        text = f"{where}: nested too deeply"
    except BadInputError as error:
        text = str(error) if str(error).startswith(where) else f"{where}: {error}"
    except ValueError as error:
        text = f"{where}: not JSON ({error})"
    facts = row if isinstance(row, dict) else {}
    return BadLine(number, facts.get("custom_id", facts.get("id", number)), text, "body" in facts)


def _own(row: dict[str, Any], where: str, number: int, settings: BatchSettings) -> BatchRequest:
    given = row.get("sampling_params", {})
    if not isinstance(given, dict):
        raise BadInputError("sampling_params is not an object")
    messages = messages_of(row, where)
    is_raw = settings.is_raw and "messages" not in row
    prompt: str | list[dict[str, str]] = messages[0]["content"] if is_raw else messages
    return _whole(number, row.get("id", number), prompt, given, settings)


def _openai(row: dict[str, Any], where: str, number: int, settings: BatchSettings) -> BatchRequest:
    body, url = row["body"], row.get("url", URLS[0])
    if not isinstance(body, dict):
        raise BadInputError("body is not an object")
    if url not in URLS:
        raise BadInputError(f"url must be one of {', '.join(URLS)}, not {url!r:.80}")
    is_chat = url == URLS[0]
    messages = messages_of({name: body[name] for name in body if name == ("messages" if is_chat else "prompt")}, where)
    given = {name: value for name, value in body.items() if name not in (*HARMLESS, "messages", "prompt") and value is not None}
    if "max_completion_tokens" in given:
        given["max_tokens"] = given.pop("max_completion_tokens")
    if given.pop("n", 1) != 1:
        raise BadInputError("a line has one answer, so n must be 1")
    return _whole(number, row.get("custom_id", number), messages if is_chat else messages[0]["content"], given, settings, url)


def _whole(
    number: int, name: Any, prompt: str | list[dict[str, str]], given: dict[str, Any], settings: BatchSettings, url: str = ""
) -> BatchRequest:
    """The request with its sampling parameters: the line's own over those of the settings. Raises BadInputError."""
    if wrong := [key for key in given if key in NOT_IN_BATCHES]:
        raise BadInputError(f"{wrong[0]} cannot be used in a batch")
    if "response_format" in given:
        given = {key: value for key, value in given.items() if key != "response_format"} | {"structured": _form(given["response_format"])}
    common = {item.name: getattr(settings.sampling_params, item.name) for item in fields(SamplingParams)}
    params = SamplingParams(**_known(common | given))
    if "seed" not in given:
        params = replace(params, seed=settings.seed + (0 if params.is_greedy else number - 1))
    text = json.dumps([settings.identity, prompt, asdict(params)], sort_keys=True)
    return BatchRequest(number, name, prompt, params, hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS], url)


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """The same options; raises BadInputError for one that SamplingParams has not."""
    names = {item.name for item in fields(SamplingParams)}
    if unknown := [name for name in options if name not in names]:
        raise BadInputError(f"sampling_params has no parameter {unknown[0]!r}")
    return options


def _form(response_format: Any) -> StructuredOutput | None:
    """OpenAI's `response_format`. Raises BadInputError."""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_schema":
        wrapped = response_format.get("json_schema")
        return StructuredOutput("json_schema", wrapped.get("schema") if isinstance(wrapped, dict) else None)
    if kind not in ("text", "json_object"):
        raise BadInputError(f"response_format has a type text, json_object or json_schema, not {response_format!r:.80}")
    return StructuredOutput("json_object") if kind == "json_object" else None
