"""EAGLE heads on disk: one that knows something, and one of random weights."""

from __future__ import annotations

import pytest
from eagle_tools import PROMPTS
from helper_tools import fitted_eagle, random_eagle

from outpace.targets.toy import ToyTarget


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A head that is right now and then on the toy model of sharpness 3."""
    folder = tmp_path_factory.mktemp("fitted")
    fitted_eagle(ToyTarget(sharpness=3.0), PROMPTS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    """A head whose guesses depend on all that it sees."""
    folder = tmp_path_factory.mktemp("random")
    random_eagle(ToyTarget(sharpness=3.0).base, reduced=9).save_pretrained(folder)
    return folder
