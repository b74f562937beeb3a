from __future__ import annotations

from collections import Counter

import pytest
import torch
from geometry import SHAPES, Box, Disc, paint, random_labels, random_mask, random_probabilities
from torch import Tensor

from nnunet_instance_trainers.instances import OverlapTable


def table_as_dict(table: OverlapTable) -> dict[tuple[int, int, int], int]:
    pairs = table.pairs()
    keys = zip(pairs.sample.tolist(), pairs.instance.tolist(), pairs.component.tolist())
    return dict(zip(keys, pairs.voxels.tolist()))


def counted(instances: Tensor, components: Tensor, valid: Tensor | None = None) -> dict[tuple[int, int, int], int]:
    """The same, voxel by voxel."""
    valid = torch.ones_like(instances, dtype=torch.bool) if valid is None else valid
    rows = zip(instances.flatten(1).tolist(), components.flatten(1).tolist(), valid.flatten(1).tolist())
    return Counter((b, i, j) for b, row in enumerate(rows) for i, j, ok in zip(*row) if ok and i > 0 and j > 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_plain_loops(shape: tuple[int, ...], masked: bool) -> None:
    instances, components = random_labels(shape, 6, seed=1, batch=3), random_labels(shape, 6, seed=2, batch=3)
    instances[1] = 0
    values = random_probabilities((3, *shape), seed=3)
    valid = random_mask((3, *shape), seed=4) if masked else None
    table = OverlapTable(instances, components, valid=valid)
    everywhere = torch.ones_like(instances, dtype=torch.bool) if valid is None else valid
    sums, voxels = table.instance_sums(values), table.instance_voxels
    for b in range(3):
        assert table.background_voxels[b] == ((instances[b] == 0) & everywhere[b]).sum()
        for i in range(1, table.n_ids):
            region = (instances[b] == i) & everywhere[b]
            assert voxels[b, i] == region.sum()
            torch.testing.assert_close(sums[b, i], values[b][region].sum())
    assert table.n_ids == 7
    assert (sums[:, 0] == 0).all() and (voxels[:, 0] == 0).all()
    assert table_as_dict(table) == counted(instances, components, valid)


def test_sizes_and_overlaps_of_boxes_are_analytic() -> None:
    a, b, c = Box((1, 1), (5, 6)), Box((8, 2), (12, 4)), Disc((13, 10), 2)
    x, y = Box((3, 4), (9, 8)), Box((0, 0), (2, 2))
    table = OverlapTable(paint((16, 13), [a, b, c])[None], paint((16, 13), [x, y])[None])
    assert table.instance_voxels.tolist() == [[0, 20, 8, 13]]
    assert table.background_voxels.tolist() == [16 * 13 - 41]
    assert table_as_dict(table) == {(0, 1, 1): a.overlap(x), (0, 1, 2): a.overlap(y)} == {(0, 1, 1): 4, (0, 1, 2): 1}


def test_pairs_are_sorted() -> None:
    pairs = OverlapTable(random_labels((16, 13), 9, seed=5), random_labels((16, 13), 9, seed=6)).pairs()
    keys = list(zip(pairs.sample.tolist(), pairs.instance.tolist(), pairs.component.tolist()))
    assert keys == sorted(set(keys))
    assert {b for b, _, _ in keys} == {0, 1}


def test_sparse_ids_equal_compact_ids() -> None:
    """Ids 5 and 4,000,000 cost no more memory than 1 and 2, and pairs return them as they came."""
    compact, components = torch.zeros(2, 4, 6, dtype=torch.int64), random_labels((4, 6), 3, seed=7)
    compact[0, 1:3, 1:5], compact[1, :2], compact[1, 3] = 2, 1, 2
    names = torch.tensor([0, 5, 4_000_000])
    values = random_probabilities((2, 4, 6), seed=8)
    a, b = OverlapTable(compact, components), OverlapTable(names[compact], components)
    assert b.n_ids == a.n_ids == 3
    assert torch.equal(a.instance_voxels, b.instance_voxels)
    assert torch.equal(a.background_voxels, b.background_voxels)
    assert torch.equal(a.instance_sums(values), b.instance_sums(values))
    renamed = {(s, int(names[i]), j): n for (s, i, j), n in table_as_dict(a).items()}
    assert table_as_dict(b) == renamed != {}


def test_permuted_ids_permute_the_rows() -> None:
    instances, components = random_labels((16, 13), 6, seed=9), random_labels((16, 13), 6, seed=10)
    new = torch.tensor([0, 4, 6, 1, 5, 2, 3])
    values = random_probabilities((2, 16, 13), seed=11)
    a, b = OverlapTable(instances, components), OverlapTable(new[instances], components)
    torch.testing.assert_close(b.instance_sums(values)[:, new], a.instance_sums(values))
    assert torch.equal(b.instance_voxels[:, new], a.instance_voxels)
    assert table_as_dict(b) == {(s, int(new[i]), j): n for (s, i, j), n in table_as_dict(a).items()}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type_will_do(dtype: torch.dtype) -> None:
    instances, components = random_labels((7, 6, 9), 5, seed=12), random_labels((7, 6, 9), 5, seed=13)
    assert table_as_dict(OverlapTable(instances.to(dtype), components.to(dtype))) == counted(instances, components)


def test_negative_ids_are_background() -> None:
    """nnU-Net pads segmentations with -1."""
    table = OverlapTable(torch.tensor([[-1, 1, 0]]), torch.tensor([[1, -1, 1]]))
    assert (table.instance_voxels.tolist(), table.background_voxels.tolist()) == ([[0, 1]], [2])
    assert table_as_dict(table) == {}


def test_an_image_without_ids_has_only_background() -> None:
    empty = torch.zeros(2, 3, 4, dtype=torch.int64)
    table = OverlapTable(empty, empty + 1)
    assert (table.n_ids, table.background_voxels.tolist()) == (1, [12, 12])
    assert table.instance_sums(torch.ones(2, 3, 4)).tolist() == [[0.0], [0.0]]
    assert table_as_dict(table) == {}


def test_sums_are_differentiable() -> None:
    table = OverlapTable(random_labels((4, 5), 3, seed=14), valid=random_mask((2, 4, 5), seed=15))
    values = random_probabilities((2, 4, 5), seed=16).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: table.instance_sums(v**2), values)


@pytest.mark.parametrize("name", ["components", "valid"])
def test_shapes_that_differ_are_refused(name: str) -> None:
    ids, other = torch.zeros(1, 4, 5, dtype=torch.int64), torch.zeros(1, 5, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"{name} must have the shape of instances, \(1, 4, 5\), got \(1, 5, 4\)"):
        OverlapTable(ids, **{name: other})


def test_pairs_need_components() -> None:
    with pytest.raises(ValueError, match="made with components"):
        OverlapTable(torch.ones(1, 2, 2, dtype=torch.int64)).pairs()
