"""Distances between the surfaces of a class, and of each instance and what found it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan

import numpy as np

from nnunet_instance_trainers.evaluation.detection import Detection
from nnunet_instance_trainers.evaluation.surfaces import border_scores, surface_columns

__all__ = ["class_surfaces", "instance_surfaces"]

Scores = dict[str, float]


def class_surfaces(target: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerance_mm: float) -> Scores:
    """The surface scores of two masks (*S) of a class.

    An axis of one voxel, as 2D images have it, has no borders.

    Limits: with one side empty the distances are undefined, and the surface Dice is 0; with both all are undefined.

    Args:
        target, prediction: (*S) bool.
        spacing: mm per axis.
        tolerance_mm: of the surface Dice.

    Example:
        >>> class_surfaces(np.ones((2, 2), bool), np.zeros((2, 2), bool), (1.0, 1.0), 1.0)["nsd_at_1_mm"]
        0.0
    """
    borders = (_borders(mask.view(np.uint8), spacing)[0] for mask in (target, prediction))
    return {name: value if isfinite(value) else nan for name, value in border_scores(*borders, tolerance_mm).items()}


def instance_surfaces(detection: Detection, spacing: Sequence[float], tolerance_mm: float) -> list[Scores]:
    """The surface scores of each instance with the union of what found it; nan for a missed one.

    Every border is taken once, so that a component which found many instances is not searched again for each.

    Args:
        detection: the objects of one class.
        spacing: mm per axis.
        tolerance_mm: of the surface Dice.
    """
    of_target, of_prediction = (
        _split(*_borders(image, spacing), n)
        for image, n in (
            (detection.instances, len(detection.found)),
            (detection.components, len(detection.hits)),
        )
    )
    partners: list[list[np.ndarray]] = [[] for _ in of_target]
    pairs = detection.pairs
    for instance, component in zip(pairs.instance[detection.counted], pairs.component[detection.counted]):
        partners[instance].append(of_prediction[component])
    undefined = dict.fromkeys(surface_columns(tolerance_mm), nan)
    return [
        border_scores(own, np.concatenate(others), tolerance_mm) if others else undefined
        for own, others in zip(of_target, partners)
    ]


def _borders(ids: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Places (K, d) in mm of the voxels with a face to another id or to the outside, and their ids (K,)."""
    edge = np.zeros(ids.shape, bool)
    for axis in (axis for axis, size in enumerate(ids.shape) if size > 1):  # a 2D image is one slice
        line, along = np.moveaxis(edge, axis, 0), np.moveaxis(ids, axis, 0)
        changes = along[1:] != along[:-1]
        line[1:] |= changes
        line[:-1] |= changes
        line[:1] = line[-1:] = True
    places = np.argwhere(edge & (ids > 0))
    return places * np.asarray(spacing, float), ids[tuple(places.T)]


def _split(places: np.ndarray, ids: np.ndarray, n: int) -> list[np.ndarray]:
    """The places of each id from 1 to n."""
    order = np.argsort(ids, kind="stable")
    return np.split(places[order], np.searchsorted(ids[order], np.arange(2, n + 1))) if n else []
