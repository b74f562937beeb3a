from __future__ import annotations

from dataclasses import asdict
from math import isnan, nan

import numpy as np
import pytest
from geometry import SHAPES, Box, paint, random_labels
from scipy import ndimage

from nnunet_instance_trainers.evaluation import Counts, Detection, detect

EMPTY = np.zeros((4, 5), np.int64)
RATIOS = ("sensitivity", "precision", "f1", "f1_iou", "dice", "volume_ratio")


def ratios(counts: Counts) -> dict[str, float]:
    return {name: getattr(counts, name) for name in RATIOS}


def random_pair(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Instances and a mask that finds some of them well, some badly, and invents others."""
    instances = random_labels(shape, 6, seed, batch=1)[0].numpy()
    others = random_labels(shape, 4, seed + 1000, batch=1)[0].numpy()
    return instances, (instances % 2 == 1) ^ (others > 0)


def counted(instances: np.ndarray, prediction: np.ndarray) -> Detection:
    """The same, object by object."""
    components, m = ndimage.label(prediction > 0, np.ones((3,) * prediction.ndim))
    targets = [instances == i for i in np.unique(instances[instances > 0])]
    parts = [components == j for j in range(1, m + 1)]
    found = np.array([(t & (prediction > 0)).any() for t in targets], bool)
    hits = np.array([(c & (instances > 0)).any() for c in parts], bool)
    counts = Counts(
        instances=len(targets),
        components=m,
        found=sum(found.tolist()),
        hits=sum(hits.tolist()),
        matched=sum((t & c).sum() / (t | c).sum() > 0.5 for t in targets for c in parts),
        target_voxels=np.count_nonzero(instances),
        predicted_voxels=np.count_nonzero(prediction),
        shared_voxels=np.count_nonzero((instances > 0) & (prediction > 0)),
    )
    return Detection(instances, components, found, hits, counts)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_plain_loops(shape: tuple[int, ...], seed: int) -> None:
    instances, prediction = random_pair(shape, seed)
    got, expected = detect(instances, prediction), counted(instances, prediction)
    assert asdict(got.counts) == asdict(expected.counts)
    np.testing.assert_array_equal(got.found, expected.found)
    for j, hit in enumerate(got.hits, start=1):  # whatever numbers the components have
        assert hit == (instances[got.components == j] > 0).any()
    np.testing.assert_array_equal(got.components > 0, prediction)


def test_the_random_images_hold_every_case() -> None:
    for shape in SHAPES:
        total = sum((detect(*random_pair(shape, seed)).counts for seed in range(5)), Counts())
        assert min(total.matched, total.missed, total.false, total.found - total.matched) > 0


def test_hand_numbers() -> None:
    """Found well, found badly, missed; and one false."""
    targets = [Box((0, 0), (2, 4)), Box((5, 0), (9, 4)), Box((12, 0), (13, 2))]  # 8, 16 and 2 voxels
    predicted = [Box((0, 0), (2, 3)), Box((8, 3), (10, 5)), Box((0, 9), (3, 10))]  # 6, 4 and 3 voxels; meets 6, 1 and 0
    result = detect(paint((16, 13), targets).numpy(), paint((16, 13), predicted).numpy())
    counts = result.counts
    assert result.found.tolist() == [True, True, False]
    assert sorted(result.hits.tolist()) == [False, True, True]
    assert counts == Counts(3, 3, found=2, hits=2, matched=1, target_voxels=26, predicted_voxels=13, shared_voxels=7)
    assert (counts.missed, counts.false) == (1, 1)
    assert counts.f1_iou == pytest.approx(2 * 1 / (3 + 3))  # 6/8 is above a half, 1/(16 + 4 - 1) is not
    assert counts.dice == pytest.approx(2 * 7 / (26 + 13))
    assert counts.volume_ratio == pytest.approx(13 / 26)


def test_ratios_of_counts_off_the_symmetric_case() -> None:
    counts = Counts(
        instances=8, components=5, found=2, hits=4, matched=1, target_voxels=100, predicted_voxels=50, shared_voxels=30
    )
    assert ratios(counts) == pytest.approx(
        {
            "sensitivity": 2 / 8,
            "precision": 4 / 5,
            "f1": 2 * (1 / 4) * (4 / 5) / (1 / 4 + 4 / 5),
            "f1_iou": 2 / 13,
            "dice": 60 / 150,
            "volume_ratio": 1 / 2,
        }
    )
    assert (counts.missed, counts.false) == (6, 1)


@pytest.mark.parametrize(
    "target, prediction, expected",
    [
        (0, 0, {"sensitivity": nan, "precision": nan, "f1": nan, "f1_iou": nan, "dice": nan, "volume_ratio": nan}),
        (0, 1, {"sensitivity": nan, "precision": 0, "f1": 0, "f1_iou": 0, "dice": 0, "volume_ratio": nan}),
        (1, 0, {"sensitivity": 0, "precision": nan, "f1": 0, "f1_iou": 0, "dice": 0, "volume_ratio": 0}),
        (1, 1, dict.fromkeys(RATIOS, 1)),
    ],
)
def test_empty_sides(target: int, prediction: int, expected: dict[str, float]) -> None:
    result = detect(EMPTY + target, EMPTY + prediction)
    assert (len(result.found), len(result.hits)) == (target, prediction)
    assert ratios(result.counts) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_permuted_ids_change_only_the_order(shape: tuple[int, ...]) -> None:
    instances, prediction = random_pair(shape, seed=1)
    assert sorted(np.unique(instances)) == [0, 1, 2, 3, 4, 5, 6]
    new = np.array([0, 4, 6, 1, 5, 2, 3])
    a, b = detect(instances, prediction), detect(new[instances], prediction)
    assert a.counts == b.counts
    np.testing.assert_array_equal(b.found[new[1:] - 1], a.found)
    assert not a.found.all() and a.found.any()


def test_any_numbering_is_made_compact() -> None:
    """Gaps cost nothing and -1, with which nnU-Net pads, is background."""
    names = np.array([-1, 5, 70, 4_000_000])
    instances = np.array([[0, 1, 1, 0, 2, 0, 3]])
    result = detect(names[instances], np.array([[0, 1, 0, 0, 0, 0, 1]]))
    np.testing.assert_array_equal(result.instances, instances)
    assert result.found.tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint32, np.int16])
def test_every_type_will_do(dtype: type) -> None:
    instances = np.array([[1, 1, 0, 0, 1]])
    assert detect(instances.astype(dtype), instances.astype(dtype)).counts == Counts(1, 2, 1, 2, 1, 3, 3, 3)


def test_counts_of_images_add_up_to_those_of_their_montage() -> None:
    """So the ratios of a sum are pooled, not averaged."""
    pairs = [random_pair((16, 13), seed) for seed in range(4)]
    gap = np.zeros((1, 13), np.int64)
    montage = np.concatenate([part for k, (i, _) in enumerate(pairs) for part in (np.where(i, i + 10 * k, 0), gap)])
    predicted = np.concatenate([part for _, p in pairs for part in (p, gap)])
    total = sum((detect(*pair).counts for pair in pairs), Counts())
    assert total == detect(montage, predicted).counts
    assert total.f1 != pytest.approx(np.mean([detect(*pair).counts.f1 for pair in pairs]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_are_one_to_one(shape: tuple[int, ...], seed: int) -> None:
    counts = detect(*random_pair(shape, seed)).counts
    assert 0 <= counts.matched <= min(counts.instances, counts.components)
    assert isnan(counts.f1_iou) or 0 <= counts.f1_iou <= 1


def test_exactly_half_is_no_match() -> None:
    """Else the halves of one component would match two instances."""
    counts = detect(np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])).counts
    assert (counts.instances, counts.components, counts.matched) == (2, 1, 0)
    assert detect(np.array([[1, 1, 1, 2]]), np.array([[1, 1, 1, 1]])).counts.matched == 1


# --- how the overlap rule can be gamed, and what shows it ------------------------------------------------


def test_one_component_over_everything_has_a_perfect_f1() -> None:
    dots = [Box((y, x), (y + 1, x + 1)) for y in range(1, 16, 4) for x in range(1, 13, 4)]
    counts = detect(paint((16, 13), dots).numpy(), np.ones((16, 13))).counts
    assert (counts.sensitivity, counts.precision, counts.f1) == (1, 1, 1)
    assert counts.f1_iou == 0
    assert counts.volume_ratio == 16 * 13 / len(dots) > 10


def test_crumbs_raise_f1_and_lower_what_is_one_to_one() -> None:
    """Two instances, one missed, and two false components; then the hit falls to pieces."""
    instances = paint((16, 13), [Box((0, 0), (9, 9)), Box((12, 11), (13, 12))]).numpy()
    false = paint((16, 13), [Box((15, 0), (16, 1)), Box((15, 3), (16, 4))]).numpy()
    crumbs = np.zeros((16, 13), int)
    crumbs[:9:2, :9:2] = 1
    honest, gamed = (detect(instances, false + hit).counts for hit in (instances == 1, crumbs))
    assert (honest.components, gamed.components, honest.missed, gamed.missed) == (3, 27, 1, 1)
    assert (honest.f1, gamed.f1) == pytest.approx(
        (2 * (1 / 2) * (1 / 3) / (5 / 6), 2 * (1 / 2) * (25 / 27) / (77 / 54))
    )
    assert gamed.f1 > honest.f1
    assert (honest.f1_iou, gamed.f1_iou) == (2 / 5, 0)
    assert gamed.volume_ratio < 0.4 < 1 <= honest.volume_ratio


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5\) and \(5, 4\)"):
        detect(EMPTY, EMPTY.T)
