"""Scores from lists of objects are those of the merged image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from geometry import SHAPES, random_labels

from nnunet_instance_trainers.ensemble_fitting.choice_counts import Choice, count_choice
from nnunet_instance_trainers.ensemble_fitting.object_lists import ObjectLists, list_objects
from nnunet_instance_trainers.ensembling.functional import ensemble_by_volume
from nnunet_instance_trainers.evaluation.detection import Rule, detect
from nnunet_instance_trainers.instances import label_components

VOXEL_ML = 0.25
RULES = [Rule(), Rule("dice", 0.3)]


def boxes(shape: tuple[int, ...], n: int, seed: int) -> np.ndarray:
    return random_labels(shape, n, seed, batch=1)[0].numpy()


def drawn(shape: tuple[int, ...], seed: int, n_sources: int = 3) -> tuple[np.ndarray, list[np.ndarray]]:
    return boxes(shape, 6, seed), [boxes(shape, 6, 100 * seed + k + 1) > 0 for k in range(n_sources)]


def merged(masks: list[np.ndarray], choice: Choice, connectivity: int = 26) -> np.ndarray:
    """The plain way: keep components by volume, unite, drop what is small."""
    result = np.zeros(masks[0].shape, bool)
    for source, low, high in choice.ranges():
        ids, _ = label_components(masks[source], connectivity)
        volume = np.bincount(ids.ravel())[ids] * VOXEL_ML
        result |= (ids > 0) & (volume >= low) & (volume < high)
    ids, _ = label_components(result, connectivity)
    return (ids > 0) & (np.bincount(ids.ravel())[ids] * VOXEL_ML >= choice.min_volume_ml)


@pytest.mark.parametrize("choice", [
    Choice((1,)),
    Choice((0, 1), (2.0,)),
    Choice((2, 0, 1), (2.0, 6.0)),
    Choice((0, 1, 0), (1.0, 6.0), min_volume_ml=3.0),
    Choice((2,), min_volume_ml=1e9),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_lists_count_what_the_image_counts(shape: tuple[int, ...], rule: Rule, choice: Choice) -> None:
    for seed in range(8):
        target, masks = drawn(shape, seed)
        got = count_choice(list_objects(target, masks, voxel_ml=VOXEL_ML), choice, rule)
        expected = detect(target, merged(masks, choice), rule=rule, voxel_ml=VOXEL_ML).counts
        assert got.scores() == pytest.approx(expected.scores(), nan_ok=True)


@pytest.mark.parametrize(
    "rule",
    [
        Rule("greedy", 0.2),
        Rule("share", 0.4),
        Rule(connectivity=6),
        Rule(connectivity=18),
        Rule("iou", 0.2, 6, minimum_ml=0.75),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(9, 8), (1, 9, 8), (5, 6, 7)], ids=str)
def test_lists_count_as_the_image_under_every_rule(shape: tuple[int, ...], rule: Rule) -> None:
    """Specks, so that it matters which neighbours are joined."""
    choice, differing = Choice((0, 1), (1.0,), min_volume_ml=0.5), False
    for seed in range(4):
        random = np.random.default_rng(seed)
        target, *masks = (random.random((3, *shape)) < 0.3).astype(int)
        target = label_components(target, rule.connectivity)[0]
        lists = list_objects(target, masks, voxel_ml=VOXEL_ML, connectivity=rule.connectivity)
        image = merged(masks, choice, rule.connectivity)
        got = count_choice(lists, choice, rule).scores()
        expected = detect(target, image, rule=rule, voxel_ml=VOXEL_ML).counts
        assert got == pytest.approx(expected.scores(), nan_ok=True)
        differing |= got != pytest.approx(detect(target, image, voxel_ml=VOXEL_ML).counts.scores(), nan_ok=True)
    assert differing or (rule.connectivity == 18 and len(shape) - (shape[0] == 1) == 2)


@pytest.mark.parametrize(
    "choice", [Choice((0, 1), (2.0,)), Choice((2, 0, 1), (1.5, 6.0)), Choice((0, 1, 0), (1.5, 6.0))]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_lists_rescue_what_the_images_rescue(shape: tuple[int, ...], choice: Choice) -> None:
    differing = 0
    for seed in range(30):
        target, (first, *_) = drawn(shape, seed)
        shifted = [first, *(np.roll(first, k, axis=1) | (boxes(shape, 1, 900 + seed + k) > 0) for k in (1, -1))]
        members = [(shifted[source], (low, high)) for source, low, high in choice.ranges()]
        lists = list_objects(target, shifted, voxel_ml=VOXEL_ML)
        spacing = (1000 * VOXEL_ML, *(1,) * (len(shape) - 1))
        found = []
        for rescue in (True, False):
            image, _ = ensemble_by_volume(members, spacing, rescue=rescue)
            got = count_choice(lists, replace(choice, rescue=rescue))
            assert got == detect(target, image, voxel_ml=VOXEL_ML).counts
            found.append(got.components)
        differing += found[0] != found[1]
    assert differing > 2


def test_objects_of_two_sources_that_only_touch_are_one() -> None:
    left, right = np.array([[1, 1, 0, 0, 0]], bool), np.array([[0, 0, 1, 1, 1]], bool)
    lists = list_objects(np.zeros((1, 5), int), [left, right])
    assert lists.touching.tolist() == [[0, 1]] and lists.sharing.tolist() == []
    assert count_choice(lists, Choice((0, 1), (0.0025,))).components == 1


def test_objects_at_the_border_do_not_touch_round_the_corner() -> None:
    for column, expected in ((2, [[0, 1]]), (0, [])):
        left, right = np.zeros((2, 4, 4, 4), bool)
        left[0, 1, 3], right[0, 2, column] = True, True
        assert list_objects(np.zeros((4, 4, 4), int), [left, right]).touching.tolist() == expected


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_ignored_voxels_are_left_out(rule: Rule) -> None:
    for seed in range(20):
        target, masks = drawn((16, 13), seed, 1)
        valid = np.ones((16, 13), bool)
        valid[:, 9:11] = False
        if label_components(masks[0])[1] != label_components(masks[0] & valid)[1]:
            continue  # cut in two, where the lists keep one
        got = count_choice(list_objects(target, masks, valid=valid), Choice((0,)), rule)
        assert got.scores() == pytest.approx(
            detect(target, masks[0], valid=valid, rule=rule).counts.scores(), nan_ok=True
        )


def test_only_objects_with_a_higher_peak_are_kept() -> None:
    mask, p = np.array([[1, 1, 0, 1]], bool), np.array([[0.6, 0.7, 0.0, 0.9]])
    lists = list_objects(np.array([[0, 0, 0, 1]]), [mask, mask], probabilities=[p, None])
    assert lists.peak.tolist() == [0.7, 0.9, np.inf, np.inf]
    assert [count_choice(lists, Choice((0,), peak=peak)).components for peak in (0.6, 0.7, 0.8, 0.9)] == [2, 1, 1, 0]
    assert count_choice(lists, Choice((1,), peak=0.9)).components == 2


def test_nothing_anywhere() -> None:
    empty = np.zeros((4, 4), bool)
    for target in (empty.astype(int), np.eye(4, dtype=int)):
        counts = count_choice(list_objects(target, [empty, empty]), Choice((0, 1), (1.0,)))
        assert (counts.components, counts.instances) == (0, int(target.any()))


def test_volumes_at_an_edge_go_up() -> None:
    mask = np.array([[1, 1, 1, 1, 0, 1, 1, 1]], bool)
    lists: ObjectLists = replace(list_objects(np.zeros((1, 8), int), [mask, ~mask]), voxel_ml=0.25)
    assert count_choice(lists, Choice((0, 1), (1.0,))).predicted_voxels == 3
    assert count_choice(lists, Choice((1, 0), (1.0,))).predicted_voxels == 1 + 4
