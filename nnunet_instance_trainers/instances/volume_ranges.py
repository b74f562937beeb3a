"""Which range or bin of volumes an object belongs to: one rule for scores and ensembles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["in_range", "size_bins"]

# Images carry their spacing in single precision, so an object of exactly an edge's size may come out a little smaller.
_TOLERANCE = 1e-6


def in_range(volume_ml: np.ndarray, low_ml: float, high_ml: float) -> np.ndarray:
    """Which volumes are at least ``low_ml`` and below ``high_ml``.

    A volume within a millionth of an edge is at the edge. Ranges that share an edge share no volume and leave none out.

    Raises:
        ValueError: the range is empty or begins below 0.
    """
    if not 0 <= low_ml < high_ml:
        raise ValueError(f"a range goes from 0 or more upwards, got {low_ml} to {high_ml}")
    return (volume_ml >= low_ml * (1 - _TOLERANCE)) & (volume_ml < high_ml * (1 - _TOLERANCE))


def size_bins(volume_ml: np.ndarray, edges_ml: Sequence[float] | np.ndarray) -> np.ndarray:
    """The bin [a, b) of each volume, 0 below the first of ascending edges, by the rule of :func:`in_range`.

    Example:
        >>> size_bins(np.array([0.001, 0.00999999999, 0.02]), (0.01, 0.02)).tolist()
        [0, 1, 2]
    """
    return np.digitize(volume_ml, np.asarray(edges_ml) * (1 - _TOLERANCE))
