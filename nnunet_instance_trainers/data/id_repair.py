"""Make instance ids and classes agree again after both were resampled, each in its own way."""

from __future__ import annotations

from itertools import product

import numpy as np

from nnunet_instance_trainers.instances import label_components, renumber

__all__ = ["repair_ids"]


def repair_ids(ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Give ids > 0 exactly to the voxels of a class.

    nnU-Net resamples classes linearly, ids can only be resampled nearest, so they disagree along borders.
    Ids outside the classes are dropped. Voxels of a class without an id take that of the nearest neighbour
    of the same class, growing inwards from the object, one voxel per round and faces before edges before
    corners. What no object reaches becomes new objects, its connected components.

    The repair makes any map fit, also a wrong one. Its measure of that are the voxels of a class that are
    ``astray``: without an id and without a neighbour of their class that has one. Resampling leaves next to
    none of them, however small the objects are, since a voxel that is still foreground lies within half a
    voxel of its object; a map that took another way than the image leaves about half or more.

    Args:
        ids: (*S) integer ids, 0 is background.
        labels: (*S) integer classes of the voxels that must have an id, 0 elsewhere.

    Returns:
        (*S) ids of the same type, and the number of voxels that were astray.

    Example:
        >>> repair_ids(np.array([[7, 7, 0, 0, 0]]), np.array([[0, 1, 1, 0, 1]]))
        (array([[0, 7, 7, 0, 8]]), 1)
    """
    foreground = labels > 0
    ids = ids * foreground
    missing = np.stack(np.unravel_index(np.flatnonzero(foreground & (ids == 0)), ids.shape), -1)
    offsets = np.array(sorted(product((-1, 0, 1), repeat=ids.ndim), key=lambda o: np.abs(o).sum())[1:])
    astray = len(missing)
    first_round = True
    while len(missing):
        found = _nearest_ids(ids, labels, missing, offsets)
        reached = found > 0
        ids[tuple(missing[reached].T)] = found[reached]
        missing = missing[~reached]
        if first_round:
            astray, first_round = len(missing), False
        if not reached.any():
            at = tuple(missing.T)
            orphans = np.zeros_like(labels)
            orphans[at] = labels[at]
            numbered, n = label_components(orphans)
            if int(ids.max()) + n > np.iinfo(ids.dtype).max:
                ids = renumber(ids)[0].astype(ids.dtype)
            ids[at] = ids.max() + numbered[at].astype(ids.dtype)
            break
    return ids, astray


def _nearest_ids(ids: np.ndarray, labels: np.ndarray, voxels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """For each voxel the id of its first neighbour, in the order of the offsets, of the same class; else 0."""
    neighbours = np.moveaxis(voxels[:, None] + offsets, -1, 0)
    flat = np.ravel_multi_index(tuple(neighbours), ids.shape, mode="clip")
    same_class = labels.reshape(-1)[flat] == labels[tuple(voxels.T)][:, None]
    candidates = np.where(same_class, ids.reshape(-1)[flat], 0)
    return np.take_along_axis(candidates, (candidates > 0).argmax(1)[:, None], 1)[:, 0]
