"""What precision `auto` means on OpenVINO: 4 bits for models that lose little by it and wait for memory, 8 bits for small ones."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from outpace.models.find import Source
from outpace.progress import note

INT4_PARAMETERS = 300_000_000  # from here on; at 135 M, 4 bits change every fourth token, at 494 M every sixth (docs/models.md)


def auto_precision(source: Source) -> str:
    """The precision for a model; says in one line why if it is not int8."""
    count = source.known.num_parameters if source.known else num_parameters(source)
    if count < INT4_PARAMETERS:
        return "int8"
    note(f"4-bit weights, as the model has {count / 1e6:,.0f} million parameters (--precision int8 for 8 bits)")
    return "int4"


def num_parameters(source: Source) -> int:
    """Number of weights in a .gguf file or in a folder of safetensors files; 0 if they cannot be read, which converting will tell."""
    if source.path.suffix == ".gguf":
        from outpace.models.gguf.file import read

        return sum(math.prod(tensor.shape) for tensor in read(source.path).tensors.values())
    return sum(_in_file(file) for file in source.path.glob("*.safetensors"))


def _in_file(path: Path) -> int:
    try:
        with safe_open(path, "np") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return 0
