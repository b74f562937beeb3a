"""ISLES, ATLAS, MSSEG, WMH and VALDO: stroke, multiple sclerosis and small vessel disease."""

from __future__ import annotations

from functools import partial

from nnunet_instance_trainers.evaluation.challenges.challenge import GITHUB, Challenge, Score
from nnunet_instance_trainers.evaluation.challenges.lesion_scores import (
    isles22,
    isles24,
    msseg,
    valdo_microbleeds,
    valdo_pvs,
)
from nnunet_instance_trainers.evaluation.challenges.surface_challenges import wmh2017

__all__ = ["BRAIN_LESIONS"]


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
        link=GITHUB + link,
        equals=f"{link} {version}",
        score=score,
        better=better,
        ranking="mean rank",
        quirks=quirks,
    )


BRAIN_LESIONS = (
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
        link=GITHUB + "npnl/atlas2_grand_challenge",
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
    Challenge(
        name="msseg",
        title="MSSEG-2016 and MSSEG-2",
        year=2016,
        organ="brain, multiple sclerosis",
        scored="voxel scores, distances, lesion sensitivity, precision and F1",
        link=GITHUB + "Inria-Empenn/Anima-Public",
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
        link=GITHUB + "hjkuijf/wmhchallenge",
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
            link=GITHUB + "WhereIsValdo/valdo-eval-2021",
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
)
