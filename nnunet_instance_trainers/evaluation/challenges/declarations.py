"""The challenges: for each what is scored, with which settings, how cases are averaged and teams ranked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.challenges.brats2026 import brats2026_mets, brats2026_tasks
from nnunet_instance_trainers.evaluation.challenges.brats_lesionwise import brats2023, brats2024
from nnunet_instance_trainers.evaluation.challenges.challenge import Challenge, Score
from nnunet_instance_trainers.evaluation.challenges.lesion_scores import (
    autopet,
    isles22,
    isles24,
    msseg,
    valdo_microbleeds,
    valdo_pvs,
)
from nnunet_instance_trainers.evaluation.challenges.map_scores import (
    conic,
    conic_quality,
    ctc,
    ctc_quality,
    dsb2018,
    pannuke,
)
from nnunet_instance_trainers.evaluation.challenges.surface_challenges import kits, wmh2017

__all__ = ["CHALLENGES", "find_challenge"]

_GITHUB = "https://github.com/"
_TWO_SPACINGS = (
    "lesion-wise distances take the spacing (x, y, z) for (z, y, x), whole-image ones are in voxels; columns that end "
    "in _right_spacing have them in mm"
)
_CLAIMS = "a component counts in full for every lesion that it touches after dilation"
_LESIONWISE = {"LesionWise_Score_Dice": "higher", "LesionWise_Score_HD95": "lower"}


def _isles(
    name: str, title: str, year: int, link: str, version: str, score: Score, quirks: tuple[str, ...]
) -> Challenge:
    better = {
        "dice": "higher",
        "lesion_f1": "higher",
        "absolute_volume_difference_ml": "lower",
        "absolute_lesion_difference": "lower",
    }
    return Challenge(
        name=name,
        title=title,
        year=year,
        organ="brain, stroke",
        scored="Dice, volume and count difference, lesion F1",
        link=_GITHUB + link,
        equals=f"{link} {version}",
        score=score,
        better=better,
        ranking="mean rank",
        quirks=quirks,
    )


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
        link=_GITHUB + source,
        equals=f"{source} {'43c9052' if of_2023 else 'f1131e3'}",
        score=score,
        better=_LESIONWISE,
        region_score=regions or {},
        maps=False,
        quirks=(_CLAIMS, *(() if of_2023 else later)),
    )


def _autopet(number: int, year: int) -> Challenge:
    early = number <= 2
    source, version = ("lab-midas/autoPET", "468179b") if early else ("ClinicalDataScience/autoPETIII", "9b3dd51")
    better = {"dice": "higher", "false_positive_volume_ml": "lower", "false_negative_volume_ml": "lower"}
    return Challenge(
        name=f"autopet{number}",
        title=f"autoPET {'I' * number if number < 4 else 'IV'}",
        year=year,
        organ="whole body, PET/CT lesions",
        scored="Dice, false positive and false negative volume",
        link=_GITHUB + source,
        equals=f"{source} {version}",
        score=partial(autopet, connectivity=18, without_target=early),
        better=better,
        ranking="mean rank" if early else None,
        weights=dict(zip(better, (0.5, 0.25, 0.25))) if early else {},
        quirks=("components of 18 neighbours: voxels that touch by a corner are two",)
        + (() if early else ("ranks are taken per centre and tracer, which label images do not tell",)),
    )


_ET_2024 = partial(brats2024, dilation=3, minimum=10)

_ALL = (
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
    _isles(
        "isles22",
        "ISLES'22",
        2022,
        "ezequieldlrosa/isles22",
        "31b7c8c2",
        partial(isles22, connectivity=26),
        ("any shared voxel counts as found, so one large component can find everything",),
    ),
    _isles(
        "isles24",
        "ISLES'24",
        2024,
        "ezequieldlrosa/isles24",
        "94b3486 with panoptica 1.0.1",
        partial(isles24, connectivity=26, iou=0.2),
        ("Dice is 0 where no lesion is matched, however many voxels are shared",),
    ),
    Challenge(
        name="atlas2",
        title="ATLAS R2.0",
        year=2022,
        organ="brain, stroke",
        scored="Dice, volume and count difference, lesion F1: the test scores of the ICI paper",
        link=_GITHUB + "npnl/atlas2_grand_challenge",
        equals="npnl/atlas2_grand_challenge 55b9524",
        score=partial(isles22, connectivity=6, in_voxels=True),
        better={
            "Dice": "higher",
            "Volume Difference": "lower",
            "Lesionwise F1-Score": "higher",
            "Simple Lesion Count": "lower",
        },
        ranking="mean rank",
        quirks=("components of 6 neighbours: voxels that touch by an edge are two", "volume difference is in voxels"),
    ),
    *(_autopet(number, year) for number, year in ((1, 2022), (2, 2023), (3, 2024), (4, 2025))),
    Challenge(
        name="msseg",
        title="MSSEG-2016 and MSSEG-2",
        year=2016,
        organ="brain, multiple sclerosis",
        scored="voxel scores, distances, lesion sensitivity, precision and F1",
        link=_GITHUB + "Inria-Empenn/Anima-Public",
        equals="Anima d9fb323d with -s -l -d and its defaults",
        score=partial(msseg, connectivity=6, minimum_mm3=3),
        better={"Dice": "higher", "F1_score": "higher", "SensL": "higher", "PPVL": "higher"},
        quirks=("lesions of 3 mm3 and less are background", "Anima's SurfaceDistance is broken and left out"),
    ),
    Challenge(
        name="wmh2017",
        title="WMH Segmentation Challenge",
        year=2017,
        organ="brain, white matter hyperintensities",
        scored="Dice, H95, volume difference in %, lesion recall and F1",
        link=_GITHUB + "hjkuijf/wmhchallenge",
        equals="hjkuijf/wmhchallenge 2e628cb",
        score=wmh2017,
        better={
            "dsc": "higher",
            "h95_mm": "lower",
            "avd_percent": "lower",
            "lesion_recall": "higher",
            "lesion_f1": "higher",
        },
        ranking="scaled",
        regions={"WMH": (1,)},
        masked=(2,),
        quirks=("an empty prediction has no H95 and is left out of its mean", "label 2 counts for nothing"),
    ),
    *(
        Challenge(
            name=f"valdo-{what}",
            title=f"VALDO 2021, {title}",
            year=2021,
            organ="brain, small vessel disease",
            scored="F1, mean Dice of found objects, count and volume difference",
            link=_GITHUB + "WhereIsValdo/valdo-eval-2021",
            equals=f"WhereIsValdo/valdo-eval-2021 ee87c04, {settings}",
            score=score,
            better={
                "f1": "higher",
                "mean_dice": "higher",
                "absolute_count_difference": "lower",
                "absolute_volume_difference_mm3": "lower",
            },
            quirks=quirks,
        )
        for what, title, settings, score, quirks in (
            (
                "microbleeds",
                "microbleeds",
                "6 neighbours, 5 mm",
                partial(valdo_microbleeds, connectivity=6, distance_mm=5),
                ("objects need not touch: centres of mass less than 5 mm apart do",),
            ),
            (
                "pvs",
                "perivascular spaces",
                "26 neighbours, IoU 0.1",
                partial(valdo_pvs, connectivity=26, iou=0.1),
                ("of components with equal IoU with one object all are hits",),
            ),
        )
    ),
    Challenge(
        name="kits23",
        title="KiTS23",
        year=2023,
        organ="kidney, tumour and cyst",
        scored="Dice and surface Dice by area, of three regions",
        link=_GITHUB + "neheller/kits23",
        equals="neheller/kits23 c108835 with surface-distance 0.1",
        score=partial(kits, tolerance_mm=1.1498198361434828),
        better={"dice": "higher", "surface_dice": "higher"},
        regions={"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)},
        region_score={
            "kidney_and_mass": partial(kits, tolerance_mm=1.0330772532390826),
            "mass": partial(kits, tolerance_mm=1.1328796488598762),
        },
        quirks=("surface Dice is by area, at 1.033, 1.133 and 1.150 mm",),
    ),
    Challenge(
        *("dsb2018", "Data Science Bowl 2018", 2018, "nuclei, microscopy", "average precision at IoU 0.5 to 0.95"),
        *(_GITHUB + "stardist/stardist", "stardist/stardist 0.9.1, matching.py"),
        score=dsb2018,
        better={"mean_ap": "higher"},
        quirks=("a pair exactly at the threshold counts, on Kaggle it did not",),
    ),
    Challenge(
        *("ctc", "Cell Tracking Challenge", 2014, "cells, microscopy", "SEG and DET"),
        *(_GITHUB + "CellTrackingChallenge/py-ctcmetrics", "CellTrackingChallenge/py-ctcmetrics 9865e6f"),
        score=ctc,
        better={"SEG": "higher", "DET": "higher"},
        pool=ctc_quality,
        quirks=("one component may match several objects; each beyond the first costs half a missed one in DET",),
    ),
    Challenge(
        *("pannuke", "PanNuke", 2020, "nuclei, histology", "panoptic quality per class"),
        *(_GITHUB + "TissueImageAnalytics/PanNuke-metrics", "TissueImageAnalytics/PanNuke-metrics c00014d"),
        score=pannuke,
        better={"pq": "higher"},
        quirks=("an image without objects of a class is left out, whatever is predicted there",),
    ),
    Challenge(
        *("conic", "CoNIC", 2022, "nuclei, histology", "panoptic quality pooled over images (PQ+)"),
        *(_GITHUB + "TissueImageAnalytics/CoNIC", "TissueImageAnalytics/CoNIC c1c4964"),
        score=conic,
        better={"pq": "higher"},
        pool=conic_quality,
        quirks=("counts are summed over images, so an image without objects counts by what is predicted there",),
    ),
)

CHALLENGES = {challenge.name: challenge for challenge in _ALL}


def find_challenge(name: str) -> Challenge:
    """A challenge by its name.

    Raises:
        UserError: there is none.
    """
    if name not in CHALLENGES:
        raise UserError(f"there is no challenge {name!r}: choose one of 'nnunet-instance challenge --list'")
    return CHALLENGES[name]
