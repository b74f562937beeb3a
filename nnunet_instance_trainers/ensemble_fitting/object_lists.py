"""The objects of one case and class as several models see them, and what any choice among them would score.

Voxels are visited once. The components of a union of components are the groups that touch, so the score of a choice
follows from lists alone, and is the one that the merged image would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nnunet_instance_trainers.ensembling.object_claims import range_distance
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.detection import OVERLAP, Outcome, Pairs, Rule
from nnunet_instance_trainers.instances import label_components, renumber
from nnunet_instance_trainers.instances.volume_ranges import in_range

__all__ = ["Choice", "ObjectLists", "count_choice", "list_objects", "outcome_of"]


@dataclass(frozen=True)
class Choice:
    """What is kept of one class.

    Attributes:
        sources: for each bin the source that its objects come from.
        edges_ml: ascending edges between the bins; none for one source for all.
        rescue: whether an object that two sources find, and that both edges turn away, is kept.
        peak: objects whose highest probability does not exceed it are left out.
        min_volume_ml: merged objects smaller than that are left out.
    """

    sources: tuple[int, ...]
    edges_ml: tuple[float, ...] = ()
    rescue: bool = False
    peak: float = 0.0
    min_volume_ml: float = 0.0

    def ranges(self) -> list[tuple[int, float, float]]:
        """(source, low, high) of each bin."""
        return [(source, *edges) for source, edges in zip(self.sources, pairwise((0.0, *self.edges_ml, np.inf)))]


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
) -> ObjectLists:
    """The lists of one case and class.

    Args:
        instances: (*S) integer ids of the target, 0 is background.
        masks: of each source (*S) bool.
        probabilities: of each source (*S) or None, for the peaks.
        valid: (*S) bool, False where voxels are ignored; None means nowhere.
        voxel_ml: volume of a voxel.

    Example:
        >>> lists = list_objects(np.array([[1, 1, 0, 0, 2]]), [np.array([[1, 1, 1, 0, 0]], bool)])
        >>> lists.voxels.tolist(), lists.instance_voxels.tolist()
        ([3], [2, 1])
    """
    labelled = [label_components(mask) for mask in masks]
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
    touching, sharing = _meetings(nodes, place, instances.shape)
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


def outcome_of(lists: ObjectLists, choice: Choice, rule: Rule = OVERLAP) -> Outcome:
    """What became of the objects under a choice: see :func:`count_choice`."""
    kept = kept_components(lists, choice)
    group, n_groups = _groups(kept, lists.touching)
    inside = np.append(group, -1)[lists.atoms].max(1)
    sizes = np.bincount(inside[inside >= 0], lists.atom_voxels[inside >= 0], n_groups)
    large = in_range(sizes * lists.voxel_ml, choice.min_volume_ml, np.inf)
    inside = np.where(np.append(large, False)[inside], inside, -1)
    both = (inside >= 0) & (lists.atom_instance >= 0)
    codes, where = np.unique(lists.atom_instance[both] * max(n_groups, 1) + inside[both], return_inverse=True)
    instance, component = np.divmod(codes, max(n_groups, 1))
    shared = np.bincount(where.ravel(), lists.atom_voxels[both], len(codes)).astype(np.int64)
    meets = np.bincount(component, minlength=n_groups) > 0
    cut = np.bincount(group[kept & lists.cut], minlength=n_groups) > 0
    there = large & (sizes > 0) & (meets | ~cut)
    real = (np.bincount(instance, minlength=len(lists.instance_voxels)) > 0) | ~lists.instance_cut
    return Outcome.of(
        Pairs(
            instance_voxels=lists.instance_voxels[real],
            component_voxels=sizes[there].astype(np.int64),
            instance=(np.cumsum(real) - 1)[instance],
            component=(np.cumsum(there) - 1)[component],
            shared=shared,
        ),
        rule,
        voxel_ml=lists.voxel_ml,
        target_voxels=int(lists.instance_voxels.sum()),
        predicted_voxels=int(sizes[large].sum()),
    )


def count_choice(lists: ObjectLists, choice: Choice, rule: Rule = OVERLAP) -> Counts:
    """What the result of a choice scores, as ``detect`` counts it.

    Limits: without ignored voxels exactly the counts of the merged image. A merged object that ignored voxels cut in
    two counts as one here.

    Example:
        >>> target = np.array([[1, 1, 1, 0, 0, 2]])
        >>> large, small = np.array([[1, 1, 1, 0, 0, 0]], bool), np.array([[0, 0, 0, 0, 0, 1]], bool)
        >>> lists = list_objects(target, [small, large])
        >>> count_choice(lists, Choice((1,))).found, count_choice(lists, Choice((0, 1), (0.002,))).found
        (1, 2)
    """
    return outcome_of(lists, choice, rule).counts


def kept_components(lists: ObjectLists, choice: Choice) -> np.ndarray:
    """(K,) bool, the components that a choice takes, before they are merged."""
    volumes, there = lists.volumes_ml, lists.peak > choice.peak
    kept = np.zeros(len(volumes), bool)
    for source, low, high in choice.ranges():
        kept |= there & (lists.source == source) & in_range(volumes, low, high)
    return kept | _rescued(lists, choice, kept) if choice.rescue else kept


def _rescued(lists: ObjectLists, choice: Choice, kept: np.ndarray) -> np.ndarray:
    """(K,) bool, the components that ``merge_members`` would rescue."""
    volumes, there = lists.volumes_ml, (lists.peak > choice.peak) & np.isin(lists.source, choice.sources)
    rescued = np.zeros(len(kept), bool)
    a, b = lists.sharing[there[lists.sharing].all(1)].T
    a, b = np.concatenate((a, b)), np.concatenate((b, a))
    wanted, distance = np.full(len(kept), -1), np.full(len(kept), np.inf)
    for source, low, high in choice.ranges():
        wanted[in_range(volumes, low, high)] = source
        own = lists.source == source
        distance[own] = np.minimum(distance[own], range_distance(volumes[own], (low, high)))
    free = there & ~kept
    free[a[kept[b]]] = False
    straddles = np.zeros(len(kept), bool)
    straddles[a[free[a] & (lists.source[b] == wanted[a])]] = True
    place = np.array([choice.sources.index(s) if s in choice.sources else -1 for s in lists.source.tolist()])
    blocked = ~straddles
    for node in np.lexsort((np.arange(len(kept)), place, distance)):
        if not blocked[node]:
            rescued[node] = True
            blocked[b[a == node]] = True
    return rescued


def _groups(kept: np.ndarray, touching: np.ndarray) -> tuple[np.ndarray, int]:
    """(K,) the merged object that each kept component becomes part of, -1 for the others, and their number."""
    group = np.where(kept, np.cumsum(kept) - 1, -1)
    n = int(kept.sum())
    edges = group[touching[kept[touching].all(1)]]
    if not len(edges):
        return group, n
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    n, merged = connected_components(graph, directed=False)
    return np.where(kept, merged[group], -1), n


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


def _meetings(nodes: np.ndarray, place: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of components of two sources that are neighbours or share voxels, and of those that share voxels."""
    padded = tuple(n + 2 for n in shape)
    flat = np.ravel_multi_index(tuple(axis + 1 for axis in np.unravel_index(place, shape)), padded)
    row = np.full(int(np.prod(padded)), -1, np.int32)
    row[flat] = np.arange(len(flat))
    strides = np.cumprod((1, *padded[:0:-1]))[::-1]
    offsets = {int(np.dot(step, strides)) for step in product((-1, 0, 1), repeat=len(shape))}
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
