"""Scores of challenges with surfaces and no merging: WMH 2017 and KiTS23."""

from __future__ import annotations

from math import nan

import numpy as np

from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair
from nnunet_instance_trainers.evaluation.surfaces import border_voxels, distances, hd95_max, nsd_area

__all__ = ["kits", "wmh2017"]

Scores = dict[str, float]


def wmh2017(pair: MaskPair) -> Scores:
    """Dice, H95 of borders slice by slice, volume difference in %, recall and F1 of lesions met by any voxel."""
    target, prediction, _ = pair.voxels
    objects = pair.objects(26)
    n, m = objects.n
    recall = objects.found.sum() / n if n else 1.0
    precision = objects.hits.sum() / m if m else 1.0
    return {
        "dsc": pair.dice,
        "h95_mm": _in_slice_hd95(pair) if target and prediction else nan,
        "avd_percent": 100 * abs(target - prediction) / target if target else nan,
        "lesion_recall": float(recall),
        "lesion_f1": float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0,
    }


def _in_slice_hd95(pair: MaskPair) -> float:
    borders = [border_voxels(mask, axes=(1, 2), corners=True) for mask in (pair.target, pair.prediction)]
    return hd95_max(*distances(*(border * np.asarray(pair.spacing) for border in borders)))


def kits(pair: MaskPair, *, tolerance_mm: float) -> Scores:
    """Dice and surface Dice by area at a tolerance; both empty 1, one 0."""
    target, prediction, _ = pair.voxels
    if not target or not prediction:
        return dict.fromkeys(("dice", "surface_dice"), float(target == prediction))
    return {"dice": pair.dice, "surface_dice": nsd_area(*pair.area_distances, tolerance_mm)}
