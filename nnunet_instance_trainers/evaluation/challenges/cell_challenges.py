"""Data Science Bowl 2018, Cell Tracking Challenge, PanNuke and CoNIC: cells and nuclei, by instance maps."""

from __future__ import annotations

from nnunet_instance_trainers.evaluation.challenges.challenge import GITHUB, Challenge
from nnunet_instance_trainers.evaluation.challenges.map_scores import (
    conic,
    conic_quality,
    ctc,
    ctc_quality,
    dsb2018,
    pannuke,
)

__all__ = ["CELLS"]


CELLS = (
    Challenge(
        *("dsb2018", "Data Science Bowl 2018", 2018, "nuclei, microscopy", "average precision at IoU 0.5 to 0.95"),
        *(GITHUB + "stardist/stardist", "stardist/stardist 0.9.1, matching.py"),
        maps="needed",
        score=dsb2018,
        better={"mean_ap": "higher"},
        quirks=("a pair exactly at the threshold counts, on Kaggle it did not",),
    ),
    Challenge(
        *("ctc", "Cell Tracking Challenge", 2014, "cells, microscopy", "SEG and DET"),
        *(GITHUB + "CellTrackingChallenge/py-ctcmetrics", "CellTrackingChallenge/py-ctcmetrics 9865e6f"),
        maps="needed",
        score=ctc,
        better={"SEG": "higher", "DET": "higher"},
        pool=ctc_quality,
        quirks=("one component may match several objects; each beyond the first costs half a missed one in DET",),
    ),
    Challenge(
        *("pannuke", "PanNuke", 2020, "nuclei, histology", "panoptic quality per class"),
        *(GITHUB + "TissueImageAnalytics/PanNuke-metrics", "TissueImageAnalytics/PanNuke-metrics c00014d"),
        maps="needed",
        score=pannuke,
        better={"pq": "higher"},
        quirks=("an image without objects of a class is left out, whatever is predicted there",),
    ),
    Challenge(
        *("conic", "CoNIC", 2022, "nuclei, histology", "panoptic quality pooled over images (PQ+)"),
        *(GITHUB + "TissueImageAnalytics/CoNIC", "TissueImageAnalytics/CoNIC c1c4964"),
        maps="needed",
        score=conic,
        better={"pq": "higher"},
        pool=conic_quality,
        quirks=("counts are summed over images, so an image without objects counts by what is predicted there",),
    ),
)
