"""Scores of challenges that need the overlap table and nothing else: ISLES, ATLAS, autoPET, MSSEG, VALDO.

Each function takes a :class:`MaskPair` and its settings and returns the official columns. docs/challenges.md defines
them.
"""

from __future__ import annotations

from math import nan

import numpy as np
from scipy.sparse import coo_array
from scipy.spatial import cKDTree

from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair, Objects
from nnunet_instance_trainers.evaluation.detection import Pairs
from nnunet_instance_trainers.instances.matching import match_greedily

__all__ = ["autopet", "isles22", "isles24", "msseg", "valdo_microbleeds", "valdo_pvs"]

Scores = dict[str, float]

# Names of ISLES'22 and '24, and of ATLAS, for the same four.
_ISLES = ("dice", "absolute_volume_difference_ml", "absolute_lesion_difference", "lesion_f1")
_ATLAS = ("Dice", "Volume Difference", "Simple Lesion Count", "Lesionwise F1-Score")


def isles22(pair: MaskPair, *, connectivity: int, in_voxels: bool = False) -> Scores:
    """Dice, volume difference, difference of counts, F1 of instances found by any voxel and components that miss."""
    objects = pair.objects(connectivity)
    found, false = int(objects.found.sum()), int((~objects.hits).sum())
    missed = objects.n[0] - found
    f1 = found / (found + (false + missed) / 2) if found + false + missed else 1.0
    return _four(pair, objects, f1, in_voxels)


def isles24(pair: MaskPair, *, connectivity: int, iou: float) -> Scores:
    """The same with F1 of pairs by falling IoU. Dice is 0 where nothing is paired, as panoptica 1.0.1 gave it."""
    objects = pair.objects(connectivity)
    p = objects.pairs
    n_pairs = len(match_greedily(p.instance, p.component, p.iou, threshold=iou))
    scores = _four(pair, objects, 2 * n_pairs / sum(objects.n) if sum(objects.n) else 1.0)
    return scores if n_pairs or not sum(objects.n) else {**scores, "dice": 0.0}


def _four(pair: MaskPair, objects: Objects, f1: float, in_voxels: bool = False) -> Scores:
    target, prediction, _ = pair.voxels
    dice = pair.dice if target + prediction else 1.0
    difference = abs(target - prediction) * (1 if in_voxels else pair.voxel_mm3 / 1000)
    n_target, n_prediction = objects.n
    values = (dice, float(difference), float(abs(n_target - n_prediction)), f1)
    return dict(zip(_ATLAS if in_voxels else _ISLES, values))


def autopet(pair: MaskPair, *, connectivity: int, without_target: bool) -> Scores:
    """Dice and the volumes of components that miss and of instances that are missed.

    Args:
        pair: the case.
        connectivity: of components.
        without_target: whether Dice and missed volume have a value where there is no target.
    """
    objects = pair.objects(connectivity)
    ml = pair.voxel_mm3 / 1000
    false = float(objects.pairs.component_voxels[~objects.hits].sum() * ml)
    missed = float(objects.pairs.instance_voxels[~objects.found].sum() * ml)
    undefined = not pair.voxels[0] and not without_target
    return {
        "dice": nan if undefined else pair.dice,
        "false_positive_volume_ml": false,
        "false_negative_volume_ml": nan if undefined else missed,
    }


# --- VALDO -------------------------------------------------------------------------------------------------


def valdo_pvs(pair: MaskPair, *, connectivity: int, iou: float) -> Scores:
    """Each component chooses the instance that it shares most voxels with; of several, the highest IoU is the hit.

    Components of one IoU with one instance are all hits, as in the official code.
    """
    objects = pair.objects(connectivity)
    p = objects.pairs
    # By component, most voxels first; of equals the lower instance.
    order = np.lexsort((p.instance, -p.shared, p.component))
    chosen = order[np.unique(p.component[order], return_index=True)[1]]
    instance, component, quality = p.instance[chosen], p.component[chosen], p.iou[chosen]
    best = np.zeros(objects.n[0])
    np.maximum.at(best, instance, quality)
    hits = int(((quality == best[instance]) & (quality > iou)).sum())
    return _valdo(pair, objects, (instance, component, p.shared[chosen]), hits, best > iou)


def valdo_microbleeds(pair: MaskPair, *, connectivity: int, distance_mm: float) -> Scores:
    """Each component chooses the instance with the nearest centre of mass, if near enough; an instance has one hit."""
    objects = pair.objects(connectivity)
    own, others = (_centres(ids, n) * pair.spacing for ids, n in zip((objects.target, objects.prediction), objects.n))
    if not len(own):
        return _valdo(pair, objects, (np.zeros(0, int),) * 3, 0, np.zeros(0, bool))
    away, nearest = cKDTree(own).query(others)
    component = np.flatnonzero(away < distance_mm)
    instance = nearest[component]
    p = objects.pairs
    shared = coo_array((p.shared, (p.instance, p.component)), objects.n).tocsr()[instance, component]
    found = np.bincount(instance, minlength=len(own)) > 0
    return _valdo(pair, objects, (instance, component, shared), int(found.sum()), found)


def _centres(ids: np.ndarray, n: int) -> np.ndarray:
    places = np.argwhere(ids > 0)
    own = ids[tuple(places.T)] - 1
    size = np.bincount(own, minlength=n)
    return np.stack([np.bincount(own, axis, n) for axis in places.T], -1) / size[:, None]


def _valdo(
    pair: MaskPair, objects: Objects, chosen: tuple[np.ndarray, np.ndarray, np.ndarray], hits: int, found: np.ndarray
) -> Scores:
    """Scores of the instance that each component chose and the voxels that they share.

    Dice is that of the found instances with all components that chose them; an instance is missed if none did.
    """
    (instance, component, shared), p = chosen, objects.pairs
    n_target, n_prediction = objects.n
    sizes = p.instance_voxels + np.bincount(instance, p.component_voxels[component], n_target)
    dice = (2 * np.bincount(instance, shared, n_target) / sizes)[found]
    missed = n_target - len(np.unique(instance))
    target, prediction, _ = pair.voxels
    return {
        "f1": 2 * hits / (hits + n_prediction + missed) if n_target else nan,
        "mean_dice": (float(dice.mean()) if len(dice) else 0.0) if n_target else nan,
        "absolute_count_difference": float(abs(n_target - n_prediction)),
        "absolute_volume_difference_mm3": abs(target - prediction) * pair.voxel_mm3,
    }


# --- MSSEG -------------------------------------------------------------------------------------------------


def msseg(pair: MaskPair, *, connectivity: int, minimum_mm3: float) -> Scores:
    """Voxel scores of all voxels; lesion scores of lesions that are large enough, by shares of their voxels."""
    least = int(minimum_mm3 / pair.voxel_mm3) + 1
    p = pair.objects(connectivity).pairs.at_least(least)
    target, prediction, both = pair.voxels
    tested = {
        "NbTestedLesions": float(len(p.component_voxels)),
        "VolTestedLesions": float(p.component_voxels.sum() * pair.voxel_mm3),
    }
    if not target:
        return {**dict.fromkeys(_MSSEG, nan), **tested}
    outside = pair.target.size - target - prediction + both + int(np.prod(pair.shape)) - pair.target.size
    swapped = Pairs(p.component_voxels, p.instance_voxels, p.component, p.instance, p.shared)
    sensitivity, precision = _share_found(p), _share_found(swapped) if prediction else 0.0
    values = (
        both / (target + prediction - both),
        pair.dice,
        both / target,
        outside / (outside + prediction - both),
        both / prediction if prediction else nan,
        outside / (outside + target - both),
        100 * (prediction - target) / target,
        *_distances(pair),
        precision,
        sensitivity,
        2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0,
    )
    return {**dict(zip(_MSSEG, values)), **tested}


_MSSEG = (
    *("Jaccard", "Dice", "Sensitivity", "Specificity", "PPV", "NPV", "RelativeVolumeError"),
    *("HausdorffDistance", "ContourMeanDistance", "PPVL", "SensL", "F1_score"),
)
_COVERED, _WALKED, _OUTSIDE = 0.1, 0.65, 0.7


def _share_found(p: Pairs) -> float:
    """The share of instances that are covered, by components that mostly lie in instances."""
    n, m = len(p.instance_voxels), len(p.component_voxels)
    covered = np.bincount(p.instance, p.shared, n)
    outside = 1 - np.bincount(p.component, p.shared, m) / p.component_voxels
    return sum(
        covered[i] > _COVERED * p.instance_voxels[i] and _walk(p, np.flatnonzero(p.instance == i), covered[i], outside)
        for i in range(n)
    ) / max(n, 1)


def _walk(p: Pairs, own: np.ndarray, covered: float, outside: np.ndarray) -> bool:
    walked = 0
    for index in own[np.argsort(-p.shared[own], kind="stable")]:
        if outside[p.component[index]] > _OUTSIDE:
            return False
        walked += int(p.shared[index])
        if walked >= _WALKED * covered:
            break
    return True


def _distances(pair: MaskPair) -> tuple[float, float]:
    """ITK's Hausdorff distance between all voxels, and the larger mean distance between borders."""
    if not pair.voxels[1]:
        return nan, nan
    there, back = pair.distances(pair.spacing)
    # A border voxel inside the other mask is at no distance from that mask's voxels.
    outside = [~mask[tuple(border.T)] for mask, border in zip((pair.prediction, pair.target), pair.borders)]
    hausdorff = max(float((away * beyond).max()) for away, beyond in zip((there, back), outside))
    return hausdorff, float(max(there.mean(), back.mean()))
