"""Measures of objects against scikit-image, plain loops and geometry."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from geometry import SHAPES, Box, Disc, paint, random_labels
from skimage.measure import regionprops

from nnunet_instance_trainers.instances import label_components, renumber
from nnunet_instance_trainers.objects import measures as module
from nnunet_instance_trainers.objects.measures import measure

SPACINGS = {2: (0.5, 1.75), 3: (3.0, 0.72, 0.9)}


def an_image(shape: tuple[int, ...], seed: int = 1) -> tuple[np.ndarray, int]:
    """Ids whose objects may touch and be in pieces."""
    return renumber(random_labels(shape, 6, seed, batch=1)[0].numpy())


def all_corners(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Of every voxel."""
    offsets = np.array(list(product((0, 1), repeat=mask.ndim)))
    return (np.argwhere(mask)[:, None] + offsets).reshape(-1, mask.ndim) * np.array(spacing)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_size_centre_and_box_are_those_of_scikit_image(shape: tuple[int, ...]) -> None:
    ids, n = an_image(shape)
    values = np.random.default_rng(0).random(shape)
    got = measure(ids, n, SPACINGS[len(shape)], values)
    properties = regionprops(ids, values)
    assert n == len(properties) > 3
    for k, own in enumerate(properties):
        assert got.voxels[k] == own.area
        assert got.centre[k] == pytest.approx(own.centroid)
        assert (*got.first[k], *(got.last[k] + 1)) == own.bbox
        assert got.mean[k] == pytest.approx(own.intensity_mean) and got.peak[k] == own.intensity_max


@pytest.mark.parametrize("few", [0, 200], ids=["by the hull", "by all points"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_largest_diameter_is_between_any_two_corners(
    shape: tuple[int, ...], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FEW", few)
    ids, n = an_image(shape)
    spacing = SPACINGS[len(shape)]
    for k, got in enumerate(measure(ids, n, spacing).largest_diameter_mm, start=1):
        corners = all_corners(ids == k, spacing)
        assert got == pytest.approx(distances(corners, corners).max())


def test_a_voxel_and_a_rod_have_the_diagonals_of_their_bodies() -> None:
    ids = paint((7, 9, 9), [Box((0, 0, 0), (1, 1, 1)), Box((2, 3, 2), (6, 4, 4))]).numpy()
    got = measure(ids, 2, (2.0, 1.0, 0.5))
    assert got.largest_diameter_mm == pytest.approx([5.25**0.5, (8**2 + 1 + 1) ** 0.5])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_nearest_other_object_is_the_one_a_loop_over_all_corners_finds(shape: tuple[int, ...]) -> None:
    spacing = SPACINGS[len(shape)]
    for seed in range(4):
        ids, n = an_image(shape, seed)
        got = measure(ids, n, spacing)
        corners = [all_corners(ids == k, spacing) for k in range(1, n + 1)]
        for k in range(n):
            to = [np.inf if other == k else distances(corners[k], corners[other]).min() for other in range(n)]
            assert got.nearest_mm[k] == pytest.approx(min(to))
            assert got.nearest_id[k] == int(np.argmin(np.round(to, 9))) + 1


def test_bodies_count_not_boxes_and_of_two_as_near_the_lower_id() -> None:
    """Before the first object an open C, whose box is near and whose ends are not; in its mouth's line a voxel."""
    ids = np.zeros((7, 5), int)
    ids[3, 0] = 1
    ids[0, 2:] = ids[:6, 4] = 3
    alone = measure(np.where(ids == 3, 2, ids), 2, (1.0, 1.0))
    assert alone.nearest_mm.tolist() == pytest.approx([5**0.5] * 2)
    ids[6, 2] = 2
    got = measure(ids, 3, (1.0, 1.0))
    assert got.nearest_mm[0] == pytest.approx(5**0.5) and got.nearest_id[0] == 2


def test_touching_objects_have_no_distance_and_an_only_one_has_no_neighbour() -> None:
    ids, n = label_components(np.array([[1, 0, 0, 0], [0, 1, 0, 1]]), 6)
    got = measure(ids, n, (1.0, 1.0))
    assert got.nearest_mm.tolist() == [0, 0, 1] and got.nearest_id.tolist() == [2, 1, 2]
    alone = measure(np.array([[1, 0]]), 1, (1.0, 1.0))
    assert np.isnan(alone.nearest_mm[0]) and alone.nearest_id[0] == 0


def test_sphericity_of_a_voxel_is_that_of_an_octahedron_or_a_square() -> None:
    """The surface halfway to its neighbours: in 3D eight triangles, in 2D a square on its corner."""
    solid = measure(np.ones((1, 1, 1), int), 1, (1.0, 1.0, 1.0)).sphericity[0]
    assert solid == pytest.approx((36 * np.pi * (1 / 6) ** 2) ** (1 / 3) / 3**0.5, rel=1e-5)
    flat = measure(np.ones((1, 1), int), 1, (2.0, 2.0)).sphericity[0]
    assert flat == pytest.approx(np.pi**0.5 / 2)


def test_the_wall_of_a_hole_counts_and_its_area_does_not() -> None:
    """Three pixels square with cut corners, and a hole of one."""
    ring = np.ones((3, 3), int)
    ring[1, 1] = 0
    area, perimeter = 9 - 4 / 8 - 4 / 8, 8 + 8 * 0.5**0.5
    assert measure(ring, 1, (1.0, 1.0)).sphericity[0] == pytest.approx(2 * (np.pi * area) ** 0.5 / perimeter)


@pytest.mark.parametrize("dim", [2, 3])
def test_sphericity_knows_a_ball_from_a_rod_and_a_hole_and_takes_the_spacing(dim: int) -> None:
    shape, spacing = (9,) * dim, (1.0,) * dim
    ball = paint(shape, [Disc((4,) * dim, 3)]).numpy()
    rod = paint(shape, [Box((4,) * dim, (5,) * (dim - 1) + (9,))]).numpy()
    hollow = ball - paint(shape, [Disc((4,) * dim, 1)]).numpy()
    of = {
        name: measure(own, 1, spacing).sphericity[0] for name, own in (("ball", ball), ("rod", rod), ("hole", hollow))
    }
    assert 0.85 < of["ball"] < 1 and of["rod"] < 0.85 * of["ball"] and of["hole"] < 0.9 * of["ball"]
    turned = measure(ball, 1, (1.0,) * (dim - 1) + (0.2,)).sphericity[0]
    assert turned < 0.85 * of["ball"]
    assert measure(ball, 1, (2.5,) * dim).sphericity[0] == pytest.approx(of["ball"], rel=1e-4)


def test_without_a_spacing_there_are_no_lengths() -> None:
    ids, n = an_image(SHAPES[1])
    got = measure(ids, n)
    for name in ("largest_diameter_mm", "sphericity", "nearest_mm", "mean", "peak"):
        assert np.isnan(getattr(got, name)).all()
    assert got.voxels.tolist() == measure(ids, n, SPACINGS[3]).voxels.tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nothing_has_no_measures(shape: tuple[int, ...]) -> None:
    got = measure(np.zeros(shape, int), 0, SPACINGS[len(shape)], np.zeros(shape))
    assert [len(own) for own in vars(got).values()] == [0] * 10
    assert got.first.shape == got.centre.shape == (0, len(shape))
