from __future__ import annotations

from dataclasses import asdict, fields
from math import isnan, nan

import pytest

from nnunet_instance_trainers.evaluation import SCORES, Counts
from nnunet_instance_trainers.evaluation.counts import CASES

COUNTS = Counts(
    instances=8,
    components=5,
    found=2,
    hits=4,
    matched_instances=3,
    matched_components=3,
    iou50_instances=1,
    iou50_components=1,
    matched_iou=1.2,
    matched_dice=1.8,
    instance_dice=1.4,
    target_voxels=100,
    predicted_voxels=50,
    shared_voxels=30,
    target_ml=0.4,
    predicted_ml=0.1,
)


def test_ratios_of_counts_off_the_symmetric_case() -> None:
    assert COUNTS.scores() == pytest.approx(
        {
            "instances": 8,
            "components": 5,
            "found": 2,
            "missed": 6,
            "hits": 4,
            "false": 1,
            "sensitivity": 2 / 8,
            "precision": 4 / 5,
            "f1": 2 * (1 / 4) * (4 / 5) / (1 / 4 + 4 / 5),
            "fnr": 6 / 8,
            "fdr": 1 / 5,
            "f1_iou50": 2 / 13,
            "volume_ratio": 0.1 / 0.4,
            "rq": 6 / 13,
            "sq_iou": 1.2 / 3,
            "sq_dice": 1.8 / 3,
            "pq_iou": 1.2 / 3 * 6 / 13,
            "pq_dice": 1.8 / 3 * 6 / 13,
            "lesion_dice": 1.4 / 8,
            "lesion_dice_found": 1.4 / 2,
            "dice": 60 / 150,
            "voxel_sensitivity": 30 / 100,
            "voxel_precision": 30 / 50,
            "target_ml": 0.4,
            "predicted_ml": 0.1,
            "volume_difference_ml": -0.3,
            "volume_difference_percent": -75,
            "absolute_volume_difference_ml": 0.3,
            "absolute_count_difference": 3,
            "cases_with_missed": 1,
            "cases_all_missed": 0,
            "cases_with_false": 1,
            "cases_with_neither": 0,
        }
    )


def test_every_column_is_a_score() -> None:
    assert tuple(COUNTS.scores()) == SCORES
    assert COUNTS.scores(["found", "dice"]) == {"found": 2, "dice": 0.4}


def test_counts_add_up_field_by_field() -> None:
    other = Counts(*range(1, 1 + len(fields(Counts))))
    assert asdict(COUNTS + other) == pytest.approx(
        {name: value + asdict(other)[name] for name, value in asdict(COUNTS).items()}
    )
    assert COUNTS + Counts() == COUNTS


@pytest.mark.parametrize(
    ("instances", "found", "components", "hits", "kinds"),
    [
        (0, 0, 0, 0, [0, 0, 0, 1]),  # nothing to miss, nothing false
        (0, 0, 2, 0, [0, 0, 1, 0]),
        (2, 0, 0, 0, [1, 1, 0, 0]),
        (2, 1, 1, 1, [1, 0, 0, 0]),
        (2, 2, 1, 1, [0, 0, 0, 1]),
    ],
)
def test_kinds_of_cases(instances: int, found: int, components: int, hits: int, kinds: list[int]) -> None:
    own = Counts(instances=instances, found=found, components=components, hits=hits)
    assert list(own.scores(CASES).values()) == kinds


@pytest.mark.parametrize(
    "found, hits, instances, components, expected",
    [
        (1, 0, 1, 0, nan),  # found by a component of another size, and no component of this size
        (0, 1, 0, 1, nan),
        (0, 1, 2, 1, 0),
        (0, 0, 0, 3, 0),
        (0, 0, 3, 0, 0),
        (0, 0, 0, 0, nan),
    ],
)
def test_f1_of_a_bin_with_one_side_only(
    found: int, hits: int, instances: int, components: int, expected: float
) -> None:
    f1 = Counts(instances=instances, components=components, found=found, hits=hits).f1
    assert f1 == expected or (isnan(f1) and isnan(expected))
