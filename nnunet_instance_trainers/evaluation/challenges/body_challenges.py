"""autoPET and KiTS23: lesions of the whole body, kidneys and their tumours."""

from __future__ import annotations

from functools import partial

from nnunet_instance_trainers.evaluation.challenges.challenge import GITHUB, Challenge
from nnunet_instance_trainers.evaluation.challenges.lesion_scores import autopet
from nnunet_instance_trainers.evaluation.challenges.surface_challenges import kits

__all__ = ["BODY"]


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
        link=GITHUB + source,
        equals=f"{source} {version}",
        score=partial(autopet, connectivity=18, without_target=early),
        better=better,
        ranking="mean rank" if early else None,
        weights=dict(zip(better, (0.5, 0.25, 0.25))) if early else {},
        quirks=("components of 18 neighbours: voxels that touch by a corner are two",)
        + (() if early else ("ranks are taken per centre and tracer, which label images do not tell",)),
    )


BODY = (
    *(_autopet(number, year) for number, year in ((1, 2022), (2, 2023), (3, 2024), (4, 2025))),
    Challenge(
        name="kits23",
        title="KiTS23",
        year=2023,
        organ="kidney, tumour and cyst",
        scored="Dice and surface Dice by area, of three regions",
        link=GITHUB + "neheller/kits23",
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
)
