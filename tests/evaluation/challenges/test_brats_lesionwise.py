from __future__ import annotations

import numpy as np
import pytest
from challenge_values import OfficialValues, needs_golden

from nnunet_instance_trainers.evaluation.challenges.brats_lesionwise import brats2023, brats2024
from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES
from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair

SURFACES = ("HD95", "NSD")


def row(*voxels: int) -> np.ndarray:
    mask = np.zeros((3, 3, 24), bool)
    mask[1, 1, list(voxels)] = True
    return mask


def pair(target: np.ndarray, prediction: np.ndarray) -> MaskPair:
    return MaskPair.of(target, prediction, (1.0, 1.0, 1.0))


@needs_golden
@pytest.mark.parametrize("task", ["MET", "GLI"])
def test_2023_equals_brats_2023_metrics_43c9052(organisers: OfficialValues, task: str) -> None:
    official = organisers.read("brats2023")["values"][f"BraTS-{task}"]
    organisers.compare(
        official, CHALLENGES[f"brats-lesionwise-2023-{task.lower()}"].score, least=180, surfaces=SURFACES
    )


@needs_golden
def test_2024_equals_brats_2024_metrics_f1131e3(organisers: OfficialValues) -> None:
    official = organisers.read("brats2024MET")["values"]["BraTS-MET"]
    organisers.compare(official, CHALLENGES["brats-lesionwise-2024-met"].score, least=250, surfaces=SURFACES)


def test_dilation_joins_target_lesions() -> None:
    mask = row(2, 5)  # two voxels between them
    assert brats2023(pair(mask, mask), dilation=1, minimum_mm3=0)["Num_TP"] == 1
    mask = row(2, 6)
    assert brats2023(pair(mask, mask), dilation=1, minimum_mm3=0)["Num_TP"] == 2
    assert brats2023(pair(mask, mask), dilation=3, minimum_mm3=0)["Num_TP"] == 1


def test_small_target_lesions_count_for_nothing_but_claim_their_components() -> None:
    scores = brats2023(pair(row(2, 3, 4, 12), row(2, 3, 4, 12)), dilation=1, minimum_mm3=1)
    assert (scores["Num_TP"], scores["Num_FP"], scores["LesionWise_Score_Dice"]) == (1, 0, 1)


def test_a_false_component_costs_374() -> None:
    scores = brats2023(pair(row(2, 3, 4), row(2, 3, 4, 12)), dilation=1, minimum_mm3=0)
    assert scores["LesionWise_Score_HD95"] == 374 / 2
    assert scores["LesionWise_Score_Dice"] == 1 / 2


def test_2024_drops_small_predictions() -> None:
    case = pair(row(2, 3, 4), row(2, 3, 4, 12))
    assert brats2024(case, dilation=1, minimum=0)["Num_FP"] == 1
    assert brats2024(case, dilation=1, minimum=1)["Num_FP"] == 0


def test_2024_gli_has_its_own_limit_for_the_enhancing_tumour() -> None:
    target = np.zeros((9, 9, 9), bool)
    target[1:4, 1:6, 1] = True  # 15 voxels
    scores = [CHALLENGES["brats-lesionwise-2024-gli"].score_region(name, pair(target, target)) for name in ("ET", "WT")]
    assert [own["Num_TP"] for own in scores] == [1, 0]
