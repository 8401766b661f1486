"""The options of `generate` and `chat` that say how tokens are chosen: every field of SamplingParams that a shell can give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from outpace.cli.options.rules import one_of
from outpace.errors import BadInputError
from outpace.files import read_text

if TYPE_CHECKING:
    from outpace.params import SamplingParams, StructuredOutput

T = TypeVar("T")
FORMS = one_of(
    *("json_object", "json_schema", "regex", "choice", "grammar"),
    message="an answer has one form: give one of --json-object, --json-schema, --regex, --choice and --grammar",
)


def _option(text: str, *names: str, panel: str = "Sampling", **details: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **details)


def _form(text: str, *names: str, **details: Any) -> Any:
    return _option(text, *names, panel="Form of the answer", **details)


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen, as typed. The defaults are those of `generate`."""

    max_tokens: Annotated[int, _option("Maximum tokens to generate.", min=1)] = 256
    temperature: Annotated[float, _option("Sampling temperature; 0 always takes the likeliest token.", min=0)] = 0.0
    top_k: Annotated[int, _option("Sample from this many of the likeliest tokens; 0: from all.", min=-1)] = 0
    top_p: Annotated[float, _option("Sample from the smallest set of likeliest tokens with at least this total probability.")] = 1.0
    min_p: Annotated[float, _option("Drop tokens less likely than this fraction of the likeliest one.")] = 0.0
    repetition_penalty: Annotated[float, _option("Above 1: make tokens that occurred before less likely.")] = 1.0
    presence_penalty: Annotated[float, _option("Subtract this from the logit of every token that the answer has.")] = 0.0
    frequency_penalty: Annotated[float, _option("Subtract this from the logit of a token each time the answer has it.")] = 0.0
    seed: Annotated[int | None, _option("Random seed; a seed gives the same text with any drafter.", min=0)] = None
    stop: Annotated[list[str] | None, _option("End the answer before this text; may be repeated.")] = None
    stop_token_id: Annotated[list[int] | None, _option("End the answer at this token; may be repeated.")] = None
    include_stop: Annotated[bool, _option("Keep the text of --stop at the end of the answer.", "--include-stop")] = False
    min_tokens: Annotated[int, _option("Minimum tokens to generate.", min=0)] = 0
    ignore_eos: Annotated[bool, _option("Go on after the model's own end of the answer.", "--ignore-eos")] = False
    special_tokens: Annotated[bool, _option("Show special tokens, such as the end of the answer.", "--special-tokens")] = False
    logit_bias: Annotated[list[str] | None, _option("Add NUMBER to the logit of a token id; may be repeated.", metavar="ID=NUMBER")] = None
    allowed_token_ids: Annotated[str | None, _option("The only token ids that the answer may have.", metavar="ID,ID,...")] = None
    bad_words_ids: Annotated[
        list[str] | None, _option("Token ids that must not follow each other in the answer; may be repeated.", metavar="ID,ID,...")
    ] = None
    json_object: Annotated[bool, _form("Answer with a JSON object.", "--json-object")] = False
    json_schema: Annotated[Path | None, _form("Answer with JSON that matches the schema in this file.", metavar="FILE")] = None
    regex: Annotated[str | None, _form("Answer with a text that matches this regular expression.")] = None
    choice: Annotated[list[str] | None, _form("Answer with one of these texts; may be repeated.")] = None
    grammar: Annotated[Path | None, _form("Answer with a text of the Lark grammar in this file.", metavar="FILE")] = None

    def params(self, **more: Any) -> SamplingParams:
        """As SamplingParams; `more` are fields that only some commands have. Raises BadInputError."""
        from outpace.params import SamplingParams

        same = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        return SamplingParams(
            **{name: getattr(self, name) for name in (*same, "seed", "min_tokens", "ignore_eos")},
            stop=self.stop,
            stop_token_ids=self.stop_token_id or (),
            include_stop_str_in_output=self.include_stop,
            skip_special_tokens=not self.special_tokens,
            logit_bias=dict(_pair(text) for text in self.logit_bias) if self.logit_bias else None,
            allowed_token_ids=_ids("--allowed-token-ids", self.allowed_token_ids) if self.allowed_token_ids else None,
            bad_words_ids=[_ids("--bad-words-ids", text) for text in self.bad_words_ids or ()],
            structured=self._structured(),
            **more,
        )

    def _structured(self) -> StructuredOutput | None:
        """The form of the answer, if one was asked for."""
        from outpace.params import StructuredOutput

        asked = {
            "json_object": "" if self.json_object else None,
            "json_schema": _content(self.json_schema),
            "regex": self.regex,
            "choice": self.choice or None,
            "lark": _content(self.grammar),
        }
        given = {kind: value for kind, value in asked.items() if value is not None}
        return next((StructuredOutput(kind, value) for kind, value in given.items()), None)


def _content(path: Path | None) -> str | None:
    return None if path is None else read_text(path)


def _pair(text: str) -> tuple[int, float]:
    """ "12=-5.5" as (12, -5.5). Raises BadInputError."""
    token, _, number = text.partition("=")
    return _each("--logit-bias", [token], int, "ID=NUMBER", text)[0], _each("--logit-bias", [number], float, "ID=NUMBER", text)[0]


def _ids(option: str, text: str) -> list[int]:
    """ "3,4" as [3, 4]. Raises BadInputError."""
    return _each(option, text.split(","), int, "ID,ID,...", text)


def _each(option: str, words: Sequence[str], kind: Callable[[str], T], form: str, text: str) -> list[T]:
    try:
        return [kind(word) for word in words]
    except ValueError as error:
        raise BadInputError(f"{option} takes {form}, not {text!r:.80}") from error
