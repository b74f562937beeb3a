from __future__ import annotations

from itertools import pairwise, product
from math import inf, prod
from pathlib import Path

import nibabel
import numpy as np
import pytest
from geometry import random_labels
from scipy import ndimage

from nnunet_instance_trainers.ensembling.functional import (
    combine_classes,
    ensemble_by_volume,
    find_components,
    hysteresis,
    in_range,
    keep_area_range,
    keep_volume_range,
    majority_vote,
    merge_members,
    nest_regions,
)

ISOTROPIC, ANISOTROPIC = (1.0, 1.0, 1.0), (5.0, 0.86, 0.86)


def bars(*lengths: int, axes: int = 3) -> np.ndarray:
    """(*S) bool, a bar of each length, in rows that do not touch."""
    image = np.zeros((2 * len(lengths), max(lengths) + 1), dtype=bool)
    for row, length in enumerate(lengths):
        image[2 * row, :length] = True
    return image[:, None] if axes == 3 else image


def lengths_of(image: np.ndarray) -> list[int]:
    ids, n = ndimage.label(image, np.ones((3,) * image.ndim))
    return sorted(np.bincount(ids.ravel())[1:].tolist()) if n else []


# --- volumes and ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [ISOTROPIC, ANISOTROPIC])
def test_volumes_are_voxels_times_spacing(spacing: tuple[float, ...]) -> None:
    found = find_components(bars(3, 7, 20), spacing)
    voxel_ml = 0.001 if spacing == ISOTROPIC else 0.003698  # 0.86 x 0.86 x 5 = 3.698 mm^3
    assert found.volume_ml == pytest.approx([3 * voxel_ml, 7 * voxel_ml, 20 * voxel_ml], rel=1e-12)
    assert [int((found.ids == i).sum()) for i in (1, 2, 3)] == [3, 7, 20]


def test_labels_do_not_run_together() -> None:
    assert find_components(np.array([[1, 1, 2, 2, 2, 0, 2]]), (1, 1)).volume_ml.tolist() == [0.002, 0.003, 0.001]


@pytest.mark.parametrize(
    "spacing, edge_ml",
    [(ISOTROPIC, 0.05), (ANISOTROPIC, 50 * 0.003698), (tuple(np.float32(ANISOTROPIC)), 0.1849)],
    ids=["isotropic", "anisotropic", "spacing as headers have it"],
)
def test_an_object_at_the_edge_belongs_to_the_larger(spacing: tuple[float, ...], edge_ml: float) -> None:
    image = bars(49, 50, 51)
    assert lengths_of(keep_volume_range(image, 0, edge_ml, spacing)) == [49]
    assert lengths_of(keep_volume_range(image, edge_ml, inf, spacing)) == [50, 51]


def test_every_voxel_count_is_on_the_right_side_of_its_own_edge() -> None:
    """Whatever the rounding of spacing and edge."""
    for spacing in (0.86, 0.1, 1 / 3, 0.9765625, 2.2):
        single = float(np.float32(spacing)) ** 2 * 5 / 1000
        n = np.arange(1, 2000)
        for k in (1, 3, 10, 50, 333, 1024, 1999):
            edge_ml = float(f"{k * spacing**2 * 5 / 1000:.12g}")
            assert (in_range(n * single, edge_ml, inf) == (n >= k)).all()
            assert (in_range(n * single, 0, edge_ml) == (n < k)).all()


def test_areas_in_2d() -> None:
    image = bars(9, 10, 11, axes=2)  # pixels of 0.5 x 0.8 mm: 3.6, 4.0, 4.4 mm^2
    assert lengths_of(keep_area_range(image, 0, 4.0, (0.5, 0.8))) == [9]
    assert lengths_of(keep_area_range(image, 4.0, 4.4, (0.5, 0.8))) == [10]
    assert lengths_of(keep_area_range(image, 4.0, inf, (0.5, 0.8))) == [10, 11]
    assert (keep_volume_range(image, 0.004, inf, (0.5, 0.8)) == keep_area_range(image, 4, inf, (0.5, 0.8))).all()


def test_connectivity_says_which_voxels_are_one_object() -> None:
    steps = np.zeros((3, 5, 5), bool)
    steps[0, 0, :2], steps[0, 1, 2], steps[1, 2, 3] = True, True, True  # joined by an edge, then by a corner
    voxels = [1000 * find_components(steps, (1, 1, 1), connectivity=c).volume_ml for c in (6, 18, 26)]
    assert [own.tolist() for own in voxels] == [[2, 1, 1], [3, 1], [4]]
    small, empty = (0, 0.0025), np.zeros_like(steps)
    for connectivity, left in ((6, 4), (18, 1), (26, 0)):
        assert keep_volume_range(steps, *small, (1, 1, 1), connectivity=connectivity).sum() == left
        members = [(steps, small), (empty, (0.0025, inf))]
        merged, by_member = ensemble_by_volume(members, (1, 1, 1), connectivity=connectivity)
        assert merged.sum() == left and by_member[1].kept[1] == 0
        strong = np.where(steps, 0.4, 0.0)
        strong[0, 0, 0] = 0.9
        assert hysteresis(strong, 0.3, 0.8, connectivity=connectivity).sum() == {6: 2, 18: 3, 26: 4}[connectivity]
    assert keep_area_range(steps[0], 0, 2.5, (1, 1), connectivity=6).sum() == 3
    assert keep_area_range(steps[0], 0, 2.5, (1, 1), connectivity=18).sum() == 0  # 8 neighbours in 2D


def test_what_is_kept_keeps_its_labels_and_type() -> None:
    image = np.array([[3, 3, 0, 3, 0, 2, 2]], dtype=np.uint8)
    kept = keep_volume_range(image, 0.002, inf, (1, 1))
    assert kept.tolist() == [[3, 3, 0, 0, 0, 2, 2]] and kept.dtype == np.uint8
    assert keep_volume_range(image > 0, 0.002, inf, (1, 1)).dtype == bool


@pytest.mark.parametrize("low, high", [(1, 1), (2, 1), (-1, 1)])
def test_a_range_goes_upwards(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="a range goes from 0 or more upwards"):
        in_range(np.ones(1), low, high)
    with pytest.raises(ValueError, match="a range goes from 0 or more upwards"):
        ensemble_by_volume([(bars(1), (low, high))], ISOTROPIC)


def test_spacing_and_axes_must_fit() -> None:
    with pytest.raises(ValueError, match="expected a spacing for each axis"):
        find_components(bars(1), (1, 1))
    with pytest.raises(ValueError, match="only an image of two axes has areas"):
        keep_area_range(bars(1), 0, 1, ISOTROPIC)


# --- members -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [ISOTROPIC, ANISOTROPIC])
def test_each_member_gives_the_sizes_in_its_range(spacing: tuple[float, ...]) -> None:
    edge = 10 * prod(spacing) / 1000
    small, large = np.zeros((2, 9, 1, 30), dtype=bool)
    for row, length in enumerate((9, 10, 11, 2)):
        small[2 * row, 0, :length] = True
    for row, length in enumerate((10, 11, 9)):
        large[2 * row, 0, 12 : 12 + length] = True
    merged, by_member = ensemble_by_volume([(small, (0, edge)), (large, (edge, inf))], spacing)
    assert lengths_of(merged & small) == [2, 9] and lengths_of(merged & large) == [10, 11]
    assert merged.dtype == bool and merged.sum() == 2 + 9 + 10 + 11
    assert (by_member[1].found, by_member[1].kept) == ((4, 3), (2, 2))
    assert (by_member[1].rescued, by_member[1].straddling, by_member[1].lost) == ((0, 0), 0, 0)


def test_three_members_in_any_order() -> None:
    image = bars(2, 5, 8, 11)
    ranges = [(0.008, inf), (0, 0.003), (0.003, 0.008)]
    merged, by_member = ensemble_by_volume([(image, r) for r in ranges], ISOTROPIC)
    assert (merged == image).all() and by_member[1].kept == (2, 1, 1)


def test_objects_of_two_members_that_touch_are_one_in_the_result() -> None:
    a, b = row(6, (0, 3)), row(6, (3, 5))
    merged, by_member = ensemble_by_volume([(a, (0.003, inf)), (b, (0, 0.003))], (1, 1))
    assert (merged == row(6, (0, 5))).all() and by_member[1].kept == (1, 1)


def test_of_two_classes_at_one_voxel_the_earlier_member_wins() -> None:
    a, b = np.array([[1, 1, 0, 0, 0]]), np.array([[0, 2, 2, 2, 0]])
    ranges = (0, 0.003), (0.003, inf)
    assert ensemble_by_volume([(a, ranges[0]), (b, ranges[1])], (1, 1))[0].tolist() == [[1, 1, 2, 2, 0]]
    assert ensemble_by_volume([(b, ranges[1]), (a, ranges[0])], (1, 1))[0].tolist() == [[1, 2, 2, 2, 0]]


def test_the_earliest_of_several_that_claim_a_class_counts() -> None:
    """The first and the third have class 1 there, the second class 2."""
    ranges = (0, 0.002), (0.002, 0.003), (0.003, inf)
    images = np.array([[1, 0, 0]]), np.array([[2, 2, 0]]), np.array([[1, 1, 1]])
    assert ensemble_by_volume(list(zip(images, ranges)), (1, 1))[0].tolist() == [[1, 2, 1]]
    assert merge_members([image == 1 for image in images], ranges, (1, 1)).claims.tolist() == [[1, 3, 3]]


def test_of_two_classes_of_one_member_the_first_wins() -> None:
    claims = {2: np.array([1, 1, 0], np.uint8), 1: np.array([0, 1, 1], np.uint8)}
    assert combine_classes(claims, (3,)).tolist() == [2, 2, 1]
    assert combine_classes({}, (2,)).tolist() == [0, 0]


def test_classes_are_merged_each_for_itself() -> None:
    """A class neither lends its size to the other nor rescues it."""
    a, b = np.array([[1, 1, 2, 2, 2, 0, 1]]), np.array([[1, 1, 1, 0, 2, 2, 0]])
    merged, by_member = ensemble_by_volume([(a, (0, 0.003)), (b, (0.003, inf))], (1, 1))
    assert merged.tolist() == [[1, 1, 1, 0, 0, 0, 1]]
    assert (by_member[1].found, by_member[1].kept, by_member[1].lost) == ((2, 1), (2, 1), 0)
    assert (by_member[2].found, by_member[2].kept, by_member[2].lost) == ((1, 1), (0, 0), 1)


def test_one_member_with_all_sizes_is_itself() -> None:
    image = random_labels((9, 8, 7), 6, 0)[0].numpy()
    assert (ensemble_by_volume([(image, (0, inf))], ISOTROPIC)[0] == image).all()


@pytest.mark.parametrize("labels", [1, 3])
def test_cut_at_any_edges_and_merged_again_is_the_same(labels: int) -> None:
    random = np.random.default_rng(3)
    for seed in range(20):
        image = random_labels((9, 8, 7), 12, seed, batch=1)[0].numpy() % (labels + 1)
        edges = [0, *sorted(random.choice(np.arange(1, 60) / 1000, 3, replace=False)), inf]
        parts = [(keep_volume_range(image, *pair, ISOTROPIC), pair) for pair in pairwise(edges)]
        for members in (parts, [(image, pair) for pair in pairwise(edges)]):
            for rescue in (False, True):
                merged, by_member = ensemble_by_volume(members, ISOTROPIC, rescue=rescue)
                assert (merged == image).all()
                assert all(s.lost == s.straddling == sum(s.rescued) == 0 for s in by_member.values())


RealMasks = list[tuple[np.ndarray, tuple[float, ...]]]


@pytest.fixture(scope="module")
def real_masks(shared_data: Path) -> RealMasks:
    """The boxes of ten lesion masks, and their spacing."""
    read = []
    for file in sorted((shared_data / "masks_ms").glob("*.nii.gz"))[:10]:
        image = nibabel.load(file)
        mask = np.asarray(image.dataobj) > 0
        box = ndimage.find_objects(mask.view(np.uint8))[0]
        read.append((mask[box].copy(), tuple(map(float, image.header.get_zooms()))))
    return read


@pytest.mark.parametrize("edges_ml, n, objects", [((0.05,), 10, 1144), ((0.002, 0.0105, 0.2, 1.0), 3, 299)])
def test_real_masks_cut_and_merged_again_are_the_same(
    real_masks: RealMasks, edges_ml: tuple[float, ...], n: int, objects: int
) -> None:
    total = 0
    for mask, spacing in real_masks[:n]:
        parts = [(keep_volume_range(mask, *pair, spacing), pair) for pair in pairwise((0, *edges_ml, inf))]
        if len(edges_ml) == 1:  # the one lost its lesions below the edge, the other those above
            assert (parts[0][0] ^ parts[1][0] == mask).all() and parts[0][0].any() and parts[1][0].any()
        merged, by_member = ensemble_by_volume(parts, spacing)
        assert (merged == mask).all()
        total += sum(by_member[1].kept)
    assert (len(real_masks), total) == (10, objects)


def test_members_must_have_one_shape_and_no_common_sizes() -> None:
    with pytest.raises(ValueError, match="segmentations must have one shape"):
        ensemble_by_volume([(bars(1), (0, 1)), (bars(2), (1, inf))], ISOTROPIC)
    with pytest.raises(ValueError, match="ranges must not overlap"):
        ensemble_by_volume([(bars(1), (0, 1)), (bars(1), (0.5, inf))], ISOTROPIC)
    with pytest.raises(ValueError, match="got none"):
        ensemble_by_volume([], ISOTROPIC)


# --- what straddles an edge --------------------------------------------------------------------------------


def row(length: int, *objects: tuple[int, int]) -> np.ndarray:
    image = np.zeros((1, length), dtype=bool)
    for start, stop in objects:
        image[0, start:stop] = True
    return image


SMALL, ALL_ELSE = (0, 0.005), (0.005, inf)


@pytest.mark.parametrize(
    "small, large, from_small",
    [
        ((0, 6), (1, 5), True),  # 6 / 5 and 5 / 4 voxels: 1.2 is nearer than 1.25
        ((0, 7), (1, 5), False),  # 1.4
        ((0, 5), (1, 5), True),  # at the edge
        ((0, 6), (0, 2), True),
    ],
)
def test_what_straddles_is_lost_or_rescued_from_the_nearer(
    small: tuple[int, int], large: tuple[int, int], from_small: bool
) -> None:
    members = [(row(10, small), SMALL), (row(10, large), ALL_ELSE)]
    merged, by_member = ensemble_by_volume(members, (1, 1))
    assert not merged.any() and (by_member[1].straddling, by_member[1].lost, by_member[1].rescued) == (1, 1, (0, 0))
    merged, by_member = ensemble_by_volume(members, (1, 1), rescue=True)
    assert (merged == members[not from_small][0]).all()
    assert (by_member[1].straddling, by_member[1].lost) == (1, 0)
    assert by_member[1].rescued == ((1, 0) if from_small else (0, 1))


def test_of_equally_near_ones_the_earlier_member_gives_it() -> None:
    ranges = (0, 0.004), (0.004, inf)  # 8 and 2 voxels are a factor of two away
    a, b = row(9, (0, 8)), row(9, (2, 4))
    assert (ensemble_by_volume([(a, ranges[0]), (b, ranges[1])], (1, 1), rescue=True)[0] == a).all()
    assert (ensemble_by_volume([(b, ranges[1]), (a, ranges[0])], (1, 1), rescue=True)[0] == b).all()


def test_what_only_one_member_finds_does_not_straddle() -> None:
    members = [(row(10, (0, 6)), SMALL), (row(10, (7, 9)), ALL_ELSE)]
    merged, by_member = ensemble_by_volume(members, (1, 1), rescue=True)
    assert not merged.any() and by_member[1].straddling == 0


def test_what_meets_something_kept_is_not_lost() -> None:
    small = row(20, (0, 9))  # one wide object over a kept one and a small one
    members = [(small, SMALL), (row(20, (0, 5), (6, 9)), ALL_ELSE)]
    merged, by_member = ensemble_by_volume(members, (1, 1))
    assert (merged == row(20, (0, 5))).all()
    assert by_member[1].lost == 1  # the second of the larger member; the wide one meets what is kept
    assert (ensemble_by_volume(members, (1, 1), rescue=True)[0] == row(20, (0, 5), (6, 9))).all()


def test_one_object_that_is_several_to_the_other_counts_as_several() -> None:
    members = [(row(20, (0, 11)), SMALL), (row(20, (0, 3), (4, 7), (8, 11)), ALL_ELSE)]
    assert ensemble_by_volume(members, (1, 1))[1][1].lost == 3
    merged, by_member = ensemble_by_volume(members, (1, 1), rescue=True)
    assert by_member[1].rescued == (0, 3)  # 5 / 3 is nearer than 11 / 5
    assert (merged == members[1][0]).all()


def test_a_gap_is_no_edge() -> None:
    """What both see within the gap was left out on purpose; what they see on both sides of it is lost."""
    ranges = (0, 0.004), (0.008, inf)
    both = row(20, (0, 6))
    assert ensemble_by_volume([(both, ranges[0]), (both, ranges[1])], (1, 1), rescue=True)[1][1].straddling == 0
    members = [(row(20, (0, 9)), ranges[0]), (row(20, (0, 3)), ranges[1])]
    assert ensemble_by_volume(members, (1, 1))[1][1].lost == 1


def test_a_third_member_that_misses_an_object_decides() -> None:
    """Two find it in the third's range, which does not: nothing straddles."""
    ranges = (0, 0.003), (0.003, 0.006), (0.006, inf)
    images = row(20, (0, 8)), row(20, (0, 7)), row(20, (10, 18))
    merged, by_member = ensemble_by_volume(list(zip(images, ranges)), (1, 1), rescue=True)
    assert (merged == images[2]).all() and by_member[1].straddling == 0


def test_with_rescue_whatever_straddles_is_met() -> None:
    """Random members; and the number agrees with a loop over components."""
    seen = 0
    ranges = (0, 0.006), (0.006, 0.02), (0.02, inf)
    for seed in range(60):
        images = [(image > 0).numpy() for image in random_labels((9, 8, 7), 5, seed, batch=3)]
        plain = merge_members(images, ranges, ISOTROPIC)
        kept = plain.claims > 0
        rescued = merge_members(images, ranges, ISOTROPIC, rescue=True)
        assert (rescued.claims[kept] > 0).all() and rescued.by_member.lost == 0
        assert rescued.by_member.straddling == plain.by_member.straddling == plain.by_member.lost
        lost = straddling_in_a_loop(images, ranges, kept)
        assert bool(lost) == bool(plain.by_member.lost) == bool(sum(rescued.by_member.rescued))
        assert all((rescued.claims[component] > 0).any() for component in lost)
        back = (rescued.claims > 0) & ~kept
        ids, n = ndimage.label(back, np.ones((3, 3, 3)))
        assert all(any((component & (ids == i)).any() for component in lost) for i in range(1, n + 1))
        seen += len(lost)
    assert seen > 20


def straddling_in_a_loop(images: list[np.ndarray], ranges: tuple, kept: np.ndarray) -> list[np.ndarray]:
    lost = []
    for image, other in product(range(3), repeat=2):
        ids, n = ndimage.label(images[image], np.ones((3, 3, 3)))
        for component in (ids == i for i in range(1, n + 1)):
            volume = component.sum() / 1000
            low, high = ranges[other]
            if (
                image != other
                and low <= volume < high
                and (component & images[other]).any()
                and not (component & kept).any()
            ):
                lost.append(component)
    return lost


def test_real_masks_with_a_fatter_member(real_masks: RealMasks) -> None:
    """Every object that straddles is counted, and comes back with rescue."""
    objects = lost = 0
    for mask, _ in real_masks[:10]:
        mask = np.pad(mask, 1)
        members = [ndimage.binary_dilation(mask), mask]
        ids, n = ndimage.label(mask, np.ones((3, 3, 3)))
        plain = merge_members(members, [(0, 0.05), (0.05, inf)], ISOTROPIC)
        assert n - len(np.unique(ids[(plain.claims > 0) & mask])) == plain.by_member.lost
        rescued = merge_members(members, [(0, 0.05), (0.05, inf)], ISOTROPIC, rescue=True)
        assert len(np.unique(ids[(rescued.claims > 0) & mask])) == n
        objects, lost = objects + n, lost + plain.by_member.lost
    assert (objects, lost) == (1144, 596)


# --- votes, hysteresis, regions ----------------------------------------------------------------------------


def test_three_of_five() -> None:
    folds = [np.arange(6) >= 5 - k for k in range(5)]  # voxel v is set in min(v, 5) folds
    assert majority_vote(folds).tolist() == [False, False, False, True, True, True]
    assert majority_vote(folds, 3).tolist() == majority_vote(folds).tolist()
    assert (majority_vote(folds, 1) == np.logical_or.reduce(folds)).all()
    assert (majority_vote(folds, 5) == np.logical_and.reduce(folds)).all()
    assert majority_vote(folds[:4]).tolist() == [False, False, False, False, True, True]  # more than half of four is 3
    assert majority_vote(folds).dtype == bool


def test_a_vote_over_labels() -> None:
    folds = [np.array(fold) for fold in ([1, 1, 2, 0], [2, 1, 2, 1], [0, 2, 2, 0], [2, 2, 1, 3])]
    assert majority_vote(folds, 3).tolist() == [0, 0, 2, 0]
    assert majority_vote(folds, 2).tolist() == [2, 1, 2, 0]  # two for 1 and two for 2: the lower
    assert majority_vote(folds, 1).tolist() == [2, 1, 2, 1]
    assert (majority_vote(folds[:1]) == folds[0]).all()


@pytest.mark.parametrize("votes", [0, 3])
def test_impossible_votes(votes: int) -> None:
    with pytest.raises(ValueError, match=f"{votes} votes of 2 segmentations are impossible"):
        majority_vote([np.zeros(2), np.zeros(2)], votes)


def test_hysteresis_keeps_components_with_a_high_peak() -> None:
    p = np.array([[0.3, 0.7, 0.3, 0.1, 0.6, 0.5, 0.0, 0.61]])
    assert hysteresis(p, 0.2, 0.6).astype(int).tolist() == [[1, 1, 1, 0, 0, 0, 0, 1]]
    assert hysteresis(p, 0.3, 0.6).astype(int).tolist() == [[0, 1, 0, 0, 0, 0, 0, 1]]
    assert (hysteresis(p, 0.5, 0.5) == (p > 0.5)).all()
    assert not hysteresis(np.zeros((3, 3)), 0.2, 0.6).any()


def test_inner_regions_are_painted_over_outer_ones() -> None:
    whole, core = np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 0, 1, 0], bool)
    image = nest_regions([whole, core], [1, 2])
    assert image.tolist() == [1, 2, 1, 2, 0]
    assert (np.isin(image, [1, 2]) == (whole | core)).all() and ((image == 2) == core).all()
