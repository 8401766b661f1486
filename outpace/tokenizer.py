"""Text to tokens and back, without transformers: the model's own tokenizer.json and chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from outpace.errors import BadInputError

Messages = Sequence[Mapping[str, Any]]


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
        return cls(fast, text if isinstance(text, str) else None, special)

    @classmethod
    def from_transformers(cls, tokenizer: Any) -> Tokenizer:
        """From a live fast tokenizer of transformers."""
        fast = getattr(tokenizer, "backend_tokenizer", None)
        if fast is None:
            raise BadInputError("this tokenizer has no fast form; load it with AutoTokenizer and use_fast=True")
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        return cls(FastTokenizer.from_str(fast.to_str()), template, {k: str(v) for k, v in tokenizer.special_tokens_map.items()})

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self.fast.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.fast.decode(list(token_ids), skip_special_tokens=True)
        return text

    def encode_chat(self, messages: Messages) -> list[int]:
        """Token ids of a conversation in the model's chat format, ready for the assistant's answer.

        A model without a chat template gets the contents as plain text, one paragraph a message.
        """
        for message in messages:
            if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
                raise BadInputError("every message needs a 'role' and a 'content' string")
        if not messages:
            raise BadInputError("the conversation is empty")
        if self.chat_template is None:
            return self.encode("\n\n".join(message["content"] for message in messages))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
        try:
            text = environment.from_string(self.chat_template).render(messages=messages, add_generation_prompt=True, **self.special)
        except TemplateError as error:
            raise BadInputError(f"the chat template cannot render these messages: {error}") from error
        return self.encode(text, add_special_tokens=False)


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
        old, self.text = len(self.text), self.text + (self.stream.step(self.tokenizer.fast, token_id) or "")
        if len(self.text) > old and len(self.token_ids) >= self.min_tokens:
            self._find_stop(old)
        self.ends.append(len(self.text))
        return self.is_stopped

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
