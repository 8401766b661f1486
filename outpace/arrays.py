"""The type of numpy arrays in signatures. Shapes and number types are given in docstrings, as in "logits [rows, V] float32"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = np.ndarray
