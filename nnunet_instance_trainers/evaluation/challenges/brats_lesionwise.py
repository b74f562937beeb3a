"""Lesion-wise scores of BraTS 2023 and 2024, where dilation joins what lies close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from scipy import ndimage

from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair
from nnunet_instance_trainers.evaluation.surfaces import (
    AreaDistances,
    area_distances,
    area_elements,
    border_voxels,
    distances,
    hd95_area,
    nsd_mean,
)
from nnunet_instance_trainers.instances import label_components, renumber

__all__ = ["brats2023", "brats2024"]

Scores = dict[str, float]
Boxes = list[tuple[slice, ...]]

_MISSED_2023 = 374.0
_NSD_MM = (0.5, 1.0)
_EDGES = ndimage.generate_binary_structure(3, 2)


def brats2023(pair: MaskPair, *, dilation: int, minimum_mm3: float) -> Scores:
    """Mean Dice and HD95 over target lesions and components that belong to none; see docs/challenges.md.

    Args:
        pair: the case.
        dilation: times that target lesions grow before they are joined, and before components are looked for.
        minimum_mm3: lesions up to this size count for nothing, but claim their components.
    """
    lesions = _Lesions(pair, dilation, _joined(pair.target, dilation), label_components(pair.prediction)[0])
    counted = [n for n in range(1, lesions.n + 1) if lesions.voxels[n] * pair.voxel_mm3 > minimum_mm3]
    rows = [lesions.compare(n, _MISSED_2023) for n in counted]
    hit, false = sum(row.hit for row in rows), lesions.false
    target, prediction, both = pair.voxels
    outside = int(np.prod(pair.shape)) - target
    masks = (pair.target, pair.prediction)
    whole = _compare(masks, pair.spacing, _MISSED_2023, away=pair.area_distances)
    return {
        "Num_TP": float(hit),
        "Num_FP": float(false),
        "Num_FN": float(len(rows) - hit),
        "Sensitivity": both / target if target else float(not prediction),
        "Specificity": (outside - prediction + both) / outside if outside else 1.0,
        "Legacy_Dice": whole.dice,
        "Legacy_HD95": whole.hd95,
        "GT_Complete_Volume": target * pair.voxel_mm3,
        "LesionWise_Score_Dice": _mean([row.dice for row in rows], false, 0.0, 1.0),
        "LesionWise_Score_HD95": _mean([row.hd95 for row in rows], false, _MISSED_2023, 0.0),
    }


def brats2024(pair: MaskPair, *, dilation: int, minimum: float) -> Scores:
    """The same, with components joined as lesions are, small ones dropped, and surface Dice beside.

    Args:
        pair: the case.
        dilation: as there, for both sides.
        minimum: lesions up to so many mm3 count for nothing, joined components up to so many *voxels* are dropped.
    """
    joined = _joined(pair.prediction, dilation)
    joined = renumber(np.where(np.bincount(joined.ravel())[joined] > minimum, joined, 0))[0]
    lesions = _Lesions(pair, dilation, _joined(pair.target, dilation), joined)
    counted = [n for n in range(1, lesions.n + 1) if lesions.voxels[n] * pair.voxel_mm3 > minimum]
    missed = sqrt(sum(n**2 for n in pair.shape))
    rows = [lesions.compare(n, missed, nsd=True) for n in counted]
    hit, false = sum(row.hit for row in rows), lesions.false
    # The official code takes HD95 of ids in place of masks.
    away = _area_distances([ids.astype(np.uint8) for ids in (lesions.target, joined)], pair.spacing)
    whole = _compare((pair.target, joined > 0), pair.spacing, missed, nsd=True, away=away)
    scores = {
        "Num_TP": float(hit),
        "Num_FP": float(false),
        "Num_FN": float(len(rows) - hit),
        **_by_ids(lesions.target, joined, int(np.prod(pair.shape))),
        "Legacy_Dice": whole.dice,
        "Legacy_HD95": whole.hd95,
        "GT_Complete_Volume": pair.voxels[0] * pair.voxel_mm3,
        "LesionWise_Score_Dice": _mean([row.dice for row in rows], false, 0.0, 1.0),
        "LesionWise_Score_HD95": _mean([row.hd95 for row in rows], false, missed, 0.0),
    }
    for k, mm in enumerate(_NSD_MM):
        scores[f"LesionWise_Score_NSD @ {mm}"] = _mean([row.nsd[k] for row in rows], false, 0.0, 1.0)
        scores[f"Legacy NSD @ {mm}"] = whole.nsd[k]
    return scores


def _joined(mask: np.ndarray, dilation: int) -> np.ndarray:
    """Components (*S) of a mask that are one if they touch after dilation; numbered as in an array (x, y, z)."""
    padded = np.pad(mask, dilation)
    grown = ndimage.binary_dilation(padded, _EDGES, dilation)
    ids = label_components(grown.T)[0].T
    inner = (slice(dilation, -dilation),) * mask.ndim
    return np.where(mask, ids[inner], 0)


def _by_ids(target: np.ndarray, prediction: np.ndarray, voxels: int) -> Scores:
    """The official code takes these of the ids, not of masks: no use but to equal it."""
    hit = int(np.count_nonzero((target == 1) & (prediction == 1)))
    false, missed = int(prediction.sum()) - hit, int(target.sum()) - hit
    rest = voxels - int(np.count_nonzero((target == 1) | (prediction == 1)))
    return {
        "Sensitivity": hit / (hit + missed) if hit + missed else float(not false),
        "Specificity": rest / (rest + false) if rest + false else 1.0,
    }


def _mean(values: Sequence[float], false: int, penalty: float, nothing: float) -> float:
    n = len(values) + false
    return float((sum(values) + false * penalty) / n) if n else nothing


@dataclass(frozen=True)
class _Row:
    """What became of one lesion, or of the whole."""

    hit: bool
    dice: float
    hd95: float
    nsd: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Lesions:
    """Target lesions and predicted components (*S) with ids, and which belongs to which.

    Attributes:
        pair: the case.
        reach: voxels around a lesion in which components belong to it.
        target, prediction: (*S) ids.
    """

    pair: MaskPair
    reach: int
    target: np.ndarray
    prediction: np.ndarray

    @property
    def n(self) -> int:
        return int(self.target.max(initial=0))

    @cached_property
    def voxels(self) -> np.ndarray:
        return np.bincount(self.target.ravel(), minlength=1)

    @cached_property
    def boxes(self) -> tuple[Boxes, Boxes]:
        return ndimage.find_objects(self.target.astype(np.int32)), ndimage.find_objects(
            self.prediction.astype(np.int32)
        )

    @cached_property
    def claimed(self) -> list[np.ndarray]:
        """For each lesion the components that its own dilation touches."""
        claimed = []
        for n, box in enumerate(self.boxes[0], start=1):
            wide = tuple(slice(max(e.start - self.reach, 0), e.stop + self.reach) for e in box)
            near = ndimage.binary_dilation(self.target[wide] == n, _EDGES, self.reach)
            claimed.append(np.setdiff1d(self.prediction[wide][near], [0]))
        return claimed

    @property
    def false(self) -> int:
        """Components that belong to no lesion."""
        return len(self.boxes[1]) - len(np.unique(np.concatenate([*self.claimed, []])))

    def compare(self, n: int, missed: float, nsd: bool = False) -> _Row:
        """Lesion n against the union of what belongs to it."""
        own = self.claimed[n - 1]
        if not len(own):
            return _Row(False, 0.0, missed, (0.0,) * len(_NSD_MM))
        boxes = [self.boxes[0][n - 1], *(self.boxes[1][m - 1] for m in own)]
        box = tuple(slice(min(e.start for e in axis), max(e.stop for e in axis)) for axis in zip(*boxes))
        masks = (self.target[box] == n, np.isin(self.prediction[box], own))
        return _compare(masks, self.pair.spacing, missed, nsd)


def _compare(
    masks: tuple[np.ndarray, np.ndarray],
    spacing: Sequence[float],
    missed: float,
    nsd: bool = False,
    away: AreaDistances | None = None,
) -> _Row:
    """Dice, HD95 and where asked for NSD of two masks, HD95 from distances that are known or from the masks."""
    target, prediction = (int(np.count_nonzero(mask)) for mask in masks)
    if not target or not prediction:
        equal = target == prediction
        return _Row(equal, float(equal), 0.0 if equal else missed, (float(equal),) * len(_NSD_MM))
    dice = 2 * int(np.count_nonzero(masks[0] & masks[1])) / (target + prediction)
    hd95 = hd95_area(*(away or _area_distances(masks, spacing)))
    if not nsd:
        return _Row(True, dice, hd95)
    borders = distances(*(border_voxels(mask) * np.asarray(spacing) for mask in masks))
    return _Row(True, dice, hd95, tuple(nsd_mean(*borders, mm) for mm in _NSD_MM))


def _area_distances(images: Sequence[np.ndarray], spacing: Sequence[float]) -> AreaDistances:
    return area_distances([area_elements(image.T, spacing[::-1]) for image in images])
