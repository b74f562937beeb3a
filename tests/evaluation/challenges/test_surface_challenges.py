from __future__ import annotations

import numpy as np
import pytest
from challenge_values import OfficialValues, needs_golden

from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES
from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair
from nnunet_instance_trainers.evaluation.challenges.surface_challenges import kits, wmh2017


@needs_golden
def test_wmh2017_equals_wmhchallenge_2e628cb(organisers: OfficialValues) -> None:
    official = organisers.read("wmh2017")["values"]
    organisers.compare(official, CHALLENGES["wmh2017"].score, least=110, surfaces=("h95",))
    assert set(organisers.undefined(official, "h95_mm")) >= {"lit07/empty", "lit07/empty_target", "lit07/both_empty"}


@needs_golden
@pytest.mark.parametrize("tolerance", [1.0330772532390826, 1.1498198361434828, 2.0])
def test_kits23_equals_c108835_with_surface_distance_0_1(organisers: OfficialValues, tolerance: float) -> None:
    official = {
        case: {"dice": values["dice"], "surface_dice": values[f"surface_dice_{tolerance}"]}
        for case, values in organisers.read("kits23")["values"].items()
    }
    organisers.compare(official, lambda pair: kits(pair, tolerance_mm=tolerance), least=44, surfaces=("surface",))


@needs_golden
def test_kits23_scores_its_three_regions_at_their_own_tolerances(organisers: OfficialValues) -> None:
    own, challenge = organisers.pair("lit26_aniso/eroded"), CHALLENGES["kits23"]
    scores = [challenge.score_region(region, own)["surface_dice"] for region in challenge.regions]
    official = organisers.read("kits23")["values"]["lit26_aniso/eroded"]
    assert scores[0] == pytest.approx(official["surface_dice_1.0330772532390826"], abs=1e-4)
    assert scores[2] == pytest.approx(official["surface_dice_1.1498198361434828"], abs=1e-4)
    assert scores[0] < scores[1] <= scores[2]  # 1.1 mm lies between the first two


def test_wmh2017_takes_borders_slice_by_slice() -> None:
    target = np.zeros((5, 5, 5), bool)
    target[:, 1:4, 1:4] = True
    prediction = target.copy()
    prediction[2, 2, 2] = False  # a hole opens a border of 8 voxels in its own slice; faces of others are no border
    scores = wmh2017(MaskPair.of(target, prediction, (10.0, 1.0, 1.0)))
    assert scores["h95_mm"] == 0
