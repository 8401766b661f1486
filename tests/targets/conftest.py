"""Tiny models on each device."""

from __future__ import annotations

import pytest
from hf_tools import DEVICES, KINDS, model_of


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(params=KINDS)
def model(request, device):
    return model_of(request.param, device)
