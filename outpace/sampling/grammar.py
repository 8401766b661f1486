"""Structured output: an answer that must be JSON, fit a schema, match a regular expression or be one of a few texts (llguidance).

The grammar is a processor: it masks the logits of every node of a draft tree by the committed tokens plus the node's path, as plain
decoding would. It also shapes drafts: nodes that it forbids are removed before the model runs, and where it allows exactly one token, that
token is drafted for free. JSON has one layout, that of Python's json.dumps (", " and ": ", no other white space), so that much of it is
certain; a schema may ask for another layout by llguidance's key "x-guidance".
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.params import StructuredOutput
from outpace.request import Request
from outpace.sampling.processors import Processor
from outpace.tree.draft import UNKNOWN_CONFIDENCE, Draft

SOURCE = "grammar"  # the source of forced tokens
MAX_CACHED = 64  # compiled grammars kept
ENDLESS = ("NoExtensionBias", "ff_tokens")  # llguidance's words for a grammar without a finite text
MAX_EXPANDED = 10_000  # characters of a regular expression with its counts written out: a long forced run is computed in one piece
HUGE = 10**9  # stands for any larger count
LIMITS = {  # llguidance's units; a mask stops within milliseconds where a grammar costs more
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarCompiler:
    """Compiles what `SamplingParams.structured` asks for; keeps the latest results. Make one per tokenizer.

    fast: a `tokenizers.Tokenizer`. vocab_size: that of the target's logits. Raises BadInputError for what cannot be compiled.
    """

    def __init__(self, fast: Any, vocab_size: int, eos_token_ids: frozenset[int]):
        self.fast, self.vocab_size, self.eos_token_ids = fast, vocab_size, eos_token_ids
        self._tokens: Any = None
        self._compiled: OrderedDict[StructuredOutput, Any] = OrderedDict()
        self._lock = threading.Lock()  # a server compiles in other threads than the engine's

    def processor(self, structured: StructuredOutput, stop_token_ids: frozenset[int]) -> GrammarProcessor:
        """A processor at the start of an answer. Those of `stop_token_ids` that have no text end it as the model's own end tokens do."""
        matcher = self.prepare(structured)
        ends = self.eos_token_ids | {t for t in stop_token_ids if t < self.vocab_size and self._tokens.is_special_token(t)}
        return GrammarProcessor(matcher, self.vocab_size, ends)

    def prepare(self, structured: StructuredOutput) -> Any:
        """A new matcher; compiles the grammar unless a recent result is kept. Any thread may call this."""
        with self._lock:
            found = self._compiled.get(structured)
        if found is None:
            found = self._compile(structured)
        with self._lock:
            self._compiled[structured] = found
            self._compiled.move_to_end(structured)
            if len(self._compiled) > MAX_CACHED:
                self._compiled.popitem(last=False)
            return found.deep_copy()

    def _compile(self, structured: StructuredOutput) -> Any:
        """A matcher in its first state."""
        llguidance = _llguidance()
        self._read_tokens()
        for regex in _regexes(structured):
            if (size := _expanded(regex)) > MAX_EXPANDED:
                raise BadInputError(
                    f"a regular expression stands for {size} characters with its counts; at most {MAX_EXPANDED} are allowed"
                )
        try:
            grammar = _grammar(llguidance, structured)
            matcher = llguidance.LLMatcher(self._tokens, grammar, log_level=0, limits=llguidance.LLParserLimits(**LIMITS))
            first = matcher.deep_copy()
            if not first.is_error():
                _take_one(first)  # a grammar that fails at the first token is refused now
        except (TypeError, ValueError) as error:
            raise BadInputError(f"cannot use this {structured.kind}: {_first_line(str(error))}") from error
        if first.is_error():
            reason = _first_line(first.get_error())
            if any(words in reason for words in ENDLESS):
                reason = "no answer fits it; it may refer to itself without an end"
            raise BadInputError(f"cannot use this {structured.kind}: {reason}")
        return matcher

    def specials(self) -> dict[str, int]:
        """Text and id of the tokens that no text of a grammar becomes: Lark names them by id, `<[id]>`. Raises BadInputError."""
        self._read_tokens()
        added = self.fast.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in added.items() if self._tokens.is_special_token(token_id)}

    def _read_tokens(self) -> None:
        """Set `_tokens`, the tokenizer in llguidance's form; takes about 0.4 s for 50,000 tokens."""
        if self._tokens is not None:
            return
        if not self.eos_token_ids:
            raise BadInputError("structured output needs a model with an end token, and this one has none")
        tokenizer = _llguidance().LLTokenizer
        try:
            self._tokens = tokenizer(self.fast.to_str(), n_vocab=self.vocab_size, eos_token=sorted(self.eos_token_ids))
        except ValueError as error:
            raise BadInputError(f"structured output cannot use this model's tokenizer: {_first_line(str(error))}") from error


def _take_one(matcher: Any) -> None:
    """Consume a token that the grammar allows, if there is one."""
    places = np.flatnonzero(bits := np.frombuffer(matcher.compute_bitmask(), np.uint8))
    if len(places):
        lowest = int(bits[places[0]])
        matcher.try_consume_tokens([int(places[0]) * 8 + (lowest & -lowest).bit_length() - 1])


def _llguidance() -> Any:
    """The library, imported with the first grammar. Raises BadInputError if it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise BadInputError("structured output needs llguidance: pip install 'outpace[grammar]'") from error
    return llguidance


def _grammar(llguidance: Any, structured: StructuredOutput) -> Any:
    """llguidance's grammar text. In regular expressions \\d and \\w are ASCII, as in JSON Schema."""
    matcher = llguidance.LLMatcher
    if structured.kind == "regex":
        return matcher.grammar_from_lark(f"start: /{llguidance.regex_to_lark(structured.value, 'dw')}/")
    if structured.kind == "lark":
        return matcher.grammar_from_lark(structured.value)
    if structured.kind == "choice":
        return matcher.grammar_from_regex("|".join(_literal(text) for text in structured.value))
    return matcher.grammar_from_json_schema(structured.value or '{"type": "object"}', defaults=LAYOUT)


def _regexes(structured: StructuredOutput) -> list[str]:
    """Every regular expression in it."""
    if structured.kind == "regex":
        return [structured.value]
    found: list[str] = []
    left: list[Any] = [json.loads(structured.value)] if structured.kind == "json_schema" else _embedded_schemas(structured.value)
    while left:
        item = left.pop()
        if isinstance(item, dict):
            found += [value for key, value in item.items() if key == "pattern" and isinstance(value, str)]
            found += item["patternProperties"] if isinstance(item.get("patternProperties"), dict) else []
        left += item.values() if isinstance(item, dict) else item if isinstance(item, list) else []
    return found


def _embedded_schemas(value: Any) -> list[Any]:
    """The JSON schemas inside a grammar; none in a list of choices."""
    found = []
    for match in re.finditer(r"%json\s+(?=\{)", value if isinstance(value, str) else ""):
        with suppress(ValueError):  # "%json {" inside a text
            found.append(json.JSONDecoder().raw_decode(value, match.end())[0])
    return found


_REGEX_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]?|\{(\d+)(?:,(\d*))?\}|.", re.DOTALL)


def _number(digits: str) -> int:
    return int(digits or 0) if len(digits) < len(str(HUGE)) else HUGE


def _expanded(regex: str) -> int:
    """Approximate length in characters of a regular expression whose counts {m,n} are written out; + and * count once."""
    sizes, last = [0], 0  # sizes of the open groups; size of the part that a count would repeat
    for token in _REGEX_TOKEN.finditer(regex):
        text = token.group()
        if token.group(1):
            count = max(_number(digits) for digits in token.groups("0"))
            more = min(HUGE, last * (count - 1))
            sizes[-1], last = sizes[-1] + more, last + more
        elif text == "(":
            sizes.append(0)
        elif text == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif text not in "|?*+":
            sizes[-1], last = sizes[-1] + 1, 1
    return sum(sizes)


def _literal(text: str) -> str:
    """A regular expression that matches only this text."""
    return "".join(char if char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text)


def _first_line(message: str) -> str:
    """The cause in one line; llguidance shows the place in further lines."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    cause = next((line for line in lines if line.startswith("error:")), lines[0] if lines else "unknown reason")
    return cause.removeprefix("error:").strip()[:300]


class GrammarProcessor(Processor):
    """The state of one answer in its grammar. A cursor walks the draft tree by consuming and rolling back (under 1 µs each).

    Masks are packed bits [ceil(V / 8)] uint8, kept by path until the next commit: shaping the draft computes the masks that
    verification needs. `ends`: tokens without text that end the answer, allowed exactly where the grammar accepts.
    """

    def __init__(self, matcher: Any, vocab_size: int, ends: frozenset[int]):
        self.matcher, self.vocab_size, self.ends = matcher, vocab_size, ends
        self.words = np.zeros(-(-vocab_size // 32), np.int32)
        self.path: list[int] = []  # path of the cursor, after the committed tokens
        self.masks: dict[tuple[int, ...], Array] = {}
        self.is_ended = False

    def apply(self, row: Array, path: Sequence[int]) -> None:
        if self.is_ended or not self.ends.isdisjoint(path):
            return  # behind the end: such tokens are never committed
        allowed = np.unpackbits(self.mask(path), count=self.vocab_size, bitorder="little").view(bool)
        np.putmask(row, ~allowed, -np.inf)
        if not row.max() > -np.inf:
            raise BadInputError("the grammar leaves no token that the other settings allow (logit_bias, logits_processors)")

    def commit(self, token_ids: Sequence[int]) -> None:
        for at, token in enumerate(token_ids):
            if token in self.ends:
                self.is_ended, token_ids = True, token_ids[:at]
                break
        self._move(token_ids)
        self.path, self.masks = [], {}

    def mask(self, path: Sequence[int]) -> Array:
        """The tokens allowed after the committed ones and `path`, which holds no end token; packed bits, not to be changed."""
        key = tuple(path)
        if key not in self.masks:
            self._move(path)
            self.matcher.unsafe_compute_mask_ptr(self.words.ctypes.data, self.words.nbytes)
            if self.matcher.is_error():
                raise BadInputError(f"the grammar failed: {_first_line(self.matcher.get_error())}")
            bits = self.words.view(np.uint8).copy()
            if any(bits[end >> 3] >> (end & 7) & 1 for end in self.ends):
                for end in self.ends:
                    bits[end >> 3] |= 1 << (end & 7)
            self.masks[key] = bits
        return self.masks[key]

    def _move(self, path: Sequence[int]) -> None:
        """Move the cursor to this path."""
        common = 0
        for a, b in zip(self.path, path, strict=False):
            if a != b:
                break
            common += 1
        if common < len(self.path):
            self.matcher.rollback(len(self.path) - common)
        rest = list(path[common:])
        done = self.matcher.try_consume_tokens(rest) if rest else 0
        self.path = list(path[: common + done])
        if done < len(rest):
            raise OutpaceError(f"the grammar does not allow token {rest[done]} here")

    def allows(self, path: Sequence[int], token: int) -> bool:
        """Whether this token may follow."""
        if not self.ends.isdisjoint(path):
            return False
        return bool(self.mask(path)[token >> 3] >> (token & 7) & 1)

    def forced(self, path: Sequence[int]) -> int | None:
        """The only token that may follow; None if there are several."""
        if self.is_ended or not self.ends.isdisjoint(path):
            return None
        bits = self.mask(path)
        places = np.flatnonzero(bits)
        if len(places) != 1 or (value := int(bits[places[0]])) & (value - 1):
            return None
        return int(places[0]) * 8 + value.bit_length() - 1

    def shape(self, draft: Draft, request: Request, budget: int, limit: int) -> Draft:
        """Forced tokens first, then the nodes that the grammar allows, then forced tokens behind the leaves while the budget has room."""
        shaped = _Shaper(self, request, limit)
        shaped.force(-1, limit)
        num_certain = len(shaped.token_ids)
        shaped.graft(draft, num_certain + budget)
        for leaf in [node for node in range(len(shaped.token_ids)) if node not in shaped.parents]:
            shaped.force(leaf, num_certain + budget)
        return shaped.finish(draft)


class _Shaper:
    """A draft under construction; `paths[i]` leads from the last committed token to node i, unconfirmed tokens included."""

    def __init__(self, grammar: GrammarProcessor, request: Request, limit: int):
        self.grammar, self.name, self.limit = grammar, request.strategy.name, limit
        self.token_ids: list[int] = []
        self.parents: list[int] = []
        self.confidences: list[float] = []
        self.sources: list[str] = []
        self.paths: dict[int, list[int]] = {-1: list(request.unconfirmed.token_ids)}
        self.nodes: dict[tuple[int, int], int] = {}
        self.places: dict[int, int] = {-1: -1}  # node of the old draft -> node of this one

    def add(self, parent: int, token: int, confidence: float, source: str) -> int:
        node = self.nodes[parent, token] = len(self.token_ids)
        self.token_ids.append(token)
        self.parents.append(parent)
        self.confidences.append(confidence)
        self.sources.append(source)
        self.paths[node] = [*self.paths[parent], token]
        return node

    def force(self, node: int, most: int) -> None:
        """Append the tokens that must follow this node, up to `most` nodes in all."""
        while len(self.token_ids) < min(most, self.limit) and (token := self.grammar.forced(self.paths[node])) is not None:
            node = self.add(node, token, 1.0, SOURCE)

    def graft(self, draft: Draft, most: int) -> None:
        """Add the draft's nodes that the grammar allows, without lookahead tokens."""
        for node in range(len(draft) - draft.num_lookahead):
            parent, token = self.places.get(draft.parents[node]), draft.token_ids[node]
            if parent is None:
                continue
            if (parent, token) not in self.nodes:
                if len(self.token_ids) >= min(most, self.limit) or not self.grammar.allows(self.paths[parent], token):
                    continue
                confidence = UNKNOWN_CONFIDENCE if draft.confidences is None else draft.confidences[node]
                self.add(parent, token, confidence, self.name if draft.sources is None else draft.sources[node])
            self.places[node] = self.nodes[parent, token]

    def finish(self, draft: Draft) -> Draft:
        """The tree, followed by those lookahead tokens of the old draft whose parent is still there."""
        num_nodes = len(self.token_ids)
        for node in range(len(draft) - draft.num_lookahead, len(draft)):
            parent = self.places.get(draft.parents[node])
            if parent is not None:
                self.places[node] = len(self.token_ids)
                self.token_ids.append(draft.token_ids[node])
                self.parents.append(parent)
                self.confidences.append(0.0)
                self.sources.append("" if draft.sources is None else draft.sources[node])
        return Draft(self.token_ids, self.parents, len(self.token_ids) - num_nodes, self.confidences, self.sources)
