"""Components of a segmentation by their volume.

Volumes are numbers of voxels times spacing, in mL; a 2D image counts as 1 mm thick, so that 0.001 mL is 1 mm^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from nnunet_instance_trainers.instances import label_components
from nnunet_instance_trainers.instances.volume_ranges import in_range

__all__ = ["Components", "Range", "find_components", "keep_area_range", "keep_volume_range"]

Range = tuple[float, float]


class Components(NamedTuple):
    """Connected components of a segmentation.

    Attributes:
        ids: (*S) uint32, 0 for the background and 1..n.
        volume_ml: (n,) of each.
    """

    ids: np.ndarray
    volume_ml: np.ndarray


def find_components(segmentation: np.ndarray, spacing_mm: Sequence[float], *, connectivity: int = 26) -> Components:
    """The components of a segmentation with their volumes.

    Args:
        segmentation: (*S) bool, or integer labels; components never cross from one label into another.
        spacing_mm: of each axis.
        connectivity: of components: 6, 18 or 26 neighbours; in 2D 6 stands for 4, the others for 8.

    Raises:
        ValueError: there is not one spacing for each axis, not two or three axes, or another connectivity.

    Example:
        >>> find_components(np.array([[1, 1, 0, 1]]), (2.0, 5.0)).volume_ml.tolist()
        [0.02, 0.01]
    """
    segmentation = np.asarray(segmentation)
    if len(spacing_mm) != segmentation.ndim:
        raise ValueError(f"expected a spacing for each axis of shape {segmentation.shape}, got {tuple(spacing_mm)}")
    ids, n = label_components(segmentation, connectivity)
    voxels = np.bincount(ids[ids > 0], minlength=n + 1)[1:]  # of the whole it would make a copy in 64 bits
    return Components(ids, voxels * (prod(map(float, spacing_mm)) / 1000))


def keep_volume_range(
    segmentation: np.ndarray, low_ml: float, high_ml: float, spacing_mm: Sequence[float], *, connectivity: int = 26
) -> np.ndarray:
    """The objects of some volumes, and nothing else.

    Instance-loss paper, section 4.2.

    Limits: 0 to infinity gives the segmentation itself; ranges that share edges give parts that add up to it.

    Args:
        segmentation: (*S) bool, or integer labels.
        low_ml: inclusive.
        high_ml: exclusive.
        spacing_mm: of each axis.
        connectivity: of components: 6, 18 or 26 neighbours; in 2D 6 stands for 4, the others for 8.

    Returns:
        (*S) like the segmentation, 0 in all other objects.

    Example:
        >>> keep_volume_range(np.array([[1, 1, 0, 1]]), 0.02, float("inf"), (2.0, 5.0)).tolist()
        [[1, 1, 0, 0]]
    """
    ids, volume_ml = find_components(segmentation, spacing_mm, connectivity=connectivity)
    return segmentation * np.append(False, in_range(volume_ml, low_ml, high_ml))[ids]


def keep_area_range(
    segmentation: np.ndarray, low_mm2: float, high_mm2: float, spacing_mm: Sequence[float], *, connectivity: int = 26
) -> np.ndarray:
    """The same for areas in a 2D image.

    Raises:
        ValueError: the image has no two axes.

    Example:
        >>> keep_area_range(np.array([[1, 1, 0, 1]]), 0, 20, (2.0, 5.0)).tolist()
        [[0, 0, 0, 1]]
    """
    if np.ndim(segmentation) != 2:
        raise ValueError(f"only an image of two axes has areas, got shape {np.shape(segmentation)}")
    return keep_volume_range(segmentation, low_mm2 / 1000, high_mm2 / 1000, spacing_mm, connectivity=connectivity)
