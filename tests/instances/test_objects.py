from __future__ import annotations

import pytest
import torch
from geometry import SHAPES, Box, Disc, paint, random_labels, random_mask, random_probabilities
from torch import Tensor

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.voxels import total


def everywhere(values: Tensor) -> Tensor:
    return total([values.unsqueeze(1)])


def names_of(objects: Objects) -> list[tuple[int, int]]:
    return list(zip(objects.sample.tolist(), objects.id.tolist()))


def regions(ids: Tensor, valid: Tensor | None = None) -> dict[tuple[int, int], Tensor]:
    """Flat masks of all objects, by sample and id, one id at a time."""
    ok = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    masks = {}
    for b in range(len(ids)):
        for i in ids[b].unique().tolist():
            mask = torch.zeros_like(ok)
            mask[b] = (ids[b] == i) & ok[b]
            if i > 0 and mask.any():
                masks[b, i] = mask
    return masks


def case(shape: tuple[int, ...], masked: bool, *, sparse: bool = False) -> tuple[Tensor, Tensor | None]:
    ids = random_labels(shape, 6, seed=1, batch=3)
    ids[1] = 0
    if sparse:
        ids = torch.tensor([0, 4, 2**40, 17, 70_000, 2, 9])[ids]
    return ids, random_mask(ids.shape, seed=4) if masked else None


every_case = [
    pytest.mark.parametrize("sparse", [False, True]),
    pytest.mark.parametrize("masked", [False, True]),
    pytest.mark.parametrize("shape", SHAPES),
]


def on_every_case(function):  # type: ignore[no-untyped-def]
    for mark in every_case:
        function = mark(function)
    return function


@on_every_case
def test_equals_plain_loops(shape: tuple[int, ...], masked: bool, sparse: bool) -> None:
    """Lists, sizes and sums; one of three samples has no object."""
    ids, valid = case(shape, masked, sparse=sparse)
    values = random_probabilities(ids.shape, seed=3)
    objects, masks = Objects(ids, valid=valid), regions(ids, valid)
    ok = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    values = values * ok
    assert names_of(objects) == sorted(masks)
    assert len(objects) == len(masks) > 6
    assert objects.size.tolist() == [int(mask.sum()) for mask in masks.values()]
    torch.testing.assert_close(objects.sums(values), torch.stack([values[mask].sum() for mask in masks.values()]))
    assert objects.number.tolist() == [sum(b == a for a, _ in masks) for b in range(3)]
    assert objects.valid_size.tolist() == ok.flatten(1).sum(1).tolist()
    background = (ids == 0) & ok
    assert objects.background_size.tolist() == background.flatten(1).sum(1).tolist()
    sums = objects.background_sums(everywhere(values), objects.gather(values))
    torch.testing.assert_close(sums, (values * background).flatten(1).sum(1))


@on_every_case
def test_voxels_and_members_give_the_masks_back(shape: tuple[int, ...], masked: bool, sparse: bool) -> None:
    ids, valid = case(shape, masked, sparse=sparse)
    objects = Objects(ids, valid=valid)
    for i, mask in enumerate(regions(ids, valid).values()):
        assert objects.voxel[objects.member == i].tolist() == mask.flatten().nonzero().squeeze(1).tolist()
    assert torch.equal(objects.voxel, objects.voxel.sort().values)  # reading and cutting into lines need the order


@on_every_case
def test_centres_and_boxes_equal_plain_loops(shape: tuple[int, ...], masked: bool, sparse: bool) -> None:
    ids, valid = case(shape, masked, sparse=sparse)
    objects = Objects(ids, valid=valid)
    low, high = objects.boxes
    for i, mask in enumerate(regions(ids, valid).values()):
        at = mask.nonzero()[:, 1:]
        assert low[i].tolist() == at.amin(0).tolist()
        assert high[i].tolist() == (at.amax(0) + 1).tolist()
        assert objects.centres[i].tolist() == (at.double().mean(0) + 0.5).floor().tolist()


def test_sizes_boxes_and_centres_are_analytic() -> None:
    a, b, c = Box((1, 1), (5, 6)), Box((8, 2), (12, 4)), Disc((13, 10), 2)
    objects = Objects(paint((16, 13), [a, b, c])[None])
    assert objects.size.tolist() == [20, 8, 13]
    assert objects.background_size.tolist() == [16 * 13 - 41]
    assert [corner.tolist() for corner in objects.boxes] == [[[1, 1], [8, 2], [11, 8]], [[5, 6], [12, 4], [16, 13]]]
    assert objects.centres.tolist() == [[3, 3], [10, 3], [13, 10]]  # 2.5 and 9.5 go up, and so does 2.5 of b


def test_centres_at_a_half_are_rounded_up_not_to_even() -> None:
    ids = torch.tensor([[[1, 1, 2, 2, 0, 3, 3, 4, 4]]])  # 0.5, 2.5, 5.5, 7.5
    assert Objects(ids).centres[:, 1].tolist() == [1, 3, 6, 8]


def test_permuted_ids_permute_the_list() -> None:
    ids, values = random_labels((16, 13), 6, seed=9), random_probabilities((2, 16, 13), seed=11)
    new = torch.tensor([0, 4, 6, 1, 5, 2, 3])
    a, b = Objects(ids), Objects(new[ids])
    where = {name: i for i, name in enumerate(names_of(b))}
    order = torch.tensor([where[s, int(new[i])] for s, i in names_of(a)])
    torch.testing.assert_close(b.sums(values)[order], a.sums(values))
    assert torch.equal(b.size[order], a.size)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_every_integer_type_will_do(dtype: torch.dtype) -> None:
    ids = random_labels((7, 6, 9), 5, seed=12)
    ids = (ids > 0).long() if dtype == torch.bool else ids
    a, b = Objects(ids), Objects(ids.to(dtype))
    for name in ("sample", "id", "size", "voxel", "member"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def test_negative_ids_are_background() -> None:
    """nnU-Net pads segmentations with -1."""
    objects = Objects(torch.tensor([[-1, 1, 0]]))
    assert (objects.size.tolist(), objects.background_size.tolist()) == ([1], [2])


def test_an_image_without_ids_has_only_background() -> None:
    objects = Objects(torch.zeros(2, 3, 4, dtype=torch.int64))
    assert (len(objects), objects.number.tolist(), objects.background_size.tolist()) == (0, [0, 0], [12, 12])
    values = torch.ones(2, 3, 4)
    assert objects.sums(values).shape == (0,)
    assert objects.background_sums(everywhere(values), objects.gather(values)).tolist() == [12, 12]
    assert objects.centres.shape == objects.boxes[0].shape == (0, 2)


def test_sums_are_differentiable() -> None:
    objects = Objects(random_labels((4, 5), 3, seed=14), valid=random_mask((2, 4, 5), seed=15))
    values = random_probabilities((2, 4, 5), seed=16).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: objects.sums(v**2), values)
    assert torch.autograd.gradcheck(lambda v: objects.background_sums(everywhere(v**2), objects.gather(v**2)), values)


def test_sums_of_single_precision_values_are_double() -> None:
    ids = torch.ones(1, 2**22, dtype=torch.uint8)
    ids[:, -1] = 2
    objects = Objects(ids)
    values = torch.full((1, 2**22), 0.1)
    assert objects.sums(values).dtype == torch.float64
    torch.testing.assert_close(objects.sums(values)[0].item(), float(values[0, 0]) * (2**22 - 1), rtol=1e-12, atol=0)


def test_shapes_that_differ_are_refused() -> None:
    ids = torch.zeros(1, 4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"valid must have the shape of ids, \(1, 4, 5\), got \(1, 5, 4\)"):
        Objects(ids, valid=torch.zeros(1, 5, 4, dtype=torch.bool))
