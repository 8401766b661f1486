"""From settings to parts: the drafter, verifier and controller behind a drafter spec, built once and shared by all requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from outpace.config import SpeculativeConfig
from outpace.controller.adaptive import AdaptiveController
from outpace.controller.base import Controller, FixedController
from outpace.controller.cost import CostTable, cost_of, measure_verify_cost
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter, DrafterContext, DraftModel
from outpace.drafters.combined import CombinedDrafter
from outpace.drafters.spec import create_drafter, is_adaptive
from outpace.models.store import home
from outpace.models.tokenizer import Tokenizer
from outpace.targets.base import TargetModel
from outpace.verifiers import create_verifier

MAX_NODES = 24  # that `auto` drafts in a step, where nothing else is said
MAX_KEPT = 32  # drafters hold tables; a server's clients may name any number of them


class StrategyFactory:
    """For one target. `load(name, num_layers)` gives the target and tokenizer of a further model; the name "self" is the target's own."""

    def __init__(self, target: TargetModel, tokenizer: Tokenizer, load: Callable[[str, int | None], tuple[TargetModel, Tokenizer]]):
        self.target, self.tokenizer, self.load = target, tokenizer, load
        self.kept: dict[SpeculativeConfig, Strategy] = {}
        self.helpers: dict[tuple[str, int | None], DraftModel] = {}

    def of(self, config: SpeculativeConfig) -> Strategy:
        """The parts for these settings; the latest MAX_KEPT are kept. Raises BadInputError for wrong ones."""
        found = self.kept.pop(config, None) or self._build(config)
        self.kept[config] = found  # the latest one stands last
        if len(self.kept) > MAX_KEPT:
            del self.kept[next(iter(self.kept))]
        return found

    @property
    def is_measured(self) -> bool:
        """Are the costs known, so that `auto` can start at once?"""
        return "costs" in self.__dict__

    @cached_property
    def costs(self) -> CostTable:
        """What a pass costs: measured on first use (a few seconds), then kept on disk for this model, machine and version."""
        return cost_of(self.target, home() / "costs")

    def _build(self, config: SpeculativeConfig) -> Strategy:
        drafter = create_drafter(config.method, DrafterContext(self.target, self.tokenizer, self.helper))
        return Strategy(config.method, drafter, create_verifier(config.verifier), self._controller(config, drafter))

    def _controller(self, config: SpeculativeConfig, drafter: Drafter) -> Controller:
        if isinstance(drafter, CombinedDrafter) and is_adaptive(config.method):
            return AdaptiveController(self.costs, drafter, MAX_NODES if config.num_draft_tokens is None else config.num_draft_tokens)
        return FixedController(drafter.num_draft_tokens if config.num_draft_tokens is None else config.num_draft_tokens)

    def helper(self, name: str, num_layers: int | None) -> DraftModel:
        """A model that drafts, with what a pass of it costs in passes of the target. Loaded and measured once."""
        if (name, num_layers) not in self.helpers:
            target, tokenizer = self.load(name, num_layers)
            cost, own = (measure_verify_cost(t, (8,), 64, 5)[0].milliseconds for t in (target, self.target))
            self.helpers[name, num_layers] = DraftModel(target, tokenizer, cost / own)
        return self.helpers[name, num_layers]
