"""What several test files share: the default model, loaded once, and a toy model that speaks text."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run side by side, and threads of tiny models wait for each other
os.environ.setdefault("OUTPACE_MODEL", "tiny")  # the tests' default model
os.environ["OUTPACE_CONFIG"] = os.devnull  # nobody's own settings

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny, tiny_home, tiny_models  # noqa: F401
from toy_parts import toy_parts

from outpace.config import EngineConfig
from outpace.llm import LLM

# A failing drafter fails its test. Tests of the guard say on_drafter_error="continue", or use `real_defaults`.
DEFAULTS = {field.name: field.default for field in fields(EngineConfig)}
EngineConfig.__init__.__defaults__ = tuple((DEFAULTS | {"on_drafter_error": "raise"}).values())

# Files that take longest begin first, so that the workers of pytest-xdist end together.
SLOW = [
    "targets/test_openvino.py",
    "api/test_llm.py",
    "cli/test_real_commands.py",
    "drafters/draft_model/test_first_layers.py",
    "project/test_tutorial.py",
    "engine/test_verifiers.py",
    "engine/test_lossless.py",
    "training/test_training_run.py",
    "sampling/test_grammar_real.py",
    "export/test_export_draft_model.py",
    "server/test_server_real.py",
    "drafters/test_prediction.py",
    "drafters/test_drafters.py",
    "heads/test_eagle.py",
    "heads/test_blanks_trained.py",
    "server/test_server_policy.py",
    "training/test_training_draft.py",
    "drafters/draft_model/test_draft_model.py",
    "project/test_docs.py",
    "server/test_server_fuzz.py",
    "heads/test_medusa.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(item.path, len(SLOW)))


@pytest.fixture
def real_defaults(monkeypatch) -> None:
    """A failing drafter costs speed only, as for users."""
    monkeypatch.setattr(EngineConfig.__init__, "__defaults__", tuple(DEFAULTS.values()))


@pytest.fixture(scope="session")
def llm() -> LLM:
    """The default model, loaded once; leave no request behind."""
    return LLM("default", "prompt_lookup")


@pytest.fixture
def make_toy(monkeypatch) -> Callable[..., LLM]:
    """Builds an LLM over a toy target: a token is a character, and loading it costs nothing.

    While this fixture lives every LLM is such a one, those of the command line too. `make_toy(speculative_config, **options)` takes the
    options of LLM, and those of ToyTarget in a dict `toy`. It guesses with prompt_lookup unless told: `auto` depends on the clock.
    """
    options: dict[str, Any] = {}

    def load(*_: Any, is_draft: bool = False) -> tuple[Any, ...]:
        return toy_parts(**options)

    def build(speculative_config: Any = "prompt_lookup", toy: dict[str, Any] | None = None, **settings: Any) -> LLM:
        options.update(toy or {})
        return LLM("toy", speculative_config, **settings)

    monkeypatch.setattr("outpace.llm.load", load)
    return build


@pytest.fixture
def toy_llm(make_toy) -> LLM:
    """An LLM over a toy target."""
    return make_toy()
