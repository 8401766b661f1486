"""Text to tokens and back, without transformers: the model's own tokenizer.json and chat template."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from outpace.errors import BadInputError

Messages = Sequence[Mapping[str, Any]]
LONG_TEXT = 20_000  # characters from which on a text is encoded as a batch of one, which does not hold Python's lock for seconds


class Tokenizer:
    """Wraps a `tokenizers.Tokenizer`; `chat_template` is Jinja, `special` are the named special tokens it may use."""

    def __init__(self, fast: Any, chat_template: str | None = None, special: Mapping[str, str] | None = None):
        self.fast, self.chat_template, self.special = fast, chat_template, dict(special or {})

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """From a folder written by transformers' save_pretrained. Raises BadInputError when the files are damaged."""
        try:
            fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
            settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        except Exception as error:  # the Rust library raises plain Exception
            raise BadInputError(f"cannot read the tokenizer in {folder}: {error}") from error
        fast.no_truncation()
        fast.no_padding()
        template = folder / "chat_template.jinja"
        text = template.read_text("utf-8") if template.exists() else settings.get("chat_template")
        special = {key: _token_text(value) for key, value in settings.items() if key.endswith("_token") and value}
        return cls(fast, _default_template(text), special)

    @classmethod
    def from_transformers(cls, tokenizer: Any) -> Tokenizer:
        """From a live fast tokenizer of transformers."""
        fast = getattr(tokenizer, "backend_tokenizer", None)
        if fast is None:
            raise BadInputError("this tokenizer has no fast form; load it with AutoTokenizer and use_fast=True")
        return cls(
            FastTokenizer.from_str(fast.to_str()),
            _default_template(tokenizer.chat_template),
            {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises BadInputError for what is no text (half of a surrogate pair)."""
        try:
            if len(text) > LONG_TEXT:
                return list(self.fast.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
            ids: list[int] = self.fast.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:
            raise BadInputError("the text has half of a surrogate pair, which no character is made of") from error
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.fast.decode(list(token_ids), skip_special_tokens=True)
        return text

    @property
    def has_tools(self) -> bool:
        """Does the chat template show tools to the model?"""
        return "tools" in (self.chat_template or "")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token: exact for byte-level vocabularies, for others those of its text."""
        token = self.fast.id_to_token(token_id) or ""
        table = _byte_table()
        if type(self.fast.decoder).__name__ == "ByteLevel" and all(letter in table for letter in token):
            return bytes(table[letter] for letter in token)
        if byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):
            return bytes([int(byte[1], 16)])
        return token.replace("\u2581", " ").encode()

    def encode_chat(self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Token ids of a conversation in the model's chat format, ready for the assistant's answer.

        `tools` are function descriptions in OpenAI's form, for templates that know them (`has_tools`). A model without a chat template
        gets the contents as plain text, one paragraph a message.
        """
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
            raise BadInputError("a conversation is a list of messages")
        for message in messages:
            if not isinstance(message, Mapping) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
                raise BadInputError("every message needs a 'role' and a 'content' string")
        if not messages:
            raise BadInputError("the conversation is empty")
        if self.chat_template is None:
            return self.encode("\n\n".join(message["content"] for message in messages))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag])
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
        values = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True, **self.special}
        try:
            text = environment.from_string(self.chat_template).render(values)
        except Exception as error:  # a template is a small program: anything may go wrong in it
            raise BadInputError(f"the chat template cannot render these messages: {error}") from error
        return self.encode(text, add_special_tokens=False)


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's part for training; here it is only its content."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=1)
def _byte_table() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2): printable ones themselves, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _default_template(template: Any) -> str | None:
    """The template; of several named ones the default."""
    if isinstance(template, list):  # as some configs store them
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _token_text(value: Any) -> str:
    return str(value["content"] if isinstance(value, dict) else value)


def _refuse(message: str) -> None:
    raise TemplateError(message)


class TextBuilder:
    """Text of one answer, token by token: never cut inside a UTF-8 character, and ended by the first stop string.

    Stop strings count once `min_tokens` tokens are out. `text` is what has been decided; `streamable` may grow no more.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), min_tokens: int = 0):
        self.tokenizer, self.stop, self.min_tokens = tokenizer, list(stop), min_tokens
        self.stream = DecodeStream(skip_special_tokens=True)
        self.token_ids: list[int] = []
        self.text = ""
        self.ends: list[int] = []  # length of the text after each token
        self.is_stopped = False

    def feed(self, token_id: int) -> bool:
        """Add a token; True when a stop string is now complete (the text ends before it)."""
        self.token_ids.append(token_id)
        old, self.text = len(self.text), self.text + self._step(token_id)
        if len(self.text) > old and len(self.token_ids) >= self.min_tokens:
            self._find_stop(old)
        self.ends.append(len(self.text))
        return self.is_stopped

    def _step(self, token_id: int) -> str:
        """The text this token completes."""
        try:
            return self.stream.step(self.tokenizer.fast, token_id) or ""
        except Exception:  # bytes that can never become a character: they are left out
            self.stream = DecodeStream(skip_special_tokens=True)
            return self.stream.step(self.tokenizer.fast, token_id) or ""

    def _find_stop(self, old: int) -> None:
        places = [self.text.find(s, max(0, old - len(s) + 1)) for s in self.stop]
        found = [place for place in places if place >= 0]
        if found:
            self.text, self.is_stopped = self.text[: min(found)], True
            self.ends = [min(end, len(self.text)) for end in self.ends]

    def finish(self) -> str:
        """The whole text; bytes of an unfinished character come out as the decoder shows them."""
        if not self.is_stopped:
            whole = self.tokenizer.decode(self.token_ids)
            if whole.startswith(self.text) and self.ends:
                self.text, self.ends[-1] = whole, len(whole)
        return self.text

    @property
    def pieces(self) -> list[str]:
        """The text that each token added; a character made of several tokens belongs to the last of them."""
        return [self.text[start:end] for start, end in zip([0, *self.ends], self.ends, strict=False)]

    def pieces_from(self, start: int, end: int) -> list[str]:
        """The pieces of tokens start to end - 1; those that an error took back are missing."""
        edges = [self.ends[start - 1] if 0 < start <= len(self.ends) else 0, *self.ends[start:end]]
        return [self.text[left:right] for left, right in itertools.pairwise(edges)]

    @property
    def num_streamable(self) -> int:
        """Characters that no later stop string can take back."""
        if self.is_stopped:
            return len(self.text)
        held = 0
        for stop in self.stop:
            for length in range(min(len(stop) - 1, len(self.text)), held, -1):
                if self.text.endswith(stop[:length]):
                    held = length
                    break
        return len(self.text) - held
