"""Scores of objects: found, missed, false. Counts first, ratios in tiny functions of the counts."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import torch

from nnunet_instance_trainers.instances import OverlapTable, label_components, renumber

__all__ = ["Counts", "Detection", "detect"]


@dataclass(frozen=True)
class Counts:
    """What was counted in one or more images; adds up over cases and classes, so its ratios are pooled.

    Attributes:
        instances: objects in the target.
        components: connected components of the prediction.
        found: instances that share a voxel with a component (the papers' rule).
        hits: components that share a voxel with an instance.
        matched: pairs of an instance and a component with IoU above 0.5, which are one-to-one by nature.
        target_voxels, predicted_voxels, shared_voxels: foreground of target, of prediction, of both.
    """

    instances: int = 0
    components: int = 0
    found: int = 0
    hits: int = 0
    matched: int = 0
    target_voxels: int = 0
    predicted_voxels: int = 0
    shared_voxels: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other))))

    @property
    def missed(self) -> int:
        return self.instances - self.found

    @property
    def false(self) -> int:
        return self.components - self.hits

    @property
    def sensitivity(self) -> float:
        """Share of instances that are found; nan without instances."""
        return _ratio(self.found, self.instances)

    @property
    def precision(self) -> float:
        """Share of components that hit an instance; nan without components."""
        return _ratio(self.hits, self.components)

    @property
    def f1(self) -> float:
        """2 S P / (S + P) of sensitivity and precision; 0 where nothing is found, nan where nothing is there at all.

        Over-segmentation can raise it: look at :attr:`volume_ratio` and :attr:`f1_iou` beside it.
        """
        if self.found == 0:
            return _ratio(0, self.instances + self.components)
        return 2 * self.sensitivity * self.precision / (self.sensitivity + self.precision)

    @property
    def f1_iou(self) -> float:
        """F1 of one-to-one matches with IoU above 0.5; nan where nothing is there at all."""
        return _ratio(2 * self.matched, self.instances + self.components)

    @property
    def dice(self) -> float:
        """Voxel Dice; nan where nothing is there at all."""
        return _ratio(2 * self.shared_voxels, self.target_voxels + self.predicted_voxels)

    @property
    def volume_ratio(self) -> float:
        """Predicted over true volume; nan without true volume."""
        return _ratio(self.predicted_voxels, self.target_voxels)


@dataclass(frozen=True)
class Detection:
    """The objects of one image and class, and what became of each.

    Attributes:
        instances: (*S) ids 1..N of the target.
        components: (*S) ids 1..M of the prediction.
        found: (N,) bool, instance n at index n - 1.
        hits: (M,) bool, component m at index m - 1.
        counts: the same in numbers.
    """

    instances: np.ndarray
    components: np.ndarray
    found: np.ndarray
    hits: np.ndarray
    counts: Counts


def detect(instances: np.ndarray, prediction: np.ndarray) -> Detection:
    """Compare target instances with the connected components of a prediction, for one class.

    Args:
        instances: (*S) integer ids of the target, 0 is background; any numbering.
        prediction: (*S) mask of the predicted class.

    Returns:
        What was found, missed and invented.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> target = np.array([[1, 1, 0, 0, 2]])
        >>> counts = detect(target, np.array([[0, 1, 1, 0, 0]])).counts
        >>> counts.found, counts.missed, counts.false, counts.sensitivity
        (1, 1, 0, 0.5)
    """
    if instances.shape != prediction.shape:
        raise ValueError(f"target and prediction must have one shape, got {instances.shape} and {prediction.shape}")
    components = label_components(prediction > 0)[0].astype(np.int64)
    ids = renumber(instances)[0].astype(np.int64)
    table = OverlapTable(torch.from_numpy(ids)[None], torch.from_numpy(components)[None])
    instance, component, shared = table.instance.numpy(), table.component.numpy(), table.size.numpy()
    instance_voxels, component_voxels = table.instances.size.numpy(), table.components.size.numpy()
    found = np.bincount(instance, minlength=len(instance_voxels)) > 0
    hits = np.bincount(component, minlength=len(component_voxels)) > 0
    union = instance_voxels[instance] + component_voxels[component] - shared
    counts = Counts(
        instances=len(found),
        components=len(hits),
        found=int(found.sum()),
        hits=int(hits.sum()),
        matched=int((2 * shared > union).sum()),
        target_voxels=int(instance_voxels.sum()),
        predicted_voxels=int(component_voxels.sum()),
        shared_voxels=int(shared.sum()),
    )
    return Detection(ids, components, found, hits, counts)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
