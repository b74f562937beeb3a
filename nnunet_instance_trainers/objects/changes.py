"""What became of objects between two time points on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["BY_A_QUARTER", "STATES", "Change", "ChangeRule", "find_changes"]

STATES = ("new", "vanished", "growing", "shrinking", "unchanged", "merged", "split", "complex")


class ChangeRule(NamedTuple):
    """From which relative change of size on an object grows or shrinks.

    The default of a quarter is about the least change of one multiple sclerosis lesion of 0.67 cm^2 or more that is
    beyond the scatter of repeated measurements (24.2 %, Arch Neurol 1992;49:261-263; of smaller lesions 45.2 %).

    Attributes:
        growth, shrinkage: shares of the earlier size; a change of exactly that share counts.
    """

    growth: float = 0.25
    shrinkage: float = 0.25

    def state(self, before: int, after: int) -> str:
        """Of one object with two numbers of voxels."""
        change = (after - before) / before
        return "growing" if change >= self.growth else "shrinking" if -change >= self.shrinkage else "unchanged"


BY_A_QUARTER = ChangeRule()


@dataclass(frozen=True)
class Change:
    """Objects of both time points that meet, directly or through others, and what became of them.

    Attributes:
        state: one of :data:`STATES`.
        reference: ids at the earlier time point, ascending.
        current: ids now, ascending.
    """

    state: str
    reference: tuple[int, ...]
    current: tuple[int, ...]


def find_changes(
    reference: np.ndarray,
    current: np.ndarray,
    reference_voxels: Sequence[int] | np.ndarray,
    current_voxels: Sequence[int] | np.ndarray,
    rule: ChangeRule = BY_A_QUARTER,
) -> list[Change]:
    """What became of every object.

    An earlier and a current object meet if they share a voxel. Objects that meet, directly or through others, are one
    change: none earlier is "new", none now "vanished"; one and one are "growing", "shrinking" or "unchanged"; several
    into one "merged", one into several "split", several into several "complex". Every object is in one change.

    Args:
        reference, current: (*S) ids of the two time points, 1..N and 1..M, 0 is background.
        reference_voxels, current_voxels: (N,) and (M,) numbers of voxels.
        rule: from which change on an object grows or shrinks.

    Returns:
        The changes, those with current objects first, by their lowest id.

    Example:
        >>> before, now = np.array([[1, 1, 0, 2, 0]]), np.array([[0, 1, 1, 1, 0]])
        >>> find_changes(before, now, [2, 1], [3])
        [Change(state='merged', reference=(1, 2), current=(1,))]
    """
    n, m = len(reference_voxels), len(current_voxels)
    both = (reference > 0) & (current > 0)
    pairs = np.unique(np.stack([reference[both], current[both]]).astype(np.int64), axis=1) - 1
    meets = coo_array((np.ones(pairs.shape[1]), (pairs[0], n + pairs[1])), shape=(n + m, n + m))
    number, family = connected_components(meets, directed=False)
    members: list[tuple[list[int], list[int]]] = [([], []) for _ in range(number)]
    for k, own in enumerate(family.tolist()):
        members[own][k >= n].append(k + 1 if k < n else k - n + 1)
    changes = []
    for earlier, now in members:
        if len(earlier) == len(now) == 1:
            state = rule.state(int(reference_voxels[earlier[0] - 1]), int(current_voxels[now[0] - 1]))
        else:
            state = _STATE_OF[min(len(earlier), 2), min(len(now), 2)]
        changes.append(Change(state, tuple(earlier), tuple(now)))
    return sorted(changes, key=lambda change: (not change.current, change.current, change.reference))


# By the numbers of earlier and current objects, 2 standing for several.
_STATE_OF = {
    (0, 1): "new",
    (1, 0): "vanished",
    (2, 1): "merged",
    (1, 2): "split",
    (2, 2): "complex",
}
