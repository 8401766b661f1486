"""What is kept of a live model between calls: its target and its drafters, for as long as the model itself exists."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.controller.factory import StrategyFactory
from outpace.controller.strategy import Strategy
from outpace.errors import BadInputError
from outpace.models.load import load
from outpace.models.tokenizer import Tokenizer
from outpace.models.transformers_io import first_layers
from outpace.targets.hf.borrow import borrowed
from outpace.targets.hf.target import HFTarget

ASSISTANT = "assistant"  # the assistant's name in `draft_model:NAME`

Load = Callable[[str, int | None], tuple[Any, Any]]
_live: WeakKeyDictionary[Any, Live] = WeakKeyDictionary()
_live_lock = threading.Lock()


class Live:
    """Target and drafters of one live model. They hold weak references to it and to its assistants, so none is kept in memory.

    A lock serialises the calls on the model; a streamer may call `generate` again from inside a call.
    """

    target: HFTarget

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.facts: tuple[Any, ...] = ()
        self.targets: WeakSet[HFTarget] = WeakSet()
        self.factories: WeakKeyDictionary[Any, dict[tuple[Any, ...], StrategyFactory]] = WeakKeyDictionary()

    @classmethod
    def of(cls, model: Any) -> Live:
        """The one object of this model."""
        with _live_lock:
            return _live.setdefault(model, cls())

    def prepare(self, model: Any) -> None:
        """Build the target on the first call, and anew after the model has been moved or resized."""
        if self.facts != _facts(model):
            self.target, self.facts = HFTarget(model, is_borrowed=True), _facts(model)
            self.targets.add(self.target)
            self.factories.clear()

    def strategy(self, model: Any, config: SpeculativeConfig, assistant: Any, tokenizer: Any, assistant_tokenizer: Any) -> Strategy:
        """The drafter, verifier and controller for these settings, built once. Raises BadInputError."""
        other = model if assistant is None else assistant
        has_tokenizer, has_assistant_tokenizer = _is_fast(tokenizer), _is_fast(assistant_tokenizer)
        sizes = {each.config.get_text_config().vocab_size for each in (model, other)}
        if len(sizes) > 1 and not (has_tokenizer and has_assistant_tokenizer):
            raise BadInputError("assistant_model has a vocabulary of another size: pass fast tokenizer= and assistant_tokenizer=")
        facts = (*_facts(other), assistant is None, has_tokenizer, has_assistant_tokenizer)
        factories = self.factories.setdefault(other, {})
        if facts not in factories:
            text: Any = Tokenizer.from_transformers(tokenizer) if has_tokenizer else None
            other_text = Tokenizer.from_transformers(assistant_tokenizer) if has_assistant_tokenizer else None
            factories[facts] = StrategyFactory(self.target, text, self._loader(model, assistant, other_text))
        return factories[facts].of(config)

    def _loader(self, model: Any, assistant: Any, assistant_tokenizer: Any) -> Load:
        """How a draft model is loaded: "self" and ASSISTANT are the live models, other names as in `LLM`."""
        models = {"self": ref(model)} | ({} if assistant is None else {ASSISTANT: ref(assistant)})

        def load_draft_model(name: str, num_layers: int | None) -> tuple[Any, Any]:
            live, tokenizer = models[name]() if name in models else None, assistant_tokenizer if name == ASSISTANT else None
            target: Any
            if live is None:
                _, target, tokenizer, _, _ = load(name, None, "hf", "auto", None, EngineConfig(), num_layers)
            elif num_layers:
                target = HFTarget(first_layers(live, num_layers), hidden=False)
            else:
                target = HFTarget(live, hidden=False, is_borrowed=True)
            self.targets.add(target)
            return target, tokenizer

        return load_draft_model

    def drop_buffers(self) -> None:
        """Give the memory of all K/V back."""
        for target in self.targets:
            target.drop_buffers()


def _facts(model: Any) -> tuple[Any, ...]:
    """What a target was built for."""
    config = model.config.get_text_config()
    return model.device, model.dtype, config.vocab_size, config.num_hidden_layers


def _is_fast(tokenizer: Any) -> bool:
    return getattr(tokenizer, "backend_tokenizer", None) is not None


@contextmanager
def running(model: Any, assistant: Any = None) -> Iterator[Live]:
    """Lock the models and make them ready to run; afterwards they are as before, and the memory of their K/V is free."""
    models = [model] if assistant is None or assistant is model else [model, assistant]
    lives = [Live.of(each) for each in models]
    with ExitStack() as stack:
        for live in sorted(lives, key=id):  # one order for all threads, so that no two wait for each other
            stack.enter_context(live.lock)
        for each in models:
            stack.enter_context(borrowed(each))
        lives[0].prepare(model)
        try:
            yield lives[0]
        finally:
            lives[0].drop_buffers()
