"""BraTS 2023, 2024 and 2026: brain tumours, lesion by lesion."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from nnunet_instance_trainers.evaluation.challenges.brats2026 import brats2026_mets, brats2026_tasks
from nnunet_instance_trainers.evaluation.challenges.brats_lesionwise import brats2023, brats2024
from nnunet_instance_trainers.evaluation.challenges.challenge import GITHUB, Challenge, Score

__all__ = ["TUMOURS"]

_TWO_SPACINGS = (
    "lesion-wise distances take the spacing (x, y, z) for (z, y, x), whole-image ones are in voxels; columns that end "
    "in _right_spacing have them in mm"
)
_CLAIMS = "a component counts in full for every lesion that it touches after dilation"
_LESIONWISE = {"LesionWise_Score_Dice": "higher", "LesionWise_Score_HD95": "lower"}


def _brats(
    year: int, task: str, dilation: int, minimum: float, regions: Mapping[str, Score] | None = None
) -> Challenge:
    """A task of BraTS 2023 or 2024."""
    of_2023 = year == 2023
    source = f"rachitsaluja/BraTS-{year}-Metrics"
    score: Score = (
        partial(brats2023, dilation=dilation, minimum_mm3=minimum)
        if of_2023
        else partial(brats2024, dilation=dilation, minimum=minimum)
    )
    later = (
        "predicted components up to the size limit, in voxels, are dropped, so that target = prediction need not give "
        "Dice 1",
        "Sensitivity, Specificity and Legacy_HD95 are taken of ids instead of masks",
    )
    return Challenge(
        name=f"brats-lesionwise-{year}-{task.lower()}",
        title=f"BraTS {year} {task}",
        year=year,
        organ="brain, tumour",
        scored="lesion-wise Dice and HD95" + ("" if of_2023 else " and NSD"),
        link=GITHUB + source,
        equals=f"{source} {'43c9052' if of_2023 else 'f1131e3'}",
        score=score,
        better=_LESIONWISE,
        region_score=regions or {},
        maps="refused",
        quirks=(_CLAIMS, *(() if of_2023 else later)),
    )


_ET_2024 = partial(brats2024, dilation=3, minimum=10)

TUMOURS = (
    Challenge(
        name="brats-mets-2026",
        title="BraTS 2026 METS",
        year=2026,
        organ="brain, metastases",
        scored="lesion-wise Dice, HD95, NSD, and F1 of large and small lesions",
        link="https://pypi.org/project/BraTS_evaluation/",
        equals="BraTS_evaluation 0.0.10 with panoptica 2.1.7, parser mets at 27 mm3 and Dice 0.2",
        score=partial(brats2026_mets, large_mm3=27, dice=0.2),
        better={
            "lesionwise_dsc_mean": "higher",
            "lesionwise_nsd_mean": "higher",
            "lesionwise_hd95_mean": "lower",
            "large_instance_f1": "higher",
            "small_instance_f1": "higher",
        },
        quirks=(_TWO_SPACINGS, "every false component counts against large and against small lesions"),
    ),
    Challenge(
        name="brats-tasks-2026",
        title="BraTS 2026, other tasks",
        year=2026,
        organ="brain, tumour",
        scored="counts, and Dice, HD95, NSD of matched lesions",
        link="https://pypi.org/project/BraTS_evaluation/",
        equals="BraTS_evaluation 0.0.10 with panoptica 2.1.7, parser seg",
        score=brats2026_tasks,
        better={
            "global_dsc": "higher",
            "lesionwise_dsc_mean": "higher",
            "lesionwise_nsd_mean": "higher",
            "lesionwise_hd95_mean": "lower",
        },
        quirks=(_TWO_SPACINGS, "one case with objects and no match makes the mean HD95 infinite"),
    ),
    *(_brats(2024, *task) for task in (("MET", 1, 2), ("PED", 5, 10), ("SSA", 3, 50), ("MEN-RT", 1, 50))),
    _brats(2024, "GLI", 3, 20, dict.fromkeys(("et", "enhancing tumor", "enhancing_tumor", "enhancing"), _ET_2024)),
    *(_brats(2023, *task) for task in (("MET", 1, 2), ("MEN", 1, 50), ("GLI", 3, 50), ("SSA", 3, 50), ("PED", 3, 50))),
)
