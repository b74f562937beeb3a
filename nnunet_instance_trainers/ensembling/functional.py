"""Components by volume, and segmentations of several models made into one. Knows nothing of nnU-Net.

Volumes are numbers of voxels times spacing, in mL; a 2D image counts as 1 mm thick, so that 0.001 mL is 1 mm^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_instance_trainers.ensembling.component_volumes import (
    Components,
    Range,
    find_components,
    keep_area_range,
    keep_volume_range,
)
from nnunet_instance_trainers.ensembling.object_claims import (
    MemberCounts,
    Merged,
    check_shapes,
    combine_classes,
    merge_members,
)
from nnunet_instance_trainers.instances import label_components
from nnunet_instance_trainers.instances.volume_ranges import in_range

__all__ = [
    "Components",
    "MemberCounts",
    "Merged",
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
    check_shapes(segmentations)
    if len(segmentations) == 1:
        return segmentations[0]
    result = np.zeros_like(segmentations[0])
    most = np.full(result.shape, votes - 1, dtype=np.min_scalar_type(len(segmentations)))
    for label in np.unique([label for image in segmentations for label in np.unique(image) if label]):
        count = np.zeros_like(most)
        for image in segmentations:
            count += image == label
        result[count > most] = label
        np.maximum(most, count, out=most)
    return result


def hysteresis(probabilities: np.ndarray, low: float, high: float, *, connectivity: int = 26) -> np.ndarray:
    """The components of p > low whose peak exceeds high, (*S) bool; connectivity as in :func:`find_components`.

    Limits: with equal thresholds it is p > low.

    Example:
        >>> hysteresis(np.array([[0.4, 0.7, 0.0, 0.4]]), 0.3, 0.6).tolist()
        [[True, True, False, False]]
    """
    ids, n = label_components(probabilities > low, connectivity)
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
    members: Sequence[tuple[np.ndarray, Range]],
    spacing_mm: Sequence[float],
    *,
    rescue: bool = False,
    connectivity: int = 26,
) -> tuple[np.ndarray, dict[int, MemberCounts]]:
    """Each size of object from the member that has its range, merged into one image.

    Instance-loss paper, section 4.2, with any number of members and ranges, and by class. Where two members claim a
    voxel for different classes, the earlier member has it.

    Limits: one segmentation cut at any edges and merged again is itself.

    Args:
        members: segmentations (*S), all bool or all integer labels, with their ranges (low, high) in mL, low inclusive
            and high exclusive.
        spacing_mm: of each axis.
        rescue: keep objects that straddle an edge, see :func:`merge_members`.
        connectivity: of components: 6, 18 or 26 neighbours; in 2D 6 stands for 4, the others for 8.

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
    check_shapes(images)
    labels = sorted({int(label) for image in images for label in np.unique(image)} - {0})
    options: dict[str, Any] = {"rescue": rescue, "connectivity": connectivity}
    merged = {
        label: merge_members([image == label for image in images], ranges, spacing_mm, **options) for label in labels
    }
    result = combine_classes({label: part.claims for label, part in merged.items()}, images[0].shape)
    return result.astype(images[0].dtype), {label: part.by_member for label, part in merged.items()}
