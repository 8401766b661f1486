"""Builds the strategy for a SpeculativeConfig: drafter, verifier and controller, made once and shared by all requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property

from outpace.config import SpeculativeConfig
from outpace.controller.adaptive import AdaptiveController
from outpace.controller.base import Controller, FixedController
from outpace.controller.cost import CostTable, cost_of, draft_costs, keep
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter, DrafterContext, DraftModel
from outpace.drafters.combined import CombinedDrafter
from outpace.drafters.spec import create_drafter, is_adaptive, parse_specs, prefixed
from outpace.errors import BadInputError
from outpace.models.store import home, measuring
from outpace.models.tokenizer import Tokenizer
from outpace.targets.base import OutOfSlots, TargetModel
from outpace.verifiers import create_verifier

MAX_NODES = 24  # default limit of `auto` per request and step
KEPT_BYTES = 512 << 20  # of strategies kept beside one's own: drafters hold tables, and clients of a server may name any number of them
STRATEGY_BYTES = 100_000  # of every strategy, besides its drafter's tables


class StrategyFactory:
    """Serves one target. `load(name, num_layers)` returns the target and tokenizer of a draft model; the name "self" is the target's own
    model. Threads may share a factory; `turn` is held while it runs the target for a measurement, and not while it builds."""

    def __init__(
        self,
        target: TargetModel,
        tokenizer: Tokenizer,
        load: Callable[[str, int | None], tuple[TargetModel, Tokenizer]],
        turn: AbstractContextManager[None] | None = None,
    ):
        self.target, self.tokenizer, self.load, self.turn = target, tokenizer, load, turn or nullcontext()
        self.kept: dict[SpeculativeConfig, Strategy] = {}  # the latest is last
        self.own: dict[SpeculativeConfig, Strategy] = {}  # never dropped
        self._lock = threading.RLock()  # one is built at a time
        self.draft_models: dict[tuple[str, int | None], DraftModel] = {}

    def of(self, config: SpeculativeConfig, is_own: bool = False) -> Strategy:
        """The strategy for these settings. One's own are kept with what their drafters have learnt, of all others the latest used ones, in
        KEPT_BYTES. Raises BadInputError for wrong settings."""
        found = self.known(config)
        if found is None:
            with self._lock:
                try:
                    found = self.known(config) or self._build(config)  # another thread may have built it in the meantime
                except BadInputError as error:
                    error.field = "speculative_config"
                    raise
                (self.own if is_own else self.kept)[config] = found
                self._drop_oldest()
        return found

    def _drop_oldest(self) -> None:
        """Drop the strategies used longest ago until the others fit into KEPT_BYTES; drafters grow while they learn. One always stays."""
        sizes = {config: STRATEGY_BYTES + strategy.drafter.num_bytes for config, strategy in self.kept.items()}
        total = sum(sizes.values())
        for config in list(sizes)[:-1]:
            if total <= KEPT_BYTES:
                return
            del self.kept[config]
            total -= sizes[config]

    def known(self, config: SpeculativeConfig) -> Strategy | None:
        """The strategy for these settings if it has been built; never waits for one that is being built."""
        found = self.own.get(config) or self.kept.get(config)
        if config in self.kept and self._lock.acquire(blocking=False):
            try:
                if config in self.kept:  # no other thread has dropped it in the meantime
                    self.kept[config] = self.kept.pop(config)
                    self._drop_oldest()
            finally:
                self._lock.release()
        return found

    def is_built(self, config: SpeculativeConfig) -> bool:
        """Whether `of` returns at once. Any thread may ask."""
        return config in self.own or config in self.kept

    @property
    def is_measured(self) -> bool:
        """Whether the costs are known, so that `auto` starts at once."""
        return "costs" in self.__dict__

    @cached_property
    def costs(self) -> CostTable:
        """The cost table: measured on first use (a few seconds), then kept on disk for this model, machine and version. Of processes that
        start at once one measures, and the others read its table."""
        with measuring(), self.turn, _room_to_measure():
            return cost_of(self.target, home() / "costs")

    def calibrate(self) -> CostTable:
        """Measure the cost table anew, and keep it."""
        with measuring(), self.turn, _room_to_measure():
            self.costs = cost_of(self.target, home() / "costs", is_new=True)
        return self.costs

    def _keep_costs(self, costs: CostTable) -> None:
        self.costs = costs
        keep(costs, self.target, home() / "costs")

    def _build(self, config: SpeculativeConfig) -> Strategy:
        drafter = create_drafter(config.method, DrafterContext(self.target, self.tokenizer, self.draft_model))
        return Strategy(config.method, drafter, create_verifier(config.verifier), self._controller(config, drafter))

    def _controller(self, config: SpeculativeConfig, drafter: Drafter) -> Controller:
        if isinstance(drafter, CombinedDrafter) and is_adaptive(config.method):
            max_nodes = MAX_NODES if config.num_draft_tokens is None else config.num_draft_tokens
            return AdaptiveController(self.costs, drafter, max_nodes, self._keep_costs)
        return FixedController(drafter.num_draft_tokens if config.num_draft_tokens is None else config.num_draft_tokens)

    def draft_model(self, name: str, num_layers: int | None) -> DraftModel:
        """A draft model, with the cost of its forward pass relative to the target's. Loaded and measured once."""
        if (name, num_layers) not in self.draft_models:
            target, tokenizer = self.load(name, num_layers)
            with measuring(), _room_to_measure():
                costs = draft_costs(target, self.target, self.turn)
            self.draft_models[name, num_layers] = DraftModel(target, tokenizer, *costs)
        return self.draft_models[name, num_layers]


@contextmanager
def _room_to_measure() -> Iterator[None]:
    """Raises BadInputError where a measurement finds the K/V cache too small, or full of running requests."""
    try:
        yield
    except OutOfSlots as error:
        raise BadInputError(
            "auto and draft models measure forward passes first, and the K/V cache has no room for them: make it larger "
            "(kv_cache_tokens), wait until fewer requests run, or name another drafter"
        ) from error


def with_prediction(config: SpeculativeConfig) -> SpeculativeConfig:
    """These settings for a request with a prediction: the drafter `prediction` comes first, unless there is no drafter at all."""
    if {spec.name for spec in parse_specs(config.method)} & {"none", "prediction"}:
        return config
    return replace(config, method=prefixed("prediction", config.method))
