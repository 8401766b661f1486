"""A tiny model that heads are exported for."""

import pytest

from outpace.export.base import BaseModel


@pytest.fixture(scope="module")
def model(tiny_models):
    """A tiny model in a folder, 64 wide with 96 tokens."""
    return BaseModel.of(str(tiny_models["llama"]))


@pytest.fixture(scope="module")
def place(model):
    return str(model.source.path)
