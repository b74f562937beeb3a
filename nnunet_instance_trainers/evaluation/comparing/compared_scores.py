"""The scores that models are compared by: how each is averaged, ranked, and what stands beside it without a rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation
from nnunet_instance_trainers.evaluation.surfaces import surface_columns

__all__ = ["PAPER_SCORES", "SCORES", "Score", "scores_of"]


@dataclass(frozen=True)
class Score:
    """How a column of ``cases.csv`` is summed up and ranked.

    Attributes:
        name: the column.
        group: "global", "instance" and "panoptic" scores are ranked, the last in RA only; "" is shown beside them.
        better: "higher" or "lower".
        kind: "mean" over the cases, and over the classes of a case; "count" is added over classes; "pooled" is
            predicted over true volume, each summed first, since one tiny target makes any mean of ratios huge.
        absolute: whether the distance from 0 counts.
        by_size: whether the mean is ranked by its distance from 0.
    """

    name: str
    group: str
    better: str = "higher"
    kind: str = "mean"
    absolute: bool = False
    by_size: bool = False


# Volume ratio and the one-to-one F1 stand beside the overlap scores, which over-segmentation can raise.
SCORES = (
    Score("dice", "global"),
    Score("volume_difference_ml", "global", "lower", kind="count", absolute=True),
    Score("volume_ratio", "", kind="pooled"),
    Score("f1_iou50", "instance"),
    Score("f1", "instance"),
    Score("sensitivity", "instance"),
    Score("precision", "instance"),
    Score("lesion_dice", "instance"),
    Score("missed", "instance", "lower", kind="count"),
    Score("false", "instance", "lower", kind="count"),
    Score("pq_dice", ""),
    Score("pq_iou", ""),
    Score("voxel_sensitivity", ""),
    Score("voxel_precision", ""),
    Score("absolute_count_difference", "", "lower", kind="count"),
    Score("cases_with_missed", "", "lower"),
    Score("cases_all_missed", "", "lower"),
    Score("cases_with_false", "", "lower"),
    Score("cases_with_neither", ""),
)


PAPER_SCORES = (
    Score("pq_dice", "panoptic"),
    Score("dice", "global"),
    Score("volume_difference_ml", "global", "lower", kind="count", by_size=True),
    Score("fdr", "instance", "lower"),
    Score("fnr", "instance", "lower"),
    Score("precision", "instance"),
    Score("sensitivity", "instance"),
    Score("f1", "instance"),
    Score("volume_ratio", "", kind="pooled"),
    Score("f1_iou50", ""),
)
"""The eight scores of the instance-loss paper (Rachmadi et al. 2024), and what must stand beside them."""


def scores_of(models: Sequence[Evaluation], scores: Sequence[Score] = SCORES) -> tuple[Score, ...]:
    """Some scores, and beside them the surface scores that all models have at one tolerance."""
    tolerances = {model.summary["settings"].get("surfaces_mm") for model in models}
    tolerance = tolerances.pop()
    if tolerance is None or tolerances:
        return tuple(scores)
    return (*scores, *(Score(name, "", better) for name, better in surface_columns(tolerance).items()))
