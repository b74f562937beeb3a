from __future__ import annotations

import numpy as np
import pytest
from challenge_values import OfficialValues, needs_golden

from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES
from nnunet_instance_trainers.evaluation.challenges.lesion_scores import isles22, isles24, msseg, valdo_pvs
from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair
from nnunet_instance_trainers.evaluation.surfaces import assd


def pair(target: list, prediction: list, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> MaskPair:
    """Of lists (rows, columns), as a volume of one slice."""
    return MaskPair.of(np.array([target], bool), np.array([prediction], bool), spacing)


@needs_golden
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("isles22", "isles22"),  # ezequieldlrosa/isles22 31b7c8c2
        ("isles24", "isles24"),  # ezequieldlrosa/isles24 94b3486, panoptica 1.0.1
        ("atlas2", "atlas2"),  # npnl/atlas2_grand_challenge 55b9524
        ("autopet1", "autopet1"),  # lab-midas/autoPET 468179b
        ("autopet1", "autopet2"),
        ("autopet3", "autopet3"),  # ClinicalDataScience/autoPETIII 9b3dd51
        ("autopet3", "autopet4"),
    ],
)
def test_scores_equal_the_official_code(organisers: OfficialValues, file: str, name: str) -> None:
    organisers.compare(organisers.read(file)["values"], CHALLENGES[name].score, least=66)


@needs_golden
def test_msseg_equals_anima_d9fb323d(organisers: OfficialValues) -> None:
    official = organisers.read("anima_msseg")["values"]
    organisers.compare(official, CHALLENGES["msseg"].score, least=240, skipped=("SurfaceDistance",))


@needs_golden
def test_why_animas_surface_distance_is_not_offered(organisers: OfficialValues) -> None:
    """It never starts a voxel's search for the nearest anew, so each distance is the least of all before it."""
    for case, values in organisers.read("anima_msseg")["values"].items():
        pair = organisers.pair(case)
        away = pair.distances(pair.spacing)
        if not len(away[1]):
            assert values.get("SurfaceDistance", "nan") == "nan", case
        elif len(away[0]):
            sums = sum(np.minimum.accumulate(one).sum() for one in away)
            assert sums / sum(map(len, away)) == pytest.approx(values["SurfaceDistance"], abs=2e-6), case
            if case.endswith("partial"):  # a third of the lesions is missing
                assert values["SurfaceDistance"] < 0.5 < 4 < assd(*away)


@needs_golden
@pytest.mark.parametrize(
    ("settings", "name"),
    [("microbleeds,connectivity=1,threshold=5.0", "microbleeds"), ("epvs,connectivity=3,threshold=0.1", "pvs")],
)
def test_valdo_equals_valdo_eval_2021_ee87c04(organisers: OfficialValues, settings: str, name: str) -> None:
    official = {case: values[settings] for case, values in organisers.read("valdo")["values"].items()}
    organisers.compare(official, CHALLENGES[f"valdo-{name}"].score, least=88)


@needs_golden
def test_valdo_with_6_neighbours_equals_it_too(organisers: OfficialValues) -> None:
    settings = "epvs,connectivity=1,threshold=0.1"
    official = {case: values[settings] for case, values in organisers.read("valdo")["values"].items()}
    organisers.compare(official, lambda pair: valdo_pvs(pair, connectivity=6, iou=0.1), least=88)


def test_isles22_counts_an_instance_that_shares_one_voxel_as_found() -> None:
    scores = isles22(pair([[1, 1, 1, 1, 0, 1]], [[0, 0, 0, 1, 0, 0]]), connectivity=26)
    assert scores["lesion_f1"] == pytest.approx(1 / (1 + 0.5))  # one found, one missed
    assert scores["absolute_lesion_difference"] == 1


def test_isles24_gives_dice_0_where_no_lesion_is_matched() -> None:
    case = pair([[1] * 10], [[1] + [0] * 9])  # IoU 0.1
    assert isles24(case, connectivity=26, iou=0.2)["dice"] == 0
    assert isles24(case, connectivity=26, iou=0.1)["dice"] == pytest.approx(2 / 11)


def test_msseg_drops_lesions_by_volume_not_by_voxels() -> None:
    lesions = [[1, 1, 1, 0, 1, 1, 1, 1]]
    assert msseg(pair(lesions, lesions), connectivity=6, minimum_mm3=3)["NbTestedLesions"] == 1
    assert msseg(pair(lesions, lesions, (1, 1, 2.0)), connectivity=6, minimum_mm3=3)["NbTestedLesions"] == 2
