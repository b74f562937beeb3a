from __future__ import annotations

import numpy as np
import pytest
from geometry import SHAPES, Box, Disc, paint
from scipy import ndimage

from nnunet_instance_trainers.instances import label_components, renumber


def as_sets(ids: np.ndarray) -> set[frozenset[int]]:
    """The parts of a partition, whatever their numbers."""
    return {frozenset(np.flatnonzero(ids == i).tolist()) for i in np.unique(ids) if i}


def yardstick(labels: np.ndarray) -> set[frozenset[int]]:
    """Components by scipy with full structure, one label at a time."""
    full = np.ones((3,) * labels.ndim)
    return set().union(*(as_sets(ndimage.label(labels == i, full)[0]) for i in np.unique(labels) if i))


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_scipy_label_by_label(shape: tuple[int, ...], density: float) -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(shape) < density) * rng.integers(1, 4, shape)
    ids, n = label_components(labels)
    assert ids.dtype == np.uint32
    assert as_sets(ids) == yardstick(labels)
    assert sorted(set(np.unique(ids)) - {0}) == list(range(1, n + 1))


def test_objects_keep_their_analytic_sizes() -> None:
    objects = [Box((0, 0), (2, 3)), Disc((8, 8), 2), Box((14, 0), (16, 1)), Disc((3, 11), 1)]
    ids, n = label_components((paint((16, 13), objects) > 0).numpy())
    assert n == 4
    assert sorted(np.bincount(ids.ravel())[1:]) == sorted(item.voxels for item in objects)  # 6, 13, 2, 5


def test_different_labels_never_join() -> None:
    labels = np.array([[1, 1, 2], [1, 2, 2], [3, 3, 3]])
    ids, n = label_components(labels)
    assert n == 3
    assert as_sets(ids) == as_sets(labels)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_a_touch_at_one_corner_joins(n_axes: int) -> None:
    labels = np.zeros((3,) * n_axes, bool)
    labels[(0,) * n_axes] = labels[(1,) * n_axes] = True
    assert label_components(labels)[1] == 1
    labels[(1,) * n_axes], labels[(2,) * n_axes] = False, True
    assert label_components(labels)[1] == 2


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 2)])
def test_an_empty_axis_gives_no_components(shape: tuple[int, ...]) -> None:
    ids, n = label_components(np.zeros(shape, np.int16))
    assert (ids.shape, ids.dtype, n) == (shape, np.uint32, 0)


def test_all_background_and_all_foreground() -> None:
    assert label_components(np.zeros((4, 5), np.uint8))[1] == 0
    ids, n = label_components(np.full((4, 5), 7, np.uint8))
    assert n == 1
    assert (ids == 1).all()


@pytest.mark.parametrize("view", [np.asfortranarray, np.transpose, lambda a: a[::2, ::-1], lambda a: a[:, 1:]])
def test_memory_order_changes_nothing(view) -> None:  # type: ignore[no-untyped-def]
    labels = view((np.random.default_rng(3).random((12, 11)) < 0.4).astype(np.uint8))
    ids, n = label_components(labels)
    expected, n_expected = label_components(labels.copy(order="C"))
    assert n == n_expected
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3, 4)])
def test_other_numbers_of_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels must have 2 or 3 axes, got shape \("):
        label_components(np.zeros(shape, np.uint8))


def test_renumbered_ids_are_consecutive_and_keep_objects_and_order() -> None:
    ids = np.array([[4_000_000, 0, 7], [7, 30, 0]])
    consecutive, n = renumber(ids)
    assert n == 3 and consecutive.dtype == np.uint32
    assert consecutive.tolist() == [[3, 0, 1], [1, 2, 0]]
    assert renumber(np.zeros((2, 3), dtype=int))[1] == 0


@pytest.mark.parametrize("largest", [20, 4_000_000])
def test_renumbering_is_the_rank_among_the_ids(largest: int) -> None:
    """Few or many ids above the number of voxels, and what is below 0 is background."""
    ids = np.random.default_rng(largest).integers(-2, largest, (6, 7))
    ranks = {i: rank for rank, i in enumerate(sorted(set(ids[ids > 0].tolist())), start=1)}
    consecutive, n = renumber(ids)
    assert n == len(ranks) and consecutive.dtype == np.uint32
    assert consecutive.tolist() == [[ranks.get(i, 0) for i in row] for row in ids.tolist()]


@pytest.mark.parametrize(("connectivity", "n"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity(connectivity: int, n: int) -> None:
    labels = np.zeros((2, 2, 3), int)
    labels[0, 0, 0] = labels[0, 1, 1] = labels[1, 0, 2] = 1  # by edge, then by corner
    assert label_components(labels, connectivity)[1] == n
    assert label_components(np.eye(3, dtype=int), connectivity)[1] == (3 if connectivity == 6 else 1)


def test_unknown_connectivity() -> None:
    with pytest.raises(ValueError, match="6, 18 or 26, got 8"):
        label_components(np.eye(3, dtype=int), 8)
