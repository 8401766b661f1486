"""The letters that byte-level vocabularies (GPT-2) use for bytes."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1)
def byte_letters() -> dict[str, int]:
    """Letter -> byte: printable bytes are themselves, the others are the letters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
