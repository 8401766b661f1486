"""Target models verify draft tokens. A new target is one file here and one line in TARGETS; its module is imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from outpace.errors import BadInputError
from outpace.targets.base import TargetModel

TARGETS = {
    "openvino": "outpace.targets.openvino.target:OpenVINOTarget",
    "hf": "outpace.targets.hf.target:HFTarget",
    "toy": "outpace.targets.toy:ToyTarget",
}


def create_target(name: str, *args: Any, **options: Any) -> TargetModel:
    """Create the target with this name. Raises BadInputError for an unknown name."""
    if name not in TARGETS:
        raise BadInputError(f"unknown target {name!r}; known: auto, {', '.join(TARGETS)}")
    module, _, attribute = TARGETS[name].partition(":")
    target: TargetModel = getattr(import_module(module), attribute)(*args, **options)
    return target
