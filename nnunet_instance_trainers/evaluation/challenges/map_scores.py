"""Scores of challenges over instance maps: Data Science Bowl 2018, Cell Tracking Challenge, PanNuke, CoNIC."""

from __future__ import annotations

from math import nan

import numpy as np

from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair

__all__ = ["conic", "ctc", "dsb2018", "pannuke"]

Scores = dict[str, float]

_SMALL = 1e-6


def dsb2018(pair: MaskPair) -> Scores:
    """Average precision TP / (TP + FP + FN) at IoU 0.5, 0.55 ... 0.95, and its mean over the thresholds."""
    objects = pair.objects(26)
    p = objects.pairs
    precisions = {}
    for threshold in (np.arange(10) * 5 + 50) / 100:
        hits = len(p.match("iou", threshold))
        union = sum(objects.n) - hits
        precisions[f"ap_{threshold:.2f}"] = hits / union if union else 0.0
    return {"mean_ap": float(np.mean(list(precisions.values()))), **precisions}


def ctc(pair: MaskPair) -> Scores:
    """SEG and DET: an instance is matched to the component that holds more than half of it."""
    objects = pair.objects(26)
    p = objects.pairs
    n, m = objects.n
    matched = p.shared > 0.5 * p.instance_voxels[p.instance]
    per_component = np.bincount(p.component[matched], minlength=m)
    splits = int(np.maximum(per_component - 1, 0).sum())
    missed, false = n - int(matched.sum()), int((per_component == 0).sum())
    cost = 5 * splits + 10 * missed + false
    return {
        "SEG": float(p.iou[matched].sum() / n) if n else nan,
        "DET": 1 - min(cost, 10 * n) / (10 * n) if n else nan,
        "NS": float(splits),
        "FN": float(missed),
        "FP": float(false),
        "TP": float(matched.sum()),
    }


def pannuke(pair: MaskPair) -> Scores:
    """Panoptic quality at IoU above 0.5; nothing where there is no target."""
    counts = _count(pair)
    if not sum(pair.objects(26).n[:1]):
        return {"dq": nan, "sq": nan, "pq": nan}
    dq = counts["tp"] / (counts["tp"] + (counts["fp"] + counts["fn"]) / 2)
    sq = counts["iou_sum"] / (counts["tp"] + _SMALL)
    return {"dq": dq, "sq": sq, "pq": dq * sq}


def conic(pair: MaskPair) -> Scores:
    """The same with the small number in both ratios, and the counts that PQ+ adds up over the images of a class."""
    counts = _count(pair)
    return (
        {**conic_quality(counts), **counts}
        if pair.objects(26).n[0]
        else {**dict.fromkeys(("dq", "sq", "pq"), nan), **counts}
    )


def conic_quality(counts: Scores) -> Scores:
    """DQ, SQ and PQ of counts of one image, or summed over many."""
    dq = counts["tp"] / (counts["tp"] + (counts["fp"] + counts["fn"]) / 2 + _SMALL)
    sq = counts["iou_sum"] / (counts["tp"] + _SMALL)
    return {"dq": dq, "sq": sq, "pq": dq * sq}


def _count(pair: MaskPair) -> Scores:
    objects = pair.objects(26)
    matched = objects.pairs.iou[objects.pairs.iou > 0.5]
    n, m = objects.n
    hits = len(matched)
    return {"tp": float(hits), "fp": float(m - hits), "fn": float(n - hits), "iou_sum": float(matched.sum())}
