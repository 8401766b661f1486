"""What was measured on, and how fast its memory is."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch
import transformers

import outpace
from outpace.machine import processor


def about(device: str) -> dict[str, Any]:
    """Names, versions and the bandwidth of the memory."""
    is_cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else processor(),
        "memory_gb": round(torch.cuda.get_device_properties(device).total_memory / 1e9) if is_cuda else None,
        "gb_per_second": round(bandwidth(device), 1),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "outpace": outpace.__version__,
    }


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def bandwidth(device: str) -> float:
    """GB per second of a copy, counting bytes read and written: the best of some."""
    size = (1 << 30) if device.startswith("cuda") else (1 << 26)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(8):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = max(best, 2 * size / (time.perf_counter() - started) / 1e9)
    return best
