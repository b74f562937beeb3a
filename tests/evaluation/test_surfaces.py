from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest
from scipy import ndimage

from nnunet_instance_trainers.evaluation.surfaces import (
    _areas,
    area_distances,
    area_elements,
    assd,
    border_voxels,
    distances,
    hd95_area,
    hd95_max,
    hd95_pooled,
    nsd,
    nsd_mean,
    surface_scores,
)

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("axes", "corners"), [(None, False), (None, True), ((1, 2), True), ((1, 2), False)])
def test_border_is_the_mask_without_its_erosion(axes: tuple[int, ...] | None, corners: bool) -> None:
    mask = ndimage.binary_dilation(RANDOM.random((9, 11, 10)) < 0.03, np.ones((3, 3, 3)))
    structure = ndimage.generate_binary_structure(3, 3 if corners else 1)
    if axes:
        structure[[0, 2]] = False
    expected = np.argwhere(mask & ~ndimage.binary_erosion(mask, structure))
    assert border_voxels(mask, axes=axes, corners=corners).tolist() == expected.tolist()


def test_areas_equal_those_of_the_code_that_organisers_use() -> None:
    monai = pytest.importorskip("monai.metrics.utils", reason="MONAI is the yardstick here and is not installed")
    expected = monai.create_table_neighbour_code_to_surface_area([0.9, 1.1, 3.0])[0]
    assert _areas((0.9, 1.1, 3.0)) == pytest.approx(np.asarray(expected), abs=1e-5)


def test_area_of_a_long_box_tends_to_that_of_its_faces() -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[1:11, 1:11, 1:11] = True
    areas = area_elements(mask, (1.0, 1.0, 2.0))[1].sum()
    faces = 2 * 100 + 4 * 200
    assert 0.9 * faces < areas < faces  # marching cubes cut edges and corners off


def test_definitions_of_hd95_differ() -> None:
    there, back = np.array([0.0] * 19 + [10.0]), np.zeros(180)
    assert hd95_max(there, back) == pytest.approx(np.percentile(there, 95)) and hd95_max(there, back) > 0
    assert hd95_pooled(there, back) == 0
    places = np.arange(20.0)[:, None]
    weights = np.where(np.arange(20) == 19, 40.0, 1.0)  # the far place has most of the area
    assert hd95_area(*area_distances([(places, weights), (places[:10], np.ones(10))])) == 10


def test_nsd_pools_voxels_or_averages_directions() -> None:
    there, back = np.array([0.0, 3.0, 3.0]), np.array([0.0])
    assert nsd(there, back, 1) == 0.5
    assert nsd_mean(there, back, 1) == pytest.approx((1 / 3 + 1) / 2)
    assert assd(there, back) == 1.5


def test_a_distance_of_the_tolerance_is_within_it_whatever_rounding() -> None:
    assert 3 * 0.9 - 2 * 0.9 > 0.9
    there, back = distances(np.array([[3 * 0.9]]), np.array([[2 * 0.9]]))
    assert nsd(there, back, 0.9) == 1


def test_empty_masks() -> None:
    full, empty = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    one = surface_scores(full, empty, (1.0, 1.0, 1.0), 1.0)
    assert one == {"hd95_max_mm": inf, "hd95_pooled_mm": inf, "nsd_at_1_mm": 0.0, "assd_mm": inf}
    assert all(isnan(value) for value in surface_scores(empty, empty, (1.0, 1.0, 1.0), 1.0).values())


def test_distances_are_in_mm() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[1, 2, 2] = True
    scores = surface_scores(mask, np.roll(mask, 2, axis=0), (3.0, 1.0, 1.0), 5.9)
    assert scores == {"hd95_max_mm": 6, "hd95_pooled_mm": 6, "nsd_at_5.9_mm": 0, "assd_mm": 6}
