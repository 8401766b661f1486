"""The tokenizer: the model's own tokenizer.json and chat template, without transformers."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from outpace.byte_letters import byte_letters
from outpace.errors import BadInputError
from outpace.models.chat_format import Messages as Messages
from outpace.models.chat_format import render, render_open_end
from outpace.params import SamplingParams

NUM_SAMPLES = 512  # tokens that go into the mark of a tokenizer
TAILS = (6, 12, 24)  # numbers of tokens of a prompt that the text after it may be decoded with; the first that begin with a character
LONG_TEXT = 20_000  # characters above which a text is encoded as a batch of one, which releases Python's lock


class ChatTokens(list[int]):
    """Token ids of a conversation: what follows them is a text of its own, not the continuation of theirs."""


class Tokenizer:
    """Wraps a `tokenizers.Tokenizer`; `chat_template` is a Jinja template, `special` are the named special tokens it may use."""

    def __init__(self, fast: Any, chat_template: str | None = None, special: Mapping[str, str] | None = None):
        self.fast, self.chat_template, self.special = fast, chat_template, dict(special or {})

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read from a folder written by transformers' save_pretrained. Raises BadInputError if a file is missing or damaged."""
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
        """Convert a loaded fast tokenizer of transformers. Raises BadInputError for a slow one."""
        fast = getattr(tokenizer, "backend_tokenizer", None)
        if fast is None:
            raise BadInputError("this tokenizer has no fast form; load it with AutoTokenizer and use_fast=True")
        return cls(
            FastTokenizer.from_str(fast.to_str()),
            _default_template(tokenizer.chat_template),
            {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises BadInputError for a text with half of a surrogate pair."""
        try:
            if len(text) > LONG_TEXT:
                return list(self.fast.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
            ids: list[int] = self.fast.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:
            raise BadInputError("the text has half of a surrogate pair, which is not a character") from error
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids, by default without special tokens."""
        text: str = self.fast.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def special_id(self, text: str) -> int | None:
        """The id of the special token with this text, which plain text never becomes; None if there is none."""
        token_id = self.fast.token_to_id(text)
        added = self.fast.get_added_tokens_decoder().get(token_id)
        return token_id if added is not None and added.special else None

    @cached_property
    def mark(self) -> str:
        """16 hex digits that are the same for tokenizers with the same tokens: a hash of their number and of some of them."""
        size = self.fast.get_vocab_size(with_added_tokens=False)
        sample = [self.fast.id_to_token(token_id) for token_id in range(0, size, max(1, size // NUM_SAMPLES))]
        return hashlib.sha256(json.dumps([size, *sample]).encode()).hexdigest()[:16]

    @property
    def has_tools(self) -> bool:
        """Whether the chat template shows tools to the model."""
        return "tools" in (self.chat_template or "")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token: exact for byte-level vocabularies, the bytes of its text for others."""
        token = self.fast.id_to_token(token_id) or ""
        table = byte_letters()
        if type(self.fast.decoder).__name__ == "ByteLevel" and all(letter in table for letter in token):
            return bytes(table[letter] for letter in token)
        if byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):
            return bytes([int(byte[1], 16)])
        return token.replace("\u2581", " ").encode()

    def token_text(self, token_id: int) -> str:
        """One token as text; an incomplete character becomes U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def encode_chat(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation in the model's chat format, up to the start of the assistant's answer.

        `tools` are function descriptions in OpenAI's format, for templates that use them (`has_tools`). A model without a chat template
        gets the contents as plain text, one paragraph per message. Without `add_generation_prompt` the text ends with the last message;
        with `continue_final_message` it ends inside the last message, which the answer continues. `template_kwargs` are variables that some
        templates read, such as `enable_thinking`. Raises BadInputError for malformed messages.
        """
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
            raise BadInputError("a conversation must be a list of messages")
        for message in messages:
            if not isinstance(message, Mapping) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
                raise BadInputError("every message needs a 'role' and a 'content' string")
        if not messages:
            raise BadInputError("the conversation is empty")
        if self.chat_template is None:
            return ChatTokens(self.encode("\n\n".join(message["content"] for message in messages)))
        more = {**self.special, **(template_kwargs or {})}
        if continue_final_message:
            return self.encode(render_open_end(self.chat_template, messages, tools, more), add_special_tokens=False)
        text = render(self.chat_template, messages, tools, more, add_generation_prompt)
        return ChatTokens(self.encode(text, add_special_tokens=False))


def _default_template(template: Any) -> str | None:
    """The template, or the default one if there are several named templates."""
    if isinstance(template, list):  # the form of some configs
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _token_text(value: Any) -> str:
    return str(value["content"] if isinstance(value, dict) else value)


class TextBuilder:
    """The text of one answer, built token by token: never cut inside a UTF-8 character, and ended by the first stop string.

    Stop strings apply after `min_tokens` tokens. `text` is the text so far; its first `num_streamable` characters are final.
    `keeps_stop`: the text includes the stop string that ended it. `shows_special`: it includes special tokens, except those in `ends`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        *,
        keeps_stop: bool = False,
        shows_special: bool = False,
        ends: Collection[int] = (),
    ):
        self.tokenizer, self.stop, self.min_tokens = tokenizer, list(stop), min_tokens
        self.keeps_stop, self.hides_special, self.ends_text = keeps_stop, not shows_special, ends if shows_special else ()
        self.before: list[int] = []  # tokens that the text continues
        self.stream = self._stream()
        self.token_ids: list[int] = []
        self.text = ""
        self.ends: list[int] = []  # length of the text after each token
        self.is_stopped = False

    @classmethod
    def of(cls, tokenizer: Tokenizer, params: SamplingParams, ends: Collection[int]) -> TextBuilder:
        """The text of an answer with these parameters; `ends` are the tokens that end it."""
        shown = {"keeps_stop": params.include_stop_str_in_output, "shows_special": not params.skip_special_tokens}
        return cls(tokenizer, params.stop or (), params.min_tokens, ends=ends, **shown)

    def follow(self, token_ids: Sequence[int]) -> None:
        """Let the text continue a prompt, so that a space at its beginning stays; vocabularies of words drop it where a text begins."""
        tails = (list(token_ids[-count:]) for count in TAILS)
        self.before = next((tail for tail in tails if "\ufffd" not in self._decode(tail)), [])
        self.stream = self._stream()

    def _stream(self) -> Any:
        """A decoder that has decoded the tokens before the text."""
        return DecodeStream(self.before, skip_special_tokens=self.hides_special)

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, self.hides_special)

    def feed(self, token_id: int) -> bool:
        """Add a token. Returns True if a stop string is now complete; the text ends before it."""
        self.token_ids.append(token_id)
        old, self.text = len(self.text), self.text + self._step(token_id)
        if len(self.text) > old and len(self.token_ids) >= self.min_tokens:
            self._find_stop(old)
        self.ends.append(len(self.text))
        return self.is_stopped

    def _step(self, token_id: int) -> str:
        """The text that this token completes."""
        if token_id in self.ends_text:
            return ""
        try:
            return self.stream.step(self.tokenizer.fast, token_id) or ""
        except Exception:  # bytes that can never become a character are dropped
            self.stream = self._stream()
            return self.stream.step(self.tokenizer.fast, token_id) or ""

    def _find_stop(self, old: int) -> None:
        places = [(place, stop) for stop in self.stop if (place := self.text.find(stop, max(0, old - len(stop) + 1))) >= 0]
        if places:
            place, stop = min(places)
            self.text, self.is_stopped = self.text[: place + len(stop) * self.keeps_stop], True
            self.ends = [min(end, len(self.text)) for end in self.ends]

    def finish(self) -> str:
        """The whole text; the decoder decides how bytes of an incomplete character look."""
        if not self.is_stopped:
            whole = self._whole()
            if whole.startswith(self.text) and self.ends:
                self.text, self.ends[-1] = whole, len(whole)
        return self.text

    def _whole(self) -> str:
        """The text of all tokens, decoded at once."""
        shown = [token for token in self.token_ids if token not in self.ends_text]
        before, whole = self._decode(self.before), self._decode([*self.before, *shown])
        return whole.removeprefix(before) if whole.startswith(before) else self._decode(shown)

    @property
    def pieces(self) -> list[str]:
        """The text added by each token; a character of several tokens belongs to the last of them."""
        return [self.text[start:end] for start, end in zip([0, *self.ends], self.ends, strict=False)]

    def pieces_from(self, start: int, end: int) -> list[str]:
        """The pieces of tokens start to end - 1, without those that an error took back."""
        edges = [self.ends[start - 1] if 0 < start <= len(self.ends) else 0, *self.ends[start:end]]
        return [self.text[left:right] for left, right in itertools.pairwise(edges)]

    @property
    def num_streamable(self) -> int:
        """Number of characters that no later stop string can take back."""
        if self.is_stopped:
            return len(self.text)
        held = 0
        for stop in self.stop:
            for length in range(min(len(stop) - 1, len(self.text)), held, -1):
                if self.text.endswith(stop[:length]):
                    held = length
                    break
        return len(self.text) - held
