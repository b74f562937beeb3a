"""Whether a preprocessed segmentation can be what nnU-Net made of a raw label."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from scipy import ndimage

__all__ = ["count_impossible", "outdated", "to_grid"]

_REACH = 2
"""Voxels of the label around a new one that may decide on it: linear interpolation takes one to either side."""


def to_grid(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An image (*S) resampled to a shape, each new voxel that of the nearest old one."""
    # nnU-Net's resampling aligns the outer edges of the grids, so voxel i of the new grid has its centre at
    # (i + 0.5) * old / new in units of old voxels.
    nearest = [((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(image.shape, shape)]
    return image[np.ix_(*nearest)]


def count_impossible(label: np.ndarray, segmentation: np.ndarray) -> int:
    """Voxels of a segmentation that its label cannot have become.

    On the grid of the label every difference counts. On another one a class may move by as much as resampling moves
    it: what counts is a class where the label has none of it nearby, and another one where it has nothing else.

    Args:
        label: (*S) the chosen classes, cropped as nnU-Net does; 0 elsewhere.
        segmentation: (*R) the same on the preprocessed grid.

    Example:
        >>> count_impossible(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))
        1
    """
    if label.shape == segmentation.shape:
        return int(np.count_nonzero(label != segmentation))
    count = 0
    for value in np.union1d(np.unique(label), np.unique(segmentation)):
        if value == 0:
            continue
        here, there = (label == value).astype(np.uint8), segmentation == value
        nearby = to_grid(ndimage.maximum_filter(here, 2 * _REACH + 1), there.shape) > 0
        inside = to_grid(ndimage.minimum_filter(here, 2 * _REACH + 1), there.shape) > 0
        count += int(np.count_nonzero(there & ~nearby) + np.count_nonzero(inside & ~there))
    return count


def outdated(label: Path, segmentation: Path, case: str, differing: int, remedy: str) -> str:
    """The line for a label that is not that of a preprocessed segmentation, with the age of both files."""
    dates = [datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M") for file in (label, segmentation)]
    return (
        f"case {case!r}: {label} ({dates[0]}) is not the label of its preprocessed segmentation ({dates[1]}), in "
        f"{differing} voxels: run '{remedy}'"
    )
