"""Whether a text runs in circles. Such a text is drafted almost for free, so its speed says little about the drafter."""

from __future__ import annotations

from collections.abc import Sequence

MIN_PERIODS = 3
MIN_TOKENS = 40
MAX_PERIOD = 128
LOOPS = "the text loops; its speed is not representative"


def is_looping(token_ids: Sequence[int]) -> bool:
    """Whether the end of a text is one short sequence of tokens over and over: at least 3 times, and over at least 40 tokens.

    The last token may differ: it ends a text that stopped by itself.
    """
    return _ends_in_loop(token_ids) or _ends_in_loop(token_ids[:-1])


def _ends_in_loop(token_ids: Sequence[int]) -> bool:
    length = len(token_ids)
    for period in range(1, min(MAX_PERIOD, length // MIN_PERIODS) + 1):
        needed = max(MIN_TOKENS, MIN_PERIODS * period)
        if needed <= length and all(token_ids[i] == token_ids[i - period] for i in range(length - 1, length - needed + period - 1, -1)):
            return True
    return False
