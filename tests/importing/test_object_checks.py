from __future__ import annotations

import numpy as np
import pytest

from nnunet_instance_trainers.importing.id_images import Objects
from nnunet_instance_trainers.importing.object_checks import look, mend


def cells(ids: np.ndarray) -> Objects:
    return Objects(ids, {int(number): "cell" for number in np.unique(ids[ids > 0])})


@pytest.fixture
def broken() -> Objects:
    """Id 5 in pieces of 4, 1 and 2 voxels, id 7 of one voxel, id 8 whole."""
    ids = np.zeros((1, 6, 8), np.int64)
    ids[0, :2, :2] = ids[0, 4, 0] = ids[0, 4:6, 3] = 5
    ids[0, 0, 7], ids[0, 2:4, 5:8] = 7, 8
    return cells(ids)


def test_pieces_and_slivers_are_counted(broken: Objects) -> None:
    found = look(broken)
    assert (found.objects, found.in_pieces, found.slivers) == ({"cell": 3}, 1, 2)
    assert not found.may_have_wrapped


def test_nothing_is_found_in_nothing() -> None:
    found = look(Objects(np.zeros((1, 3, 3), np.uint8), {}))
    assert (found.objects, found.in_pieces, found.slivers, found.may_have_wrapped) == ({}, 0, 0, False)


@pytest.mark.parametrize("largest, wraps", [(255, True), (254, False), (65535, True), (127, True)])
def test_wrapped_ids_need_the_largest_of_a_type_and_pieces(largest: int, wraps: bool) -> None:
    ids = np.zeros((1, 4, 9), np.int64)
    ids[0, 0, :2] = ids[0, 0, 5:7] = 1
    ids[0, 2, :2] = largest
    assert look(cells(ids)).may_have_wrapped is wraps
    ids[0, 0, 5:7] = 0
    assert not look(cells(ids)).may_have_wrapped


def test_pieces_become_objects_and_the_largest_keeps_the_id(broken: Objects) -> None:
    mended = mend(broken, split_pieces=True, minimum_voxels=1)
    assert look(mended).in_pieces == 0 and look(mended).objects == {"cell": 5}
    assert ((mended.ids == 5) == ((broken.ids == 5) & (np.indices(broken.ids.shape)[1] < 2))).all()
    assert ((mended.ids > 0) == (broken.ids > 0)).all()
    assert set(np.unique(mended.ids)) == {0, *mended.classes} == {0, 5, 7, 8, 9, 10}


def test_small_objects_go_and_pieces_count_only_once_they_are_objects(broken: Objects) -> None:
    whole = mend(broken, split_pieces=False, minimum_voxels=2)
    assert set(whole.classes) == {5, 8} and (whole.ids == np.where(broken.ids == 7, 0, broken.ids)).all()
    split = mend(broken, split_pieces=True, minimum_voxels=3)
    assert set(split.classes) == {5, 8} and np.count_nonzero(split.ids == 5) == 4
    assert mend(broken, split_pieces=False, minimum_voxels=1) is broken
