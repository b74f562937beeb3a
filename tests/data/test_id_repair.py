from __future__ import annotations

from itertools import product
from operator import add

import numpy as np
import pytest
from geometry import SHAPES, random_labels
from scipy import ndimage

from nnunet_instance_trainers.data.id_repair import repair_ids


def row(*values: int) -> np.ndarray:
    """An image of one row."""
    return np.array([values])


def random_pair(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and two classes that disagree everywhere: gaps, ids outside, ids across classes, lonely foreground."""
    ids = random_labels(shape, 3, seed, batch=1)[0].numpy()
    labels = random_labels(shape, 20, seed + 1000, batch=1)[0].numpy()
    return ids, np.where(labels > 0, labels % 2 + 1, 0)


Voxel = tuple[int, ...]


def neighbourhoods(labels: np.ndarray) -> dict[Voxel, list[tuple[int, Voxel]]]:
    """For each foreground voxel its neighbours of the same class, with 1 for a face, 2 for an edge, 3 for a corner."""
    classes = {tuple(v): labels[tuple(v)] for v in np.argwhere(labels).tolist()}
    offsets = [offset for offset in product((-1, 0, 1), repeat=labels.ndim) if any(offset)]
    found: dict[Voxel, list[tuple[int, Voxel]]] = {}
    for voxel, label in classes.items():
        others = [(sum(map(abs, offset)), tuple(map(add, voxel, offset))) for offset in offsets]
        found[voxel] = [(distance, other) for distance, other in others if classes.get(other) == label]
    return found


def rounds(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """In which round each foreground voxel gets its id, voxel by voxel: 0 has one, -1 is never reached."""
    near = neighbourhoods(labels)
    at = np.where((ids > 0) & (labels > 0), 0, -1)
    front = [tuple(v) for v in np.argwhere(at == 0).tolist()]
    while front:
        reached = {other for voxel in front for _, other in near[voxel] if at[other] < 0}
        for voxel in reached:
            at[voxel] = at[front[0]] + 1
        front = list(reached)
    return at


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_plain_loops(shape: tuple[int, ...], seed: int) -> None:
    """Whatever the order among equally near neighbours, every id comes from the nearest one that had its own before."""
    ids, labels = random_pair(shape, seed)
    repaired, astray = repair_ids(ids, labels)
    at = rounds(ids, labels)
    foreground = labels > 0
    assert ((repaired > 0) == foreground).all()
    assert (repaired[at == 0] == ids[at == 0]).all()
    for voxel, around in neighbourhoods(labels).items():
        earlier = [(distance, other) for distance, other in around if 0 <= at[other] < at[voxel]]
        assert not earlier or repaired[voxel] in {
            repaired[other] for distance, other in earlier if distance == min(earlier)[0]
        }
    assert astray == (foreground & ((at < 0) | (at > 1))).sum()


def test_the_random_images_hold_every_case() -> None:
    for shape in SHAPES:
        pairs = [random_pair(shape, seed) for seed in range(3)]
        at = [rounds(*pair) for pair in pairs]
        assert any((a > 1).any() for a in at)
        assert any(((a < 0) & (labels > 0)).any() for a, (_, labels) in zip(at, pairs))
        assert any(((ids > 0) & (labels == 0)).any() for ids, labels in pairs)


@pytest.mark.parametrize("shape", SHAPES)
def test_unreached_foreground_becomes_one_new_object_per_component(shape: tuple[int, ...]) -> None:
    ids, labels = random_pair(shape, seed=1)
    ids[tuple(n // 2 for n in shape)] = 0
    ids[labels == 2] = 0  # the second class has no ids at all
    repaired, _ = repair_ids(ids, labels)
    components, n = ndimage.label(labels == 2, np.ones((3,) * len(shape)))
    assert n > 1
    for component in range(1, n + 1):
        (new,) = np.unique(repaired[components == component])
        assert new > ids.max()
        assert (repaired == new).sum() == (components == component).sum()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64])
def test_agreeing_input_is_returned_unchanged(dtype: type) -> None:
    ids = random_labels((16, 13), 6, seed=1, batch=1)[0].numpy().astype(dtype) * 7
    repaired, astray = repair_ids(ids, (ids > 0).astype(np.int16))
    assert (repaired.dtype, astray) == (dtype, 0)
    np.testing.assert_array_equal(repaired, ids)


def test_the_input_is_left_alone() -> None:
    ids, labels = random_pair((16, 13), seed=2)
    before = ids.copy(), labels.copy()
    assert (repair_ids(ids, labels)[0] != ids).any()
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_ids_outside_the_classes_are_dropped() -> None:
    repaired, astray = repair_ids(row(5, 5, 5, 0), row(0, 1, 0, 0))
    assert (repaired.tolist(), astray) == ([[0, 5, 0, 0]], 0)


def test_a_face_wins_over_a_corner() -> None:
    labels = np.ones((3, 3), int)
    for ids in (np.array([[3, 4, 3], [0, 0, 0], [3, 0, 3]]), np.array([[3, 0, 3], [0, 0, 0], [3, 4, 3]])):
        assert repair_ids(ids, labels)[0][1, 1] == 4
        assert repair_ids(ids.T, labels)[0][1, 1] == 4


def test_an_edge_wins_over_a_corner_and_a_face_over_both() -> None:
    labels = np.ones((3, 3, 3), int)
    ids = np.zeros((3, 3, 3), int)
    ids[0, 0, 0] = ids[2, 2, 2] = 7
    ids[1, 2, 2] = 8
    assert repair_ids(ids, labels)[0][1, 1, 1] == 8
    ids[1, 1, 2] = 9
    assert repair_ids(ids, labels)[0][1, 1, 1] == 9


def test_objects_grow_at_the_same_speed() -> None:
    """They meet half-way; a filling in the order of the voxels would let the first one win."""
    repaired, astray = repair_ids(row(3, 0, 0, 0, 0, 0, 0, 4), row(1, 1, 1, 1, 1, 1, 1, 1))
    assert repaired.tolist() == [[3, 3, 3, 3, 4, 4, 4, 4]]
    assert astray == 4  # all but the two that touch an object


def test_an_id_of_another_class_is_never_borrowed() -> None:
    repaired, astray = repair_ids(row(5, 5, 0, 0, 0, 6), row(1, 1, 2, 2, 1, 1))
    assert (repaired.tolist(), astray) == ([[5, 5, 7, 7, 6, 6]], 2)


def test_new_objects_are_split_by_class_and_joined_by_corners() -> None:
    labels = np.array([[1, 0, 0, 2], [0, 1, 2, 0], [0, 0, 0, 0], [1, 0, 0, 2]])
    repaired, astray = repair_ids(np.zeros_like(labels), labels)
    assert astray == 6
    assert repaired[0, 0] == repaired[1, 1] != repaired[0, 3] == repaired[1, 2]
    assert sorted(np.unique(repaired)) == [0, 1, 2, 3, 4]


def test_astray_counts_what_has_no_neighbour_with_an_id() -> None:
    ids, ones = row(4, 0, 0, 0, 0, 0), row(1, 1, 1, 1, 0, 1)
    assert repair_ids(ids, ones)[1] == 3  # two reached later, one never
    assert repair_ids(ids, row(1, 1, 0, 0, 0, 0))[1] == 0  # a border voxel is not astray
    assert repair_ids(ids, row(0, 1, 0, 0, 0, 0))[1] == 1  # its object is gone


@pytest.mark.parametrize("shape", SHAPES)
def test_permuted_ids_permute_the_result(shape: tuple[int, ...]) -> None:
    ids, labels = random_pair(shape, seed=3)
    assert sorted(np.unique(ids)) == [0, 1, 2, 3]
    names = np.arange(100)
    names[1:4] = 3, 1, 2
    kept = np.where(labels > 0, ids, 0)
    kept.flat[np.flatnonzero(labels)[0]] = 3  # the highest id stays, and with it the names of new objects
    once, astray = repair_ids(kept, labels)
    permuted, astray_permuted = repair_ids(names[kept], labels)
    assert astray == astray_permuted
    reached = rounds(kept, labels) >= 0
    np.testing.assert_array_equal(permuted[reached], names[once][reached])
    np.testing.assert_array_equal(permuted[~reached], once[~reached])


@pytest.mark.parametrize("shape", SHAPES)
def test_foreground_everywhere_without_any_id_is_one_astray_object(shape: tuple[int, ...]) -> None:
    repaired, astray = repair_ids(np.zeros(shape, np.int32), np.ones(shape, np.int16))
    assert (np.unique(repaired).tolist(), astray) == ([1], np.prod(shape))


@pytest.mark.parametrize("shape", [*SHAPES, (0, 4)])
def test_without_foreground_nothing_is_left(shape: tuple[int, ...]) -> None:
    repaired, astray = repair_ids(np.full(shape, 9, np.int32), np.zeros(shape, np.int16))
    assert (repaired.shape, repaired.any(), astray) == (shape, False, 0)


def test_new_objects_find_a_number_however_high_the_ids_are() -> None:
    ids = np.array([[32_767, 0, 0, 32_766, 0, 0, 0]], dtype=np.int16)
    labels = np.array([[1, 0, 0, 1, 0, 0, 1]], dtype=np.int16)
    repaired, astray = repair_ids(ids, labels)
    assert repaired.dtype == np.int16 and repaired.tolist() == [[2, 0, 0, 1, 0, 0, 3]] and astray == 1
