from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from geometry import Box, Disc, paint, random_labels, random_mask, random_probabilities
from scipy import ndimage
from torch import Tensor

from nnunet_instance_trainers.instances import Cells, Objects, cell_map, cells, nearest_places

SPACINGS = [None, (1.5, 1.0), (2.5, 1.0, 1.0), (0.7, 1.3), (3.0, 0.7, 0.7)]


def plain_map(ids: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """The lowest of the nearest ids, by scipy's distance to each of them."""
    known = [i for i in np.unique(ids) if i]
    if not known:
        return np.zeros_like(ids)
    distances = [ndimage.distance_transform_edt(ids != i, sampling=spacing) for i in known]
    # Scipy adds squares in another order; what differs by so little is equal.
    return np.array(known)[np.stack(distances).round(9).argmin(0)]


def random_ids(random: np.random.Generator, dim: int) -> Tensor:
    """A small image of single voxels or of blots, sparse or dense, with ids that need not follow each other."""
    shape = random.integers(1, 10, dim)
    ids = random.choice([1, 2, 3, 7, 8, 20], shape) * (random.random(shape) < random.choice([0.02, 0.1, 0.6]))
    return torch.from_numpy(ndimage.grey_dilation(ids, 2) if random.random() < 0.3 else ids)


def compare(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    for i in range(n):
        dim = 2 + i % 2
        ids, spacing = random_ids(random, dim), random.choice(
            np.array([s for s in SPACINGS if s is None or len(s) == dim], dtype=object)
        )  # fmt: skip
        spacing = None if spacing is None else tuple(spacing)
        expected = plain_map(ids.numpy(), spacing)
        np.testing.assert_array_equal(cell_map(ids[None], spacing=spacing)[0], expected, err_msg=f"{seed} {i}")
        if (numbers := ids.unique()[ids.unique() > 0]).numel():
            image = torch.searchsorted(numbers, ids).add(1).mul(ids > 0).int()[None]
            steps = nearest_places._whole_steps(ids.shape, spacing or [1.0] * dim, len(numbers) + 1)
            ways = (nearest_places._by_pairs, nearest_places._by_envelopes)
            both = [way(image, len(numbers) + 1, steps) for way in ways]
            assert torch.equal(*both), f"{seed} {i}"


def test_each_voxel_belongs_to_the_nearest_object_of_the_lowest_id() -> None:
    """Both ways, on the CPU."""
    compare(60, seed=1)


@pytest.mark.heavy
def test_thousands_of_images() -> None:
    compare(5000, seed=np.random.default_rng().integers(10**6))


def test_a_tie_goes_to_the_lower_id_whatever_lies_first() -> None:
    assert cell_map(torch.tensor([[5, 0, 0, 0, 2]])).tolist() == [[5, 5, 2, 2, 2]]
    assert cell_map(torch.tensor([[2, 0, 0, 0, 5]])).tolist() == [[2, 2, 2, 5, 5]]


def test_spacing_counts_by_its_ratios() -> None:
    ids = torch.zeros(1, 3, 5, dtype=torch.int64)
    ids[0, 0, 0], ids[0, 2, 4] = 1, 2
    assert cell_map(ids)[0, :, 2].tolist() == [1, 1, 2]
    assert cell_map(ids, spacing=(10, 1))[0, :, 2].tolist() == [1, 1, 2]
    assert cell_map(ids, spacing=(10, 1))[0, 2, 0] == 2  # 4 against 20; 2 against 4 without spacing
    assert cell_map(ids)[0, 2, 0] == 1
    assert torch.equal(cell_map(ids, spacing=(0.7, 0.35)), cell_map(ids, spacing=(2, 1)))


def test_samples_are_apart_and_those_of_one_object_or_none_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_labels((9, 8), 4, seed=2, batch=4)
    ids[1], ids[2] = 0, (ids[2] > 0) * 6
    expected = torch.cat([cell_map(one[None]) for one in ids])
    assert torch.equal(cell_map(ids), expected)
    assert (expected[1] == 0).all() and (expected[2] == 6).all()
    monkeypatch.setattr(cells, "nearest_places", None)
    assert torch.equal(cell_map(ids[1:3]), expected[1:3])


def test_ignored_voxels_hold_no_object_and_have_a_cell() -> None:
    ids, valid = random_labels((9, 8), 5, seed=3), random_mask((2, 9, 8), seed=4)
    assert torch.equal(cell_map(ids, valid=valid), cell_map(ids * valid))


def test_mirroring_and_names_move_the_cells_along() -> None:
    ids = paint((15, 14), [Disc((3, 3), 2), Disc((11, 4), 1), Box((5, 10), (8, 12))])[None]
    expected = cell_map(ids, spacing=(1.37, 1.0))  # no ties
    assert torch.equal(cell_map(ids.flip(1, 2), spacing=(1.37, 1.0)).flip(1, 2), expected)
    names = torch.tensor([0, 9, 2, 5])
    assert torch.equal(cell_map(names[ids], spacing=(1.37, 1.0)), names[expected])


@pytest.mark.parametrize("shape", [(31, 24), (15, 9, 12), (1, 20, 21)])
def test_the_half_grid_moves_few_voxels_and_loses_no_object(shape: tuple[int, ...]) -> None:
    ids = random_labels(shape, 6, seed=5) if min(shape) > 1 else random_labels(shape[1:], 6, seed=5)[:, None]
    full, half = cell_map(ids), cell_map(ids, grid="half")
    assert torch.equal(half[ids > 0], ids[ids > 0])
    assert 0 < (half != full).double().mean() < 0.2  # small images are all border
    assert set(half.unique().tolist()) == set(ids.unique().tolist()) - {0}


def test_the_half_grid_takes_images_of_two_voxels() -> None:
    ids = torch.tensor([[[1, 2], [0, 0]], [[1, 0], [0, 2]]])[:, :, None]
    assert torch.equal(cell_map(ids, grid="half")[ids > 0], ids[ids > 0])


def test_sums_and_sizes_equal_the_plain_loop() -> None:
    ids, valid = random_labels((7, 6, 9), 5, seed=6, batch=3), random_mask((3, 7, 6, 9), seed=7)
    ids[1] = 0
    objects = Objects(ids, valid=valid)
    found = Cells(objects, valid=[valid], spacing=(2, 1, 1))
    values = (random_probabilities(ids.shape, seed=8) * valid).requires_grad_()
    weights = torch.arange(1.0, len(found) + 1, dtype=torch.float64)
    sums = found.sums([values])
    (slope,) = torch.autograd.grad((sums * weights).sum(), values)
    nearest, n = cell_map(ids, spacing=(2, 1, 1), valid=valid), len(objects)
    assert len(found) == n + 3 and found.objects is objects
    for k, (b, i) in enumerate([*zip(objects.sample.tolist(), objects.id.tolist()), *((b, 0) for b in range(3))]):
        cell = torch.zeros_like(valid)
        cell[b] = nearest[b] == i
        torch.testing.assert_close(sums[k], values[cell].sum())
        assert found.size[k] == (cell & valid).sum()
        assert (slope[cell] == weights[k]).all()
    assert found.at(objects).tolist() == objects.member.tolist()


def test_a_map_that_is_given_is_taken_as_it_is() -> None:
    ids = torch.tensor([7, 0, 3, 900])[random_labels((9, 8), 3, seed=9, batch=3)]
    ids[1] = 0
    objects = Objects(ids)
    (expected,) = Cells(objects).places
    assert torch.equal(Cells(objects, cells=[cell_map(ids)]).places[0], expected)
    other = cell_map(ids).where(cell_map(ids) != 3, 901)  # an id without an object belongs to none
    (found,) = Cells(objects, cells=[other]).places
    unknown = (other == 901)[[0, 2]]
    assert unknown.any() and (found[[0, 2]][unknown] >= len(objects)).all()
    assert torch.equal(found[[0, 2]][~unknown], expected[[0, 2]][~unknown])


def test_what_does_not_fit_is_refused() -> None:
    ids = torch.tensor([[[1, 0, 2]]])
    for spacing in ((1.0,), (0.0, 1.0), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="spacing must be 2 numbers above 0"):
            cell_map(ids, spacing=spacing)
    with pytest.raises(ValueError, match="grid must be 'full' or 'half', got 'third'"):
        cell_map(ids, grid="third")
    with pytest.raises(ValueError, match="valid must have the shape of ids"):
        cell_map(ids, valid=torch.ones(1, 3, 1, dtype=torch.bool))
