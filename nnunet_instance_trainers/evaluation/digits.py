"""How many decimals numbers that stand beside each other need."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

__all__ = ["decimals"]

_EQUAL = 9  # values that agree to so many decimals tie in ranks too


def decimals(values: Iterable[float], least: int = 2) -> int:
    """The fewest decimals, from ``least`` on, that hide no difference.

    The largest value keeps two significant digits, and values that differ look different. Nan counts for nothing.

    Example:
        >>> decimals([0.5, 0.7]), decimals([0.0123, 0.0124]), decimals([3e-6, 0.0])
        (2, 4, 7)
    """
    values = np.asarray(list(values), float)
    different = np.unique(np.round(values[np.isfinite(values)], _EQUAL))
    largest = np.abs(different).max(initial=0)
    digits = max(least, 1 - math.floor(math.log10(largest))) if largest else least
    while len(np.unique(np.round(different, digits))) < len(different):
        digits += 1
    return digits
