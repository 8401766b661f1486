"""A logits processor of a user."""

from __future__ import annotations

import numpy as np


def hook(token_ids, logits):
    """Depends on the whole text: forbids the token seen 5 places before, prefers one named by a hash."""
    out = logits.copy()
    if len(token_ids) > 4:
        out[token_ids[-5]] = -np.inf
    out[sum((i + 1) * t for i, t in enumerate(token_ids)) % len(out)] += 1.5
    return out
