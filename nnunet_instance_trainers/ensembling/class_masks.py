"""What one model says of one case, class by class: its label image, and masks of classes that have their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_instance_trainers.data.label_folders import ForegroundClass
from nnunet_instance_trainers.ensembling.functional import hysteresis

__all__ = ["Voted", "hysteresis_masks"]


@dataclass(frozen=True)
class Voted:
    """What the folds of a model agree on.

    Attributes:
        image: (*S) labels, of the folds or of the only one.
        masks: (*S) bool of each class that had a vote of its own.
    """

    image: np.ndarray
    masks: Mapping[str, np.ndarray]

    def mask(self, c: ForegroundClass) -> np.ndarray:
        return self.masks[c.key] if c.key in self.masks else c.mask(self.image)

    def add_to(self, occupied: np.ndarray) -> None:
        """Mark where there is anything."""
        occupied |= self.image > 0
        for mask in self.masks.values():
            occupied |= mask

    def inside(self, box: tuple[slice, ...]) -> Voted:
        return Voted(self.image[box], {key: mask[box] for key, mask in self.masks.items()})


def hysteresis_masks(
    probabilities: np.ndarray,
    image: np.ndarray,
    classes: Sequence[ForegroundClass],
    thresholds: Mapping[str, tuple[float, float]],
    *,
    exclusive: bool,
    connectivity: int = 26,
) -> dict[str, np.ndarray]:
    """The objects of some classes by :func:`~nnunet_instance_trainers.ensembling.functional.hysteresis`.

    Args:
        probabilities: (C, *S).
        image: (*S) labels, the model's own.
        classes: which of them.
        thresholds: low and high by the class's key.
        exclusive: whether a voxel has one class only; then what the model gives to another label stays there.
        connectivity: 6, 18 or 26.

    Returns:
        (*S) bool by the class's key.
    """
    masks = {}
    for c in classes:
        masks[c.key] = hysteresis(probabilities[c.channel], *thresholds[c.key], connectivity=connectivity)
        if exclusive:
            masks[c.key] &= (image == 0) | c.mask(image)
    return masks
