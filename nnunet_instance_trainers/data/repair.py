"""Make instance ids and classes agree again after both were resampled, each in its own way."""

from __future__ import annotations

from itertools import product

import numpy as np

from nnunet_instance_trainers.instances import label_components

__all__ = ["repair_ids"]


def repair_ids(ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Give ids > 0 exactly to the voxels of a class.

    nnU-Net resamples classes linearly, ids can only be resampled nearest, so they disagree along borders.
    Ids outside the classes are dropped. Voxels of a class without an id take that of the nearest neighbour
    of the same class, growing inwards from the object, one voxel per round and faces before edges before
    corners. What no object reaches becomes new objects, its connected components.

    The repair cannot tell a wrong map from a blurred one, so it reports how much it had to change.

    Args:
        ids: (*S) integer ids, 0 is background.
        labels: (*S) integer classes of the voxels that must have an id, 0 elsewhere.

    Returns:
        (*S) ids of the same type, and the number of voxels in which ids and classes disagreed.

    Example:
        >>> repair_ids(np.array([[7, 7, 0, 0, 0]]), np.array([[0, 1, 1, 0, 1]]))
        (array([[0, 7, 7, 0, 8]]), 3)
    """
    foreground = labels > 0
    missing = np.argwhere(foreground & (ids == 0))
    n_outside = np.count_nonzero(ids) - (np.count_nonzero(foreground) - len(missing))
    if n_outside == 0 and len(missing) == 0:
        return ids, 0
    ids = np.where(foreground, ids, 0).astype(ids.dtype)
    disagreement = n_outside + len(missing)
    remaining = _grow_into(ids, labels, missing)
    if len(remaining):
        orphans = np.zeros_like(labels)
        orphans[tuple(remaining.T)] = labels[tuple(remaining.T)]
        new_ids, _ = label_components(orphans)
        at = tuple(remaining.T)
        ids[at] = ids.max() + new_ids[at].astype(ids.dtype)
    return ids, disagreement


def _grow_into(ids: np.ndarray, labels: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Fill the voxels ``missing`` of ``ids`` in place; return those that no object reaches."""
    offsets = np.array(sorted(product((-1, 0, 1), repeat=ids.ndim), key=lambda o: np.abs(o).sum())[1:])
    while len(missing):
        neighbours = np.moveaxis(missing[:, None] + offsets, -1, 0)
        flat = np.ravel_multi_index(tuple(neighbours), ids.shape, mode="clip")
        same_class = labels.reshape(-1)[flat] == labels[tuple(missing.T)][:, None]
        candidates = np.where(same_class, ids.reshape(-1)[flat], 0)
        found = np.take_along_axis(candidates, (candidates > 0).argmax(1)[:, None], 1)[:, 0]
        reached = found > 0
        if not reached.any():
            break
        ids[tuple(missing[reached].T)] = found[reached]
        missing = missing[~reached]
    return missing
