"""Components by volume, and segmentations of several models made into one. Knows nothing of nnU-Net.

Volumes are numbers of voxels times spacing, in mL; a 2D image counts as 1 mm thick, so that 0.001 mL is 1 mm^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, prod
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nnunet_instance_trainers.instances import label_components

__all__ = [
    "Components",
    "Merged",
    "Sources",
    "combine_classes",
    "ensemble_by_volume",
    "find_components",
    "hysteresis",
    "in_range",
    "keep_area_range",
    "keep_volume_range",
    "majority_vote",
    "merge_members",
    "nest_regions",
]

Range = tuple[float, float]

# Images carry their spacing in single precision, so an object of exactly an edge's size may come out a little smaller.
_TOLERANCE = 1e-6


class Components(NamedTuple):
    """Connected components of a segmentation.

    Attributes:
        ids: (*S) uint32, 0 for the background and 1..n.
        volume_ml: (n,) of each.
    """

    ids: np.ndarray
    volume_ml: np.ndarray


@dataclass(frozen=True)
class Sources:
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
        sources: where they came from.
    """

    claims: np.ndarray
    sources: Sources


def find_components(segmentation: np.ndarray, spacing_mm: Sequence[float]) -> Components:
    """The components of a segmentation with their volumes.

    Args:
        segmentation: (*S) bool, or integer labels; components never cross from one label into another.
        spacing_mm: of each axis.

    Raises:
        ValueError: there is not one spacing for each axis, or not two or three axes.

    Example:
        >>> find_components(np.array([[1, 1, 0, 1]]), (2.0, 5.0)).volume_ml.tolist()
        [0.02, 0.01]
    """
    segmentation = np.asarray(segmentation)
    if len(spacing_mm) != segmentation.ndim:
        raise ValueError(f"expected a spacing for each axis of shape {segmentation.shape}, got {tuple(spacing_mm)}")
    ids, n = label_components(segmentation)
    voxels = np.bincount(ids.ravel(), minlength=n + 1)[1:]
    return Components(ids, voxels * (prod(map(float, spacing_mm)) / 1000))


def in_range(volume_ml: np.ndarray, low_ml: float, high_ml: float) -> np.ndarray:
    """Which volumes are at least ``low_ml`` and below ``high_ml``.

    A volume within a millionth of an edge is at the edge. Ranges that share an edge share no volume and leave none out.

    Raises:
        ValueError: the range is empty or begins below 0.
    """
    if not 0 <= low_ml < high_ml:
        raise ValueError(f"a range goes from 0 or more upwards, got {low_ml} to {high_ml}")
    return (volume_ml >= low_ml * (1 - _TOLERANCE)) & (volume_ml < high_ml * (1 - _TOLERANCE))


def keep_volume_range(
    segmentation: np.ndarray, low_ml: float, high_ml: float, spacing_mm: Sequence[float]
) -> np.ndarray:
    """The objects of some volumes, and nothing else.

    Instance-loss paper, section 4.2.

    Limits: 0 to infinity gives the segmentation itself; ranges that share edges give parts that add up to it.

    Args:
        segmentation: (*S) bool, or integer labels.
        low_ml: inclusive.
        high_ml: exclusive.
        spacing_mm: of each axis.

    Returns:
        (*S) like the segmentation, 0 in all other objects.

    Example:
        >>> keep_volume_range(np.array([[1, 1, 0, 1]]), 0.02, float("inf"), (2.0, 5.0)).tolist()
        [[1, 1, 0, 0]]
    """
    ids, volume_ml = find_components(segmentation, spacing_mm)
    return segmentation * np.append(False, in_range(volume_ml, low_ml, high_ml))[ids]


def keep_area_range(
    segmentation: np.ndarray, low_mm2: float, high_mm2: float, spacing_mm: Sequence[float]
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
    return keep_volume_range(segmentation, low_mm2 / 1000, high_mm2 / 1000, spacing_mm)


def majority_vote(segmentations: Sequence[np.ndarray], votes: int | None = None) -> np.ndarray:
    """Each voxel as enough segmentations have it; section 4.4 of the instance-loss paper has 3 of 5.

    Limits: of one segmentation it is that one; of masks with one vote needed the union, with all the intersection.

    Args:
        segmentations: (*S) each, bool or integer labels.
        votes: how many must agree; None for more than half. Of two labels with enough votes the one with more wins,
            with as many the lower one.

    Raises:
        ValueError: there are fewer segmentations than votes, or shapes differ.

    Example:
        >>> majority_vote([np.array([1, 1, 2]), np.array([1, 0, 2]), np.array([0, 0, 1])]).tolist()
        [1, 0, 2]
    """
    votes = len(segmentations) // 2 + 1 if votes is None else votes
    if not 1 <= votes <= len(segmentations):
        raise ValueError(f"{votes} votes of {len(segmentations)} segmentations are impossible")
    _check_shapes(segmentations)
    result = np.zeros_like(segmentations[0])
    most = np.full(result.shape, votes - 1, dtype=np.uint16)
    for label in np.unique([label for image in segmentations for label in np.unique(image) if label]):
        count = sum((image == label).astype(np.uint16) for image in segmentations)
        result[count > most] = label
        np.maximum(most, count, out=most)
    return result


def hysteresis(probabilities: np.ndarray, low: float, high: float) -> np.ndarray:
    """The components of p > low whose peak exceeds high, (*S) bool.

    Limits: with equal thresholds it is p > low.

    Example:
        >>> hysteresis(np.array([[0.4, 0.7, 0.0, 0.4]]), 0.3, 0.6).tolist()
        [[True, True, False, False]]
    """
    ids, n = label_components(probabilities > low)
    strong = np.zeros(n + 1, dtype=bool)
    strong[ids[probabilities > high]] = True
    strong[0] = False  # high below low
    return strong[ids]


def nest_regions(masks: Sequence[np.ndarray], labels: Sequence[int]) -> np.ndarray:
    """A label image of regions: each is painted over those before it, as nnU-Net itself does.

    So the inner region wins, and a voxel of it belongs to every region around that has its label: outer regions grow
    where an inner one reaches out, and nothing that was chosen is cut.

    Args:
        masks: (*S) bool of each region, outer before inner.
        labels: with which each is painted, nnU-Net's ``regions_class_order``.

    Example:
        >>> nest_regions([np.array([1, 1, 0], bool), np.array([0, 1, 1], bool)], [1, 2]).tolist()
        [1, 2, 2]
    """
    image = np.zeros(masks[0].shape, dtype=np.min_scalar_type(max(labels)))
    for mask, label in zip(masks, labels):
        image[mask] = label
    return image


def ensemble_by_volume(
    members: Sequence[tuple[np.ndarray, Range]], spacing_mm: Sequence[float], *, rescue: bool = False
) -> tuple[np.ndarray, dict[int, Sources]]:
    """Each size of object from the member that has its range, merged into one image.

    Instance-loss paper, section 4.2, with any number of members and ranges, and by class. Where two members claim a
    voxel for different classes, the earlier member has it.

    Limits: one segmentation cut at any edges and merged again is itself.

    Args:
        members: segmentations (*S), all bool or all integer labels, with their ranges (low, high) in mL, low inclusive
            and high exclusive.
        spacing_mm: of each axis.
        rescue: keep objects that straddle an edge, see :func:`merge_members`.

    Returns:
        (*S) like the members, and for each label where its objects came from; a mask has label 1.

    Raises:
        ValueError: shapes differ, a range is empty, or ranges overlap.

    Example:
        >>> small, large = np.array([[1, 1, 0, 1]]), np.array([[1, 1, 1, 0]])
        >>> ensemble_by_volume([(small, (0, 0.02)), (large, (0.02, float("inf")))], (2.0, 5.0))[0].tolist()
        [[1, 1, 1, 1]]
    """
    images, ranges = [np.asarray(image) for image, _ in members], [range_ for _, range_ in members]
    _check_shapes(images)
    labels = sorted({int(label) for image in images for label in np.unique(image)} - {0})
    merged = {
        label: merge_members([image == label for image in images], ranges, spacing_mm, rescue=rescue)
        for label in labels
    }
    result = combine_classes({label: part.claims for label, part in merged.items()}, images[0].shape)
    return result.astype(images[0].dtype), {label: part.sources for label, part in merged.items()}


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


def merge_members(
    masks: Sequence[np.ndarray], ranges: Sequence[Range], spacing_mm: Sequence[float], *, rescue: bool = False
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

    Raises:
        ValueError: shapes differ, a range is empty, or ranges overlap.
    """
    _check_ranges(ranges)
    components = [find_components(mask, spacing_mm) for mask in masks]
    occupied = np.flatnonzero(np.logical_or.reduce([np.asarray(mask) for mask in masks]))
    ids = [part.ids.ravel()[occupied] for part in components]
    volumes = [part.volume_ml for part in components]
    chosen = [np.append(False, in_range(volume, *range_)) for volume, range_ in zip(volumes, ranges)]
    kept = tuple(int(chosen_here.sum()) for chosen_here in chosen)
    straddling = _Straddling(ids, volumes, ranges, chosen)
    if rescue:
        straddling.rescue(chosen)
    claims = np.zeros(np.shape(masks[0]), dtype=np.uint8)
    for place in reversed(range(len(masks))):
        claims.reshape(-1)[occupied[chosen[place][ids[place]]]] = place + 1
    sources = Sources(
        found=tuple(map(len, volumes)),
        kept=kept,
        rescued=tuple(int(chosen_here.sum()) - before for chosen_here, before in zip(chosen, kept)),
        straddling=straddling.number,
        lost=0 if rescue else straddling.number,
    )
    return Merged(claims, sources)


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
            distance.append(_distance(volumes[k][own - 1], ranges[k]))
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


def _distance(volume_ml: np.ndarray, range_: Range) -> np.ndarray:
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


def _check_shapes(images: Sequence[np.ndarray]) -> None:
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
