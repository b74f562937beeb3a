from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from geometry import random_labels

from nnunet_instance_trainers.evaluation import Rule, detect
from nnunet_instance_trainers.evaluation.object_surfaces import class_surfaces, instance_surfaces
from nnunet_instance_trainers.evaluation.surfaces import surface_scores

SPACING = (3.0, 0.5, 0.8)


def random_pair(shape: tuple[int, ...] = (7, 12, 9)) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a target, some of which touch, and a predicted mask."""
    target, other = (random_labels(shape, 5, seed, batch=1)[0].numpy() for seed in (1, 2))
    return target, (other > 0) | np.roll(target > 1, 1, axis=1)


def test_a_class_has_the_scores_of_its_masks() -> None:
    target, prediction = random_pair()
    expected = surface_scores(target > 0, prediction, SPACING, 0.9)
    assert class_surfaces(target > 0, prediction, SPACING, 0.9) == expected


@pytest.mark.parametrize("rule", [Rule(), Rule("dice", 0.2)], ids=str)
def test_a_found_instance_has_those_of_its_mask_and_what_found_it(rule: Rule) -> None:
    target, prediction = random_pair()
    detection = detect(target, prediction, rule=rule)
    parts = detection.components
    own = instance_surfaces(detection, SPACING, 0.9)
    assert len(own) == len(detection.found) and detection.found.any()
    for n, scores in enumerate(own):
        pairs = detection.counted[detection.pairs.instance[detection.counted] == n]
        if not len(pairs):
            assert not detection.found[n] and all(map(isnan, scores.values()))
            continue
        union = np.isin(parts, detection.pairs.component[pairs] + 1)
        assert scores == surface_scores(detection.instances == n + 1, union, SPACING, 0.9)


def test_instances_that_touch_have_a_border_between_them() -> None:
    target = np.zeros((5, 5, 8), int)
    target[1:4, 1:4, 1:4], target[1:4, 1:4, 4:7] = 1, 2
    first, second = instance_surfaces(detect(target, target > 0), (1.0, 1.0, 1.0), 1.0)
    assert first == second == surface_scores(target == 1, target > 0, (1.0, 1.0, 1.0), 1.0)


def test_one_slice_is_an_image_of_two_axes() -> None:
    target, prediction = (mask[2:3] > 0 for mask in random_pair())
    expected = surface_scores(target[0], prediction[0], SPACING[1:], 0.9)
    assert class_surfaces(target, prediction, (999.0, *SPACING[1:]), 0.9) == expected
    assert expected["assd_mm"] != surface_scores(target, prediction, SPACING, 0.9)["assd_mm"]


def test_without_one_side_distances_are_undefined_and_surface_dice_is_0() -> None:
    full, empty = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    scores = class_surfaces(full, empty, SPACING, 1.5)
    assert scores.pop("nsd_at_1.5_mm") == 0 and all(map(isnan, scores.values()))
    assert all(map(isnan, class_surfaces(empty, empty, SPACING, 1.5).values()))
    assert instance_surfaces(detect(empty.astype(int), empty), SPACING, 1.5) == []
