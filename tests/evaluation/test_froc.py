from __future__ import annotations

from math import nan

import numpy as np
import pytest
from geometry import SHAPES, Box, paint, random_labels, random_probabilities
from scipy import ndimage

from nnunet_instance_trainers.evaluation.froc import RATES, Candidates, find_candidates, froc, froc_curve

# --- candidates of an image --------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, 0.6])
@pytest.mark.parametrize("shape", SHAPES)
def test_candidates_equal_plain_loops(shape: tuple[int, ...], threshold: float) -> None:
    instances = random_labels(shape, 6, seed=1, batch=1)[0].numpy()
    p = random_probabilities(shape, seed=1).numpy()
    boxes = random_labels(shape, 6, seed=5, batch=1)[0].numpy()
    p[(boxes == 0) & (instances % 3 != 1)] = 0
    parts, m = ndimage.label(p >= threshold, np.ones((3,) * len(shape)))
    masks = [parts == j for j in range(1, m + 1)]
    found = [
        max((p[c].max() for c in masks if (c & (instances == i)).any()), default=0)
        for i in np.unique(instances[instances > 0])
    ]
    false = [p[c].max() for c in masks if not (c & (instances > 0)).any()]
    got = find_candidates(instances, p, threshold=threshold)
    assert got.found == pytest.approx(found)
    assert sorted(got.false) == pytest.approx(sorted(false))
    assert 0 in found and max(found) > 0 and len(false) > 0


def test_a_peak_outside_an_instance_counts_for_it() -> None:
    """The candidate meets the instance; where its peak lies does not matter."""
    got = find_candidates(np.array([[1, 1, 0, 0]]), np.array([[0.0, 0.3, 0.8, 0.0]]))
    assert (got.found.tolist(), got.false.tolist()) == ([0.8], [])


def test_the_threshold_is_in_and_keeps_candidates_apart() -> None:
    instances, p = np.array([[1, 0, 0, 0, 2]]), np.array([[0.9, 0.2, 0.2, 0.2, 0.6]])
    assert find_candidates(instances, p, threshold=0.2).found.tolist() == [0.9, 0.9]
    assert find_candidates(instances, p, threshold=0.3).found.tolist() == [0.9, 0.6]
    assert find_candidates(instances, p, threshold=0.6).found.tolist() == [0.9, 0.6]
    assert find_candidates(instances, p, threshold=0.7).found.tolist() == [0.9, 0]


def test_ignored_voxels_make_no_candidates() -> None:
    instances = paint((16, 13), [Box((0, 0), (3, 3))]).numpy()
    p = np.where(paint((16, 13), [Box((2, 2), (4, 4)), Box((8, 8), (9, 9)), Box((12, 2), (13, 3))]).numpy() > 0, 0.5, 0)
    p[8, 8] = 0.7
    valid = np.ones((16, 13), bool)
    valid[8, 8] = False
    assert sorted(find_candidates(instances, p).false) == [0.5, 0.7]
    got = find_candidates(instances, p, valid=valid)
    assert (got.found.tolist(), got.false.tolist()) == ([0.5], [0.5])


def test_nothing_gives_nothing() -> None:
    got = find_candidates(np.zeros((4, 5), int), np.zeros((4, 5)))
    assert (got.found.tolist(), got.false.tolist()) == ([], [])


# --- curve and intervals -----------------------------------------------------------------------------------


def image(found: list[float], false: list[float]) -> Candidates:
    return Candidates(np.array(found, float), np.array(false, float))


IMAGES = [image([0.9, 0.6, 0], [0.8, 0.3]), image([], [0.6]), image([0.4], []), image([], [])]


def plain_sensitivity(images: list[Candidates], rate: float) -> float:
    """The highest sensitivity over all thresholds with no more than ``rate`` false candidates per image."""
    found = [score for each in images for score in each.found]
    false = [score for each in images for score in each.false]
    if not found:
        return nan
    thresholds = [t for t in {*found, *false} if t > 0 and sum(s >= t for s in false) / len(images) <= rate]
    return max((sum(s >= t for s in found) / len(found) for t in thresholds), default=0)


def random_images(seed: int, n: int = 7) -> list[Candidates]:
    """Scores with ties, images without instances, and without candidates."""
    random = np.random.default_rng(seed)
    return [
        image(random.integers(0, 11, random.integers(0, 5)) / 10, random.integers(1, 11, random.integers(0, 9)) / 10)
        for _ in range(n)
    ]


def test_hand_numbers() -> None:
    """Four images, four instances; one instance that no candidate meets, two images without instances."""
    curve = froc_curve(IMAGES)
    assert curve.threshold.tolist() == [0.9, 0.8, 0.6, 0.4, 0.3]
    assert curve.sensitivity.tolist() == [1 / 4, 1 / 4, 2 / 4, 3 / 4, 3 / 4]
    assert curve.false_positives_per_image.tolist() == [0, 1 / 4, 2 / 4, 2 / 4, 3 / 4]
    result = froc(IMAGES)
    assert result.sensitivity == (1 / 4, 1 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4)
    assert result.average == pytest.approx((2 * 1 / 4 + 5 * 3 / 4) / 7)


@pytest.mark.parametrize("seed", range(6))
def test_equals_trying_every_threshold(seed: int) -> None:
    images = random_images(seed)
    assert froc(images).sensitivity == pytest.approx([plain_sensitivity(images, rate) for rate in RATES])
    curve = froc_curve(images)
    for t, false, share in zip(curve.threshold, curve.false_positives_per_image, curve.sensitivity):
        assert false == pytest.approx(sum((each.false >= t).sum() for each in images) / len(images))
        found = [(each.found >= t).sum() for each in images]
        assert share == pytest.approx(sum(found) / sum(len(each.found) for each in images))


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_images_drawn_with_replacement(seed: int) -> None:
    """False positives are divided by the images of the sample, empty ones among them."""
    images = random_images(seed)
    result = froc(images, samples=200, level=0.8, seed=seed)
    draws = np.random.default_rng(seed).multinomial(7, [1 / 7] * 7, size=200)
    drawn = [[each for each, times in zip(images, row) for _ in range(times)] for row in draws]
    values = np.array([[plain_sensitivity(sample, rate) for rate in RATES] for sample in drawn])
    values = values[~np.isnan(values).any(1)]
    assert result.sensitivity_intervals == pytest.approx(np.quantile(values, (0.1, 0.9), axis=0).T)
    assert result.average_interval == pytest.approx(np.quantile(values.mean(1), (0.1, 0.9)))
    assert result.average_interval[0] < result.average < result.average_interval[1]


def test_images_with_nothing_in_them_stay_in_the_denominator() -> None:
    """Twice as many images halve the false positives per image, so the same sensitivity is reached at half the rate."""
    images = random_images(1)
    wider = images + [image([], [])] * len(images)
    alone, diluted = froc_curve(images), froc_curve(wider)
    assert diluted.false_positives_per_image == pytest.approx(alone.false_positives_per_image / 2)
    assert froc(wider, rates=[0.5]).sensitivity == froc(images, rates=[1]).sensitivity


def test_samples_without_instances_are_left_out() -> None:
    images = [image([0.5], []), *[image([], [0.5])] * 4]
    result = froc(images, samples=50)
    assert not np.isnan(result.average_interval).any()


def test_fewer_than_five_images_have_no_interval() -> None:
    images = [image([0.5], [])] * 4
    assert froc(images).average > 0 and np.isnan(froc(images).average_interval).all()
    assert not np.isnan(froc(images * 2).average_interval).any()


def test_limits() -> None:
    perfect = froc([image([0.9, 0.2], []), *[image([0.1], [])] * 4])
    assert (perfect.average, perfect.average_interval) == (1, (1, 1))
    silent = froc([image([0, 0], [])])
    assert (silent.average, len(silent.curve.threshold)) == (0, 0)
    nothing = froc([image([], [0.4]), image([], [])])
    assert np.isnan([nothing.average, *nothing.average_interval, *nothing.sensitivity]).all()
    assert nothing.curve.false_positives_per_image.tolist() == [0.5]


def test_a_seed_gives_the_same_interval_again() -> None:
    images = random_images(2)
    one, again, other = (froc(images, seed=seed).average_interval for seed in (1, 1, 2))
    assert one == again != other
