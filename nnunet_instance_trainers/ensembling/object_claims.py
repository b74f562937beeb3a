"""The objects of several members in one image: which are kept, which straddle an edge, and who claims a voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nnunet_instance_trainers.ensembling.component_volumes import Range, find_components
from nnunet_instance_trainers.instances.volume_ranges import in_range

__all__ = ["MemberCounts", "Merged", "check_shapes", "combine_classes", "merge_members", "range_distance"]


@dataclass(frozen=True)
class MemberCounts:
    """Where the objects of one class came from.

    Attributes:
        found: components of each member.
        kept: those in its range.
        rescued: those out of its range that were kept all the same.
        straddling: objects that two members find, each with a volume in the other's range, so that neither keeps
            them; the larger number where one member sees one object and the other several.
        lost: how many of those are not in the result.
    """

    found: tuple[int, ...]
    kept: tuple[int, ...]
    rescued: tuple[int, ...]
    straddling: int
    lost: int


class Merged(NamedTuple):
    """The members' objects of one class in one image.

    Attributes:
        claims: (*S) uint8, 0 where there is none, else 1 + the index of the earliest member that has one there.
        by_member: where they came from.
    """

    claims: np.ndarray
    by_member: MemberCounts


def merge_members(
    masks: Sequence[np.ndarray],
    ranges: Sequence[Range],
    spacing_mm: Sequence[float],
    *,
    rescue: bool = False,
    connectivity: int = 26,
) -> Merged:
    """The objects of one class: from each member the components in its range.

    An object *straddles* an edge if a member finds it with a volume in another one's range, that one finds it too but
    with a volume out of it, and no component that is kept meets it. The published rule loses such objects.

    With ``rescue`` they are kept from the member whose range is nearer, by the ratio of the volume to its nearest
    edge: of all straddling components the nearest first (of equal ones the earlier member's), each unless it meets one
    that was already kept.

    Args:
        masks: (*S) bool of each member, up to 254.
        ranges: (low, high) in mL, low inclusive and high exclusive.
        spacing_mm: of each axis.
        rescue: whether to keep what straddles an edge.
        connectivity: of components: 6, 18 or 26 neighbours; in 2D 6 stands for 4, the others for 8.

    Raises:
        ValueError: shapes differ, a range is empty, or ranges overlap.
    """
    _check_ranges(ranges)
    check_shapes(masks)
    occupied = np.flatnonzero(_union(masks))
    ids, volumes = zip(*(_components_at(mask, spacing_mm, occupied, connectivity) for mask in masks))
    chosen = [np.append(False, in_range(volume, *range_)) for volume, range_ in zip(volumes, ranges)]
    kept = tuple(int(chosen_here.sum()) for chosen_here in chosen)
    straddling = _Straddling(ids, volumes, ranges, chosen)
    if rescue:
        straddling.rescue(chosen)
    claims = np.zeros(np.shape(masks[0]), dtype=np.uint8)
    for place in reversed(range(len(masks))):
        claims.reshape(-1)[occupied[chosen[place][ids[place]]]] = place + 1
    by_member = MemberCounts(
        found=tuple(map(len, volumes)),
        kept=kept,
        rescued=tuple(int(chosen_here.sum()) - before for chosen_here, before in zip(chosen, kept)),
        straddling=straddling.number,
        lost=0 if rescue else straddling.number,
    )
    return Merged(claims, by_member)


def _union(masks: Sequence[np.ndarray]) -> np.ndarray:
    union = np.zeros(np.shape(masks[0]), dtype=bool)
    for mask in masks:  # logical_or.reduce would put them into one array first
        union |= np.asarray(mask) > 0
    return union


def _components_at(
    mask: np.ndarray, spacing_mm: Sequence[float], place: np.ndarray, connectivity: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of components (K,) at some voxels, and the volume of each; the whole image of ids is not kept."""
    components = find_components(mask, spacing_mm, connectivity=connectivity)
    return components.ids.ravel()[place], components.volume_ml


class _Straddling:
    """The components that straddle an edge, of all members in one list.

    Args:
        ids: for each member (K,) the component at each voxel of the union.
        volumes: for each member (n,) of its components.
        ranges: of each member.
        chosen: for each member (n + 1,) which ids are kept, background included.
    """

    def __init__(
        self,
        ids: Sequence[np.ndarray],
        volumes: Sequence[np.ndarray],
        ranges: Sequence[Range],
        chosen: Sequence[np.ndarray],
    ) -> None:
        taken = np.logical_or.reduce([chosen_here[own] for chosen_here, own in zip(chosen, ids)])
        places = range(len(ids))
        nodes = []  # for each member (n + 1,) the place in the list of each id, -1 where it does not straddle
        member, component, distance = [], [], []
        start = 0
        for k in places:
            free = ~chosen[k]
            free[ids[k][taken]] = free[0] = False
            straddles = np.zeros_like(free)
            for j in places:
                if j != k and free.any():
                    met = np.zeros_like(free)
                    met[ids[k][ids[j] > 0]] = True
                    straddles[1:] |= (free & met)[1:] & in_range(volumes[k], *ranges[j])
            own = np.flatnonzero(straddles)
            node = np.full(len(free), -1)
            node[own] = start + np.arange(len(own))
            start += len(own)
            nodes.append(node)
            member.append(np.full(len(own), k))
            component.append(own)
            distance.append(range_distance(volumes[k][own - 1], ranges[k]))
        self._member, self._component = np.concatenate(member), np.concatenate(component)
        self._distance = np.concatenate(distance)
        self._pairs = _overlaps([node[own] for node, own in zip(nodes, ids)])

    @property
    def number(self) -> int:
        """Objects: components that overlap are one, or as many as the member sees that sees most."""
        n = len(self._member)
        if not n:
            return 0
        graph = coo_matrix((np.ones(len(self._pairs)), tuple(self._pairs.T)), shape=(n, n))
        n_groups, group = connected_components(graph, directed=False)
        of_member = np.zeros((n_groups, self._member.max() + 1), dtype=int)
        np.add.at(of_member, (group, self._member), 1)
        return int(of_member.max(1).sum())

    def rescue(self, chosen: Sequence[np.ndarray]) -> None:
        """Choose the nearest first, each unless it meets one that was chosen."""
        neighbours: list[list[int]] = [[] for _ in self._member]
        for a, b in self._pairs.tolist():
            neighbours[a].append(b)
            neighbours[b].append(a)
        blocked = np.zeros(len(self._member), dtype=bool)
        for node in np.lexsort((self._component, self._member, self._distance)):
            if not blocked[node]:
                chosen[self._member[node]][self._component[node]] = True
                blocked[neighbours[node]] = True


def range_distance(volume_ml: np.ndarray, range_: Range) -> np.ndarray:
    """Logarithm of the ratio of volumes to the nearest edge of a range that they are not in."""
    low, high = range_
    below = np.log(low / volume_ml) if low > 0 else np.full(len(volume_ml), -inf)
    above = np.log(volume_ml / high) if high < inf else np.full(len(volume_ml), -inf)
    return np.maximum(np.maximum(below, above), 0)  # at an edge rounding may give less


def _overlaps(nodes: Sequence[np.ndarray]) -> np.ndarray:
    """(P, 2) which nodes of two members share a voxel; -1 is none."""
    pairs = [np.zeros((0, 2), dtype=int)]
    for a, b in combinations(nodes, 2):
        both = (a >= 0) & (b >= 0)
        pairs.append(np.unique(np.stack([a[both], b[both]], 1), axis=0))
    return np.concatenate(pairs)


def combine_classes(claims: Mapping[int, np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """A label image from each label's claims: of two labels the earlier member's wins, of one member the first.

    Args:
        claims: for each label (*S) integers, 0 where it has no claim, else the member's place from 1 on.
        shape: of the result, which needs no label.

    Example:
        >>> combine_classes({1: np.array([2, 2, 0]), 2: np.array([0, 1, 1])}, (3,)).tolist()
        [1, 2, 2]
    """
    result = np.zeros(shape, dtype=np.min_scalar_type(max(claims, default=0)))
    holder = np.full(shape, 255, dtype=np.uint8)
    for label, claim in claims.items():
        wins = (claim > 0) & (claim < holder)
        result[wins], holder[wins] = label, claim[wins]
    return result


def check_shapes(images: Sequence[np.ndarray]) -> None:
    """Refuse segmentations of several shapes, or none at all."""
    shapes = {np.shape(image) for image in images}
    if len(shapes) != 1:
        raise ValueError(f"segmentations must have one shape, got {', '.join(map(str, sorted(shapes))) or 'none'}")


def _check_ranges(ranges: Sequence[Range]) -> None:
    end = 0.0
    for low, high in sorted(ranges):
        if not 0 <= low < high:
            raise ValueError(f"a range goes from 0 or more upwards, got {low} to {high}")
        if low < end:
            raise ValueError(f"ranges must not overlap, but one begins at {low} and another ends at {end}")
        end = high
