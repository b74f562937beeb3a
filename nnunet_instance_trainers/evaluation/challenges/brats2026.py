"""BraTS 2026: one-to-one lesions by Dice, and for METS large and small lesions apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, nan

import numpy as np
from scipy import ndimage

from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair, Objects
from nnunet_instance_trainers.evaluation.surfaces import border_voxels, distances, hd95_pooled, nsd_mean

__all__ = ["brats2026_mets", "brats2026_tasks", "panoptica_lesions"]

Scores = dict[str, float]
Row = tuple[float, float, float]

_PENALTY = 373.0
_MATCH_DICE = 1e-6


def brats2026_mets(pair: MaskPair, *, large_mm3: float, dice: float) -> Scores:
    """Counts of all, of large and of small lesions, and means over large lesions and all false components.

    Args:
        pair: the case.
        large_mm3: from which volume on a lesion is large.
        dice: from which Dice on a large or small lesion is a hit.
    """
    rows, sizes, false = panoptica_lesions(pair, _official(pair)), _sizes(pair), _false(pair)
    large = sizes >= large_mm3
    official = dict(_all(rows, false))
    for name, chosen in (("large", large), ("small", ~large)):
        hit = int(sum(row is not None and row[0] >= dice for row in _of(rows, chosen)))
        official |= _counts(name, hit, false, int(chosen.sum()) - hit, 0.0)
    official |= _lesionwise(_penalised(rows, large, false))
    if not large.any():
        official.update({name: nan for name in official if not name.startswith("all")})
    official |= _whole(pair)
    right = panoptica_lesions(pair, pair.spacing)
    return {**official, **_beside(pair, _penalised(right, large, false) if large.any() else [])}


def brats2026_tasks(pair: MaskPair) -> Scores:
    """The other tasks: counts, and means over matched lesions only (segmentation quality)."""
    scores = dict(_all(panoptica_lesions(pair, _official(pair)), _false(pair)))
    quality = [_matched(panoptica_lesions(pair, spacing)) for spacing in (_official(pair), pair.spacing)]
    scores |= _whole(pair)
    if quality[0]:
        scores |= _lesionwise(quality[0])
    else:  # panoptica's values where nothing is matched
        worst = dict(lesionwise_dsc_mean=0.0, lesionwise_nsd_mean=0.0, lesionwise_hd95_mean=inf)
        nothing = not sum(pair.objects(26).n)
        scores |= {name: nan if nothing else worst.get(name, nan) for name in _LESIONWISE}
    return {**scores, **_beside(pair, quality[1])}


def panoptica_lesions(pair: MaskPair, spacing: Sequence[float]) -> list[Row | None]:
    """Dice, HD95 and NSD of each target lesion with its partner; None for one without."""
    return pair.once(("lesions", *spacing), lambda: _lesions(pair, spacing))


def _lesions(pair: MaskPair, spacing: Sequence[float]) -> list[Row | None]:
    objects = pair.objects(26)
    p = objects.pairs
    rows: list[Row | None] = [None] * objects.n[0]
    boxes = [ndimage.find_objects(ids) for ids in (objects.target, objects.prediction)]
    for k in p.match("dice", _MATCH_DICE):
        n, m = int(p.instance[k]), int(p.component[k])
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(boxes[0][n], boxes[1][m]))
        masks = objects.target[box] == n + 1, objects.prediction[box] == m + 1
        away = distances(*(border_voxels(mask) * np.asarray(spacing) for mask in masks))
        rows[n] = (float(p.dice[k]), hd95_pooled(*away), nsd_mean(*away, min(spacing)))
    return rows


# --- spacing, which the official code mixes up ---------------------------------------------------------------


def _official(pair: MaskPair) -> Sequence[float]:
    """The spacing (x, y, z) on an array (z, y, x)."""
    return pair.spacing[::-1]


def _whole(pair: MaskPair, spacing: Sequence[float] = (1.0, 1.0, 1.0), tolerance: float = 0.5) -> Scores:
    """Scores of the whole masks; officially in voxels."""
    target, prediction, _ = pair.voxels
    if not target or not prediction:
        values = (nan, nan, nan) if target == prediction else (0.0, 0.0, _PENALTY)
        return dict(zip(_GLOBAL, values))
    away = pair.distances(spacing)
    return dict(zip(_GLOBAL, (pair.dice, nsd_mean(*away, tolerance), hd95_pooled(*away))))


def _beside(pair: MaskPair, lesions: Sequence[Row]) -> Scores:
    """What the distances are with the right spacing."""
    whole = _whole(pair, pair.spacing, min(pair.spacing))
    both = {name: value for name, value in {**_lesionwise(lesions), **whole}.items() if "hd95" in name or "nsd" in name}
    return {f"{name}_right_spacing": value for name, value in both.items() if not name.endswith("std")}


# --- counts and means ----------------------------------------------------------------------------------------

_GLOBAL = ("global_dsc", "global_nsd", "global_hd95")
_LESIONWISE = tuple(f"lesionwise_{score}_{what}" for score in ("dsc", "hd95", "nsd") for what in ("mean", "std"))


def _sizes(pair: MaskPair) -> np.ndarray:
    return pair.objects(26).pairs.instance_voxels * pair.voxel_mm3


def _of(rows: Sequence[Row | None], chosen: np.ndarray) -> list[Row | None]:
    return [row for row, taken in zip(rows, chosen) if taken]


def _penalised(rows: Sequence[Row | None], chosen: np.ndarray, false: int) -> list[Row]:
    """The chosen lesions, and a row of penalties for each without a partner and each false component."""
    worst = (0.0, _PENALTY, 0.0)
    return [row or worst for row in _of(rows, chosen)] + [worst] * false


def _matched(rows: Iterable[Row | None]) -> list[Row]:
    return [row for row in rows if row is not None]


def _false(pair: MaskPair) -> int:
    objects: Objects = pair.objects(26)
    return objects.n[1] - len(objects.pairs.match("dice", _MATCH_DICE))


def _all(rows: Sequence[Row | None], false: int) -> Scores:
    hit = len(_matched(rows))
    return _counts("all", hit, false, len(rows) - hit, nan)


def _counts(name: str, tp: int, fp: int, fn: int, undefined: float) -> Scores:
    values = {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "prec": tp / (tp + fp) if tp + fp else undefined,
        "rec": tp / (tp + fn) if tp + fn else undefined,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else undefined,
    }
    return {f"{name}_instance_{key}": float(value) for key, value in values.items()}


def _lesionwise(lesions: Sequence[Row]) -> Scores:
    """Means and deviations; nan without lesions."""
    if not lesions:
        return dict.fromkeys(_LESIONWISE, nan)
    columns = np.array(lesions)
    return dict(zip(_LESIONWISE, np.stack((columns.mean(0), columns.std(0)), 1).ravel().tolist()))
