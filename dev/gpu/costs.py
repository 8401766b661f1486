"""The cost of a forward pass by its tokens, against the memory floor: the time that reading weights and K/V takes."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from gpu.machine import bandwidth, synchronize
from gpu.setting import Setting, weight_bytes

from outpace.params import SamplingParams
from outpace.targets.hf.target import HFTarget
from outpace.tree.segment import Drawing, Segment

SIZES, CPU_SIZES = (1, 2, 4, 8, 16, 32, 64, 128), (1, 4, 8)
CONTEXT, CPU_CONTEXT = 512, 64
REPEATS = 20
GREEDY = Drawing(SamplingParams(), 0)


def curve(setting: Setting, name: str, model: Any) -> dict[str, Any]:
    """The medians for one sequence and for 8, in milliseconds: with graphs, which draw tokens on the device, and without, where the logits
    are copied to the host."""
    sizes = CPU_SIZES if setting.is_cpu else SIZES
    context = CPU_CONTEXT if setting.is_cpu else CONTEXT
    columns = {}
    for label, options in (("graphs", {"static": True}), ("direct", {"static": False})):
        target = HFTarget(model, kv_cache_tokens=32768, **options)
        columns[label] = [milliseconds(target, setting, size, 1, context) for size in sizes]
        if label == "graphs":
            columns["graphs, 8 sequences"] = [milliseconds(target, setting, size, 8, context) for size in sizes if size <= 16]
            floor = 1e3 * (weight_bytes(model) + context * target.kv_cache.token_bytes) / (1e9 * bandwidth(setting.device))
        target.drop_buffers()
        del target
    return {"model": name, "context": context, "sizes": list(sizes), "milliseconds": columns, "memory_floor": round(floor, 4)}


def milliseconds(target: HFTarget, setting: Setting, size: int, num_seqs: int, context: int) -> float:
    """The median time of a pass of `size` tokens for each of some sequences, until the host has the tokens drawn, or else the logits."""
    slots = [target.allocate(context + size) for _ in range(num_seqs)]
    tokens = [i % target.capabilities.vocab_size for i in range(7, 7 + context + size)]
    for slot in slots:
        target.forward([Segment(slot, tokens[:context], wants_output=False)])
        target.accept(slot, tokens[:context], range(context))
    times = []
    for _ in range(4 if setting.is_cpu else REPEATS):
        synchronize(setting.device)
        started = time.perf_counter()
        target.forward([Segment(slot, tokens[context:], drawing=GREEDY) for slot in slots])
        synchronize(setting.device)
        times.append(1e3 * (time.perf_counter() - started))
    for slot in slots:
        target.free(slot)
    return round(median(times[2:]), 4)
