"""The model that tests of training train for."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def model(tiny_models, tiny_home) -> Path:
    return tiny_models["llama"]
