"""What became of the objects of one image and class: found, missed, false, matched.

Everything comes from one overlap table. docs/evaluation.md has the rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_instance_trainers.evaluation.outcomes import Outcome, Pairs
from nnunet_instance_trainers.evaluation.rules import MATCHES, OVERLAP, Rule
from nnunet_instance_trainers.instances import label_components, renumber

__all__ = ["MATCHES", "OVERLAP", "Detection", "Outcome", "Pairs", "Rule", "detect"]


@dataclass(frozen=True)
class Detection(Outcome):
    """The same with where the objects are, by their voxels alone: whole images of ids are made when asked for.

    Attributes:
        shape: (*S) of the image.
        place: (K,) flat positions of all voxels of objects.
        instance_at, component_at: (K,) int32, what is there: 1..N of the target, 1..M of the prediction, 0 for none.
        instance_ids: (N,) the ids that the instances came with.
    """

    shape: tuple[int, ...]
    place: np.ndarray
    instance_at: np.ndarray
    component_at: np.ndarray
    instance_ids: np.ndarray

    @property
    def instances(self) -> np.ndarray:
        """(*S) int32 ids 1..N of the target."""
        return self._image(self.instance_at)

    @property
    def components(self) -> np.ndarray:
        """(*S) int32 ids 1..M of the prediction."""
        return self._image(self.component_at)

    def _image(self, ids: np.ndarray) -> np.ndarray:
        image = np.zeros(self.shape, dtype=np.int32)
        image.ravel()[self.place] = ids
        return image


def detect(
    instances: np.ndarray | None,
    prediction: np.ndarray,
    *,
    within: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    rule: Rule = OVERLAP,
    voxel_ml: float = 0.001,
) -> Detection:
    """Compare target instances with the connected components of a prediction, for one class.

    Args:
        instances: (*S) integer ids of the target, 0 is background; any numbering. None for the connected components
            of ``within``.
        prediction: (*S) mask of the predicted class.
        within: (*S) bool, the class in the target, where ids count; None means everywhere.
        valid: (*S) bool, False where voxels are ignored; None means nowhere. An object beside an ignored voxel
            that meets nothing is no object here, for it may go on where nobody annotated.
        rule: when an instance is found.
        voxel_ml: volume of a voxel.

    Returns:
        What was found, missed and invented.

    Raises:
        ValueError: shapes differ, or there is neither a target nor a class of it.

    Example:
        >>> target = np.array([[1, 1, 0, 0, 2]])
        >>> counts = detect(target, np.array([[0, 1, 1, 0, 0]])).counts
        >>> counts.found, counts.missed, counts.false, counts.sensitivity
        (1, 1, 0, 0.5)
    """
    if within is None:
        if instances is None:
            raise ValueError("either instances or within must be given")
        within = instances > 0
    for name, other in (("target", instances), ("prediction", prediction), ("valid", valid)):
        if other is not None and other.shape != within.shape:
            raise ValueError(f"target and {name} must have one shape, got {within.shape} and {other.shape}")
    predicted = prediction > 0 if valid is None else (prediction > 0) & valid
    place = np.flatnonzero(within | predicted if valid is None else (within | predicted) & valid)
    # One image of ids at a time: of a large one it takes more memory than all else.
    ids = _at(label_components(within, rule.connectivity)[0] if instances is None else instances, place)
    ids[~_at(within, place)] = 0
    parts = _at(label_components(predicted, rule.connectivity)[0], place)
    foregrounds = (ids > 0, parts > 0, (ids > 0) & (parts > 0))
    target_voxels, predicted_voxels, shared_voxels = (int(np.count_nonzero(mask)) for mask in foregrounds)
    if valid is not None:
        near = ndimage.binary_dilation(~valid, np.ones((3,) * valid.ndim, bool))
        ids, parts = _without_cut_objects(ids, parts, _at(near, place))
    if rule.minimum_ml:
        ids, parts = (_large(own, rule, voxel_ml) for own in (ids, parts))
    instance_at, component_at = (renumber(own)[0].view(np.int32) for own in (ids, parts))  # which torch knows
    return Detection.of(
        Pairs.of(instance_at, component_at),
        rule,
        shape=within.shape,
        place=place,
        instance_at=instance_at,
        component_at=component_at,
        instance_ids=np.unique(ids[ids > 0]),
        voxel_ml=voxel_ml,
        target_voxels=target_voxels,
        predicted_voxels=predicted_voxels,
        shared_voxels=shared_voxels,
    )


def _large(ids: np.ndarray, rule: Rule, voxel_ml: float) -> np.ndarray:
    """Of ids (K,) those whose volume is an object's; 0 for the others."""
    numbers, n = renumber(ids)
    return np.where(rule.large_enough(np.bincount(numbers, minlength=n + 1) * voxel_ml)[numbers], ids, 0)


def _at(image: np.ndarray, place: np.ndarray) -> np.ndarray:
    return image.ravel()[place]


def _without_cut_objects(
    instances: np.ndarray, components: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the objects that touch an ignored voxel and meet nothing; ids (K,) and whether one is beside (K,)."""
    both = (instances > 0) & (components > 0)
    kept = []
    for ids in (instances, components):
        cut = np.setdiff1d(ids[near & (ids > 0)], ids[both])
        kept.append(np.where(np.isin(ids, cut), 0, ids))
    return kept[0], kept[1]
