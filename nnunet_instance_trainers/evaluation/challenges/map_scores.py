"""Scores of challenges over instance maps: Data Science Bowl 2018, Cell Tracking Challenge, PanNuke, CoNIC."""

from __future__ import annotations

from math import nan

import numpy as np

from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair

__all__ = ["conic", "conic_quality", "ctc", "ctc_quality", "dsb2018", "pannuke"]

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
    hits = int(matched.sum())
    counts = {
        "NS": float(np.maximum(per_component - 1, 0).sum()),
        "FN": float(n - hits),
        "FP": float((per_component == 0).sum()),
        "TP": float(hits),
        "iou_sum": float(p.iou[matched].sum()),
    }
    return {**ctc_quality(counts), **counts}


def ctc_quality(counts: Scores) -> Scores:
    """SEG and DET of counts of one image, or summed over a video."""
    n = counts["TP"] + counts["FN"]
    cost = 5 * counts["NS"] + 10 * counts["FN"] + counts["FP"]
    return {"SEG": counts["iou_sum"] / n, "DET": 1 - min(cost, 10 * n) / (10 * n)} if n else {"SEG": nan, "DET": nan}


def pannuke(pair: MaskPair) -> Scores:
    """Panoptic quality at IoU above 0.5; nothing where there is no target."""
    counts = _count(pair)
    if not pair.objects(26).n[0]:
        return {"dq": nan, "sq": nan, "pq": nan}
    dq = counts["tp"] / (counts["tp"] + (counts["fp"] + counts["fn"]) / 2)
    sq = counts["iou_sum"] / (counts["tp"] + _SMALL)
    return {"dq": dq, "sq": sq, "pq": dq * sq}


def conic(pair: MaskPair) -> Scores:
    """The same with the small number in both ratios, and the counts that PQ+ adds up over the images of a class."""
    counts = _count(pair)
    quality = conic_quality(counts)
    return {**(quality if pair.objects(26).n[0] else dict.fromkeys(quality, nan)), **counts}


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
