"""Move the model's weights to huge pages (Linux). Best effort; no value changes.

A forward pass reads all weights once, so with 4 kB pages it waits for the TLB. Measured: 15.3 ms for 2 tokens on small pages, 11.8 ms on
huge pages.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from threading import Thread

HUGE = 2 << 20
MADV_COLLAPSE = 25  # Linux 6.1: copy a range onto huge pages now
Range = tuple[int, int]
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 *(\S*)$")


def anonymous_ranges() -> set[Range]:
    """Private writable memory of this process that no file backs, as (start, end); empty if the system does not report it."""
    maps = Path("/proc/self/maps")
    if sys.platform != "linux" or not maps.exists():
        return set()
    found = (_LINE.match(line) for line in maps.read_text().splitlines())
    return {(int(m[1], 16), int(m[2], 16)) for m in found if m and m[3] in ("", "[heap]")}


def collapse(ranges: Iterable[Range], spare: Iterable[Range]) -> int:
    """Move memory to huge pages, except the ranges `spare`, which are mostly untouched and would be filled. Returns the number of bytes
    moved; 0 if the kernel cannot do it."""
    spared = list(spare)
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    moved = 0
    for start, end in ranges:
        for page in range(-(-start // HUGE) * HUGE, end - HUGE + 1, HUGE):
            if all(page + HUGE <= low or page >= high for low, high in spared) and madvise(page, HUGE, MADV_COLLAPSE) == 0:
                moved += HUGE
    return moved


def collapse_in_background(before: set[Range], spare: Iterable[Range], owner: object) -> Thread:
    """Start to move the memory allocated since `before` (see `collapse`), seconds for a large model; join the thread to wait for its end.
    It keeps `owner`, whose memory this is, from being freed meanwhile."""
    ranges = anonymous_ranges() - before
    thread = Thread(target=lambda _: collapse(ranges, spare), args=(owner,), name="outpace-hugepages", daemon=True)
    thread.start()
    return thread
