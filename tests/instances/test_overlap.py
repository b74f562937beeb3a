from __future__ import annotations

from collections import Counter

import pytest
import torch
from geometry import SHAPES, Box, Disc, paint, random_labels, random_mask, random_probabilities
from torch import Tensor

from nnunet_instance_trainers.instances import OverlapTable


def pairs_of(table: OverlapTable) -> list[tuple[int, int, int]]:
    """(sample, id of the instance, id of the component) of each pair, in order."""
    instances, components = table.instances, table.components
    assert torch.equal(instances.sample[table.instance], components.sample[table.component])
    names = instances.sample[table.instance], instances.id[table.instance], components.id[table.component]
    return list(zip(*(name.tolist() for name in names)))


def table_as_dict(table: OverlapTable) -> dict[tuple[int, int, int], int]:
    return dict(zip(pairs_of(table), table.size.tolist()))


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
    expected = counted(instances, components, valid)
    assert table_as_dict(table) == expected
    everywhere = torch.ones_like(instances, dtype=torch.bool) if valid is None else valid
    assert table.components.size.sum() == ((components > 0) & everywhere).sum()
    sums = table.sums(values)
    for k, (b, i, j) in enumerate(pairs_of(table)):
        region = (instances[b] == i) & (components[b] == j) & everywhere[b]
        torch.testing.assert_close(sums[k], values[b][region].sum())
    for side, place, objects, of_pairs in (
        (table.over_instances(table.size), 1, table.instances, expected),
        (table.over_components(table.size), 2, table.components, expected),
    ):
        for total, b, i in zip(side.tolist(), objects.sample.tolist(), objects.id.tolist()):
            assert total == sum(n for pair, n in of_pairs.items() if (pair[0], pair[place]) == (b, i))


def test_sizes_and_overlaps_of_boxes_are_analytic() -> None:
    a, b, c = Box((1, 1), (5, 6)), Box((8, 2), (12, 4)), Disc((13, 10), 2)
    x, y = Box((3, 4), (9, 8)), Box((0, 0), (2, 2))
    table = OverlapTable(paint((16, 13), [a, b, c])[None], paint((16, 13), [x, y])[None])
    assert table.instances.size.tolist() == [20, 8, 13]
    assert table.components.size.tolist() == [24, 4]
    assert table.instances.background_size.tolist() == [16 * 13 - 41]
    assert table_as_dict(table) == {(0, 1, 1): a.overlap(x), (0, 1, 2): a.overlap(y)} == {(0, 1, 1): 4, (0, 1, 2): 1}


def test_pairs_are_sorted() -> None:
    keys = pairs_of(OverlapTable(random_labels((16, 13), 9, seed=5), random_labels((16, 13), 9, seed=6)))
    assert keys == sorted(set(keys))
    assert {b for b, _, _ in keys} == {0, 1}


def test_sparse_ids_equal_compact_ids() -> None:
    """Ids 5 and 4,000,000 cost no more memory than 1 and 2, and come back as they were."""
    compact, components = torch.zeros(2, 4, 6, dtype=torch.int64), random_labels((4, 6), 3, seed=7)
    compact[0, 1:3, 1:5], compact[1, :2], compact[1, 3] = 2, 1, 2
    names = torch.tensor([0, 5, 4_000_000])
    values = random_probabilities((2, 4, 6), seed=8)
    a, b = OverlapTable(compact, components), OverlapTable(names[compact], components)
    assert len(b.instances) == len(a.instances) == 3
    for name in ("sample", "size", "background_size"):
        assert torch.equal(getattr(a.instances, name), getattr(b.instances, name))
    assert torch.equal(a.instances.sums(values), b.instances.sums(values))
    assert torch.equal(a.sums(values), b.sums(values))
    renamed = {(s, int(names[i]), j): n for (s, i, j), n in table_as_dict(a).items()}
    assert table_as_dict(b) == renamed != {}
    mirrored = {(s, i, j): n for (s, j, i), n in renamed.items()}
    assert table_as_dict(OverlapTable(components, names[compact])) == mirrored


def test_permuted_ids_permute_the_rows() -> None:
    instances, components = random_labels((16, 13), 6, seed=9), random_labels((16, 13), 6, seed=10)
    new = torch.tensor([0, 4, 6, 1, 5, 2, 3])
    a, b = OverlapTable(instances, components), OverlapTable(new[instances], components)
    assert table_as_dict(b) == {(s, int(new[i]), j): n for (s, i, j), n in table_as_dict(a).items()}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type_will_do(dtype: torch.dtype) -> None:
    instances, components = random_labels((7, 6, 9), 5, seed=12), random_labels((7, 6, 9), 5, seed=13)
    table = OverlapTable(instances.to(dtype), components.to(dtype))
    assert table_as_dict(table) == counted(instances, components)


def test_negative_ids_are_background() -> None:
    """nnU-Net pads segmentations with -1."""
    table = OverlapTable(torch.tensor([[-1, 1, 0]]), torch.tensor([[1, -1, 1]]))
    assert (table.instances.size.tolist(), table.instances.background_size.tolist()) == ([1], [2])
    assert table.components.size.tolist() == [2]
    assert table_as_dict(table) == {}


def test_an_image_without_ids_has_no_pairs() -> None:
    empty = torch.zeros(2, 3, 4, dtype=torch.int64)
    for pair in ((empty, empty + 1), (empty + 1, empty), (empty, empty)):
        table = OverlapTable(*pair)
        assert table_as_dict(table) == {}
        assert table.sums(torch.ones(2, 3, 4)).shape == (0,)
        assert table.over_instances(table.size).tolist() == [0] * len(table.instances)
        assert table.over_components(table.size).tolist() == [0] * len(table.components)


def test_sums_are_differentiable() -> None:
    table = OverlapTable(random_labels((4, 5), 3, seed=14), random_labels((4, 5), 3, seed=15))
    assert len(table.size) > 2
    values = random_probabilities((2, 4, 5), seed=16).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: table.sums(v**2), values)


@pytest.mark.parametrize("name", ["components", "valid"])
def test_shapes_that_differ_are_refused(name: str) -> None:
    ids, other = torch.zeros(1, 4, 5, dtype=torch.int64), torch.zeros(1, 5, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"must have the shape of \w+, \(1, 4, 5\), got \(1, 5, 4\)"):
        OverlapTable(ids, **{"components": ids, name: other})


def test_a_large_overlap_costs_no_precision() -> None:
    """A million voxels of 0.1 in float32: a running sum in that format is wrong by per cents."""
    ids = torch.ones(1, 1000, 1000, dtype=torch.int32)
    table = OverlapTable(ids, ids)
    assert table.sums(torch.full(ids.shape, 0.1)).item() == pytest.approx(1e5, rel=1e-6)
    assert table.sums(torch.ones(1, 1000, 1000)).dtype == torch.float64
