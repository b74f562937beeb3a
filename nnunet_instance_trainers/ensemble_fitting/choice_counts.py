"""What is kept of one class, and what it scores: counted from the lists of objects, without the images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nnunet_instance_trainers.ensemble_fitting.object_lists import ObjectLists
from nnunet_instance_trainers.ensembling.object_claims import range_distance
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.detection import OVERLAP, Outcome, Pairs, Rule
from nnunet_instance_trainers.instances.volume_ranges import in_range

__all__ = ["Choice", "count_choice", "outcome_of"]


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
    there = large & (sizes > 0) & (meets | ~cut) & rule.large_enough(sizes * lists.voxel_ml)
    real = (np.bincount(instance, minlength=len(lists.instance_voxels)) > 0) | ~lists.instance_cut
    real &= rule.large_enough(lists.instance_voxels * lists.voxel_ml)
    counted = real[instance] & there[component]
    return Outcome.of(
        Pairs(
            instance_voxels=lists.instance_voxels[real],
            component_voxels=sizes[there].astype(np.int64),
            instance=(np.cumsum(real) - 1)[instance[counted]],
            component=(np.cumsum(there) - 1)[component[counted]],
            shared=shared[counted],
        ),
        rule,
        voxel_ml=lists.voxel_ml,
        target_voxels=int(lists.instance_voxels.sum()),
        predicted_voxels=int(sizes[large].sum()),
        shared_voxels=int(shared.sum()),
    )


def count_choice(lists: ObjectLists, choice: Choice, rule: Rule = OVERLAP) -> Counts:
    """What the result of a choice scores, as ``detect`` counts it.

    Limits: without ignored voxels exactly the counts of the merged image. A merged object that ignored voxels cut in
    two counts as one here.

    Example:
        >>> from nnunet_instance_trainers.ensemble_fitting.object_lists import list_objects
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
