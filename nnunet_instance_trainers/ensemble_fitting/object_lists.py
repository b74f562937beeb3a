"""The objects of one case and class as several models see them, and what any choice among them would score.

Voxels are visited once. The components of a union of components are the groups that touch, so the score of a choice
follows from lists alone, and is the one that the merged image would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from nnunet_instance_trainers.instances import label_components, renumber

__all__ = ["ObjectLists", "list_objects"]


@dataclass(frozen=True)
class ObjectLists:
    """The components of every source, numbered through, and how they meet each other and the target.

    A source is a mask: a model's segmentation, or its probabilities above some threshold.

    Attributes:
        source: (K,) the source of each component.
        voxels: (K,) its size.
        peak: (K,) the highest probability in it; infinite where the source has none.
        cut: (K,) bool, beside or on ignored voxels.
        touching: (T, 2) components of two sources that share voxels or are neighbours.
        sharing: (U, 2) those of them that share voxels.
        atoms: (R, S) the components that hold a voxel, -1 where a source has none there: every combination that
            occurs outside ignored voxels, once.
        atom_instance: (R,) the target instance there, -1 for background.
        atom_voxels: (R,) how often it occurs.
        instance_voxels: (N,) size of each target instance.
        instance_cut: (N,) bool, beside ignored voxels.
        voxel_ml: volume of a voxel.
    """

    source: np.ndarray
    voxels: np.ndarray
    peak: np.ndarray
    cut: np.ndarray
    touching: np.ndarray
    sharing: np.ndarray
    atoms: np.ndarray
    atom_instance: np.ndarray
    atom_voxels: np.ndarray
    instance_voxels: np.ndarray
    instance_cut: np.ndarray
    voxel_ml: float

    @property
    def volumes_ml(self) -> np.ndarray:
        """(K,) volume of each component."""
        return self.voxels * self.voxel_ml


def list_objects(
    instances: np.ndarray,
    masks: Sequence[np.ndarray],
    *,
    probabilities: Sequence[np.ndarray | None] | None = None,
    valid: np.ndarray | None = None,
    voxel_ml: float = 0.001,
    connectivity: int = 26,
) -> ObjectLists:
    """The lists of one case and class.

    Args:
        instances: (*S) integer ids of the target, 0 is background.
        masks: of each source (*S) bool.
        probabilities: of each source (*S) or None, for the peaks.
        valid: (*S) bool, False where voxels are ignored; None means nowhere.
        voxel_ml: volume of a voxel.
        connectivity: 6, 18 or 26 neighbours that join voxels to components; in 2D 6 stands for 4, the others for 8.

    Example:
        >>> lists = list_objects(np.array([[1, 1, 0, 0, 2]]), [np.array([[1, 1, 1, 0, 0]], bool)])
        >>> lists.voxels.tolist(), lists.instance_voxels.tolist()
        ([3], [2, 1])
    """
    labelled = [label_components(mask, connectivity) for mask in masks]
    first = np.cumsum([0, *(n for _, n in labelled)])
    source = np.repeat(np.arange(len(masks)), [n for _, n in labelled])
    ignored = np.zeros(instances.shape, bool) if valid is None else ~valid
    instances = renumber(np.where(ignored, 0, instances))[0]
    place = np.flatnonzero(np.logical_or.reduce([instances > 0, *masks]))
    nodes = np.stack([ids.ravel()[place].astype(np.int64) - 1 + start for (ids, _), start in zip(labelled, first)], 1)
    nodes[np.stack([mask.ravel()[place] for mask in masks], 1) == 0] = -1
    instance = instances.ravel()[place].astype(np.int64) - 1
    near = _near(ignored).ravel()[place]
    rows, voxels = _distinct(np.column_stack((nodes, instance))[~ignored.ravel()[place]])
    n_instances = int(instance.max(initial=-1)) + 1
    touching, sharing = _meetings(nodes, place, instances.shape, {6: 1, 18: 2, 26: 3}[connectivity])
    return ObjectLists(
        source=source,
        voxels=np.bincount(nodes[nodes >= 0], minlength=first[-1]),
        peak=_peaks(labelled, probabilities),
        cut=np.bincount(nodes[near][nodes[near] >= 0], minlength=first[-1]) > 0,
        touching=touching,
        sharing=sharing,
        atoms=rows[:, :-1],
        atom_instance=rows[:, -1],
        atom_voxels=voxels,
        instance_voxels=np.bincount(instance[instance >= 0], minlength=n_instances),
        instance_cut=np.bincount(instance[near & (instance >= 0)], minlength=n_instances) > 0,
        voxel_ml=voxel_ml,
    )


def _peaks(labelled: Sequence[tuple[np.ndarray, int]], probabilities: Sequence[np.ndarray | None] | None) -> np.ndarray:
    peaks = [np.zeros(0)]
    for (ids, n), p in zip(labelled, probabilities or [None] * len(labelled)):
        peaks.append(
            np.full(n, np.inf) if p is None or not n else np.asarray(ndimage.maximum(p, ids, np.arange(1, n + 1)))
        )
    return np.concatenate(peaks)


def _near(ignored: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(ignored, np.ones((3,) * ignored.ndim, bool)) if ignored.any() else ignored


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that occur, each once, and how often."""
    order = np.lexsort(rows.T)
    ordered = rows[order]
    new = np.append(True, (ordered[1:] != ordered[:-1]).any(1))[: len(rows)]
    starts = np.flatnonzero(new)
    return ordered[starts], np.diff(np.append(starts, len(rows)))


def _meetings(
    nodes: np.ndarray, place: np.ndarray, shape: tuple[int, ...], reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of components of two sources that are neighbours, up to so many axes apart, and that share voxels."""
    padded = tuple(n + 2 for n in shape)
    flat = np.ravel_multi_index(tuple(axis + 1 for axis in np.unravel_index(place, shape)), padded)
    row = np.full(int(np.prod(padded)), -1, np.int32)
    row[flat] = np.arange(len(flat))
    strides = np.cumprod((1, *padded[:0:-1]))[::-1]
    steps = [step for step in product((-1, 0, 1), repeat=len(shape)) if np.abs(step).sum() <= reach]
    offsets = {int(np.dot(step, strides)) for step in steps}
    sharing = _pairs(nodes, nodes)
    found = [sharing]
    for offset in sorted(offset for offset in offsets if offset > 0):
        beside = row[flat + offset]
        found.append(_pairs(nodes[beside >= 0], nodes[beside[beside >= 0]]))
    return _decoded(np.unique(np.concatenate(found))), _decoded(sharing)


def _pairs(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Codes of the pairs of components of two sources in two (V, S) lists of voxels."""
    codes = [np.zeros(0, np.int64)]
    for s, t in product(range(here.shape[1]), repeat=2):
        a, b = here[:, s], there[:, t]
        if s != t:
            both = (a >= 0) & (b >= 0)
            codes.append(np.unique((np.minimum(a, b)[both] << 32) | np.maximum(a, b)[both]))
    return np.unique(np.concatenate(codes))


def _decoded(codes: np.ndarray) -> np.ndarray:
    return np.column_stack((codes >> 32, codes & 0xFFFFFFFF))
