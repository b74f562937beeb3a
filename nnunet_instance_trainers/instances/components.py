"""Connected components of label images in NumPy, through cc3d."""

from __future__ import annotations

from typing import Literal

import cc3d
import numpy as np

__all__ = ["label_components", "renumber"]

_IN_2D: dict[int, Literal[4, 8]] = {6: 4, 18: 8, 26: 8}
_IN_3D: dict[int, Literal[6, 18, 26]] = {6: 6, 18: 18, 26: 26}


def label_components(labels: np.ndarray, connectivity: int = 26) -> tuple[np.ndarray, int]:
    """Number the connected components of a label image.

    Voxels are joined when they are neighbours and carry the same label, so components never cross from one label
    into another.

    Args:
        labels: (*S) integers or booleans, two or three axes, 0 is background.
        connectivity: neighbours by face (6), by face or edge (18), by face, edge or corner (26). In 2D 6 joins by
            edge (4 neighbours), the others by edge or corner (8), as they do in a volume of one slice.

    Returns:
        (*S) uint32 ids, 0 for the background and 1..n for the components, and n.

    Raises:
        ValueError: the image has neither two nor three axes, or another connectivity.

    Example:
        >>> ids, n = label_components(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 2]]))
        >>> n, ids.tolist()
        (2, [[1, 0, 0], [0, 1, 0], [0, 0, 2]])
    """
    if labels.ndim not in (2, 3):
        raise ValueError(f"labels must have 2 or 3 axes, got shape {labels.shape}")
    if connectivity not in _IN_3D:
        raise ValueError(f"connectivity must be 6, 18 or 26, got {connectivity}")
    if 0 in labels.shape:
        return np.zeros(labels.shape, dtype=np.uint32), 0
    labels = np.ascontiguousarray(labels)
    if labels.dtype == bool:
        labels = labels.view(np.uint8)  # cc3d 4.1.1 gives ids to the background of some 2D boolean images
    ids, n = cc3d.connected_components(
        labels,
        connectivity=(_IN_3D if labels.ndim == 3 else _IN_2D)[connectivity],
        return_N=True,
        out_dtype=np.uint32,
    )
    return ids, int(n)


def renumber(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Make ids consecutive, in the same order.

    Args:
        ids: (*S) integers or booleans, 0 is background.

    Returns:
        (*S) uint32 ids 1..n, and n.

    Example:
        >>> renumber(np.array([[7, 0, 3]]))[0].tolist()
        [[2, 0, 1]]
    """
    ids = ids.astype(np.uint8) if ids.dtype == bool else ids
    largest = int(ids.max(initial=0))
    if largest > ids.size or ids.min(initial=0) < 0:  # a list of all ids up to the largest would be too long
        present, places = np.unique(np.where(ids > 0, ids, 0), return_inverse=True)
        first = int(present[0] > 0)
        return (places.reshape(ids.shape) + first).astype(np.uint32), len(present) - 1 + first
    occurs = np.zeros(largest + 1, dtype=bool)
    occurs[ids] = True
    occurs[0] = False
    return np.where(occurs, occurs.cumsum(dtype=np.uint32), np.uint32(0))[ids], int(occurs.sum())
