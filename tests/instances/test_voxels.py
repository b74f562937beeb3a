from __future__ import annotations

import pytest
import torch
from geometry import SHAPES, generator, random_mask, random_probabilities
from torch import Tensor

from nnunet_instance_trainers.instances import voxels
from nnunet_instance_trainers.instances.voxels import (
    blocks,
    count,
    integers,
    positions,
    read,
    read_with_total,
    sum_over,
    sums_between,
    tally,
    total,
)

on_shapes = pytest.mark.parametrize("shape", [*SHAPES, (7,)])


@pytest.fixture(params=[5, 1 << 17], ids=["in blocks", "at once"])
def _blocks(request, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(voxels, "_BLOCK", request.param)


@on_shapes
@pytest.mark.usefixtures("_blocks")
def test_positions_and_counts_of_masks(shape: tuple[int, ...]) -> None:
    mask = random_mask((3, *shape), seed=1, share=0.3)
    mask[1] = False
    assert positions(mask).tolist() == mask.flatten().nonzero().squeeze(1).tolist()
    assert count(mask).tolist() == mask.flatten(1).sum(1).tolist()
    other = mask.transpose(1, -1)  # not contiguous
    assert positions(other).tolist() == other.flatten().nonzero().squeeze(1).tolist()
    assert len(positions(mask[1])) == 0


def test_lists_are_short_integers_where_they_can_be() -> None:
    assert integers(2**31 - 1) == torch.int32 and integers(2**31) == torch.int64
    assert positions(torch.ones(2, 3, dtype=torch.bool)).dtype == torch.int32


@pytest.mark.parametrize("length", [1, 4, 7])
def test_blocks_are_positions_over_length(length: int) -> None:
    """Empty blocks at the start, in the middle and at the end are passed over."""
    for voxel in ([], [0], [5, 6, 20, 21, 22, 41], list(range(42))):
        place = torch.tensor(voxel, dtype=torch.int32)
        assert blocks(place, 42 // length + 1, length).tolist() == [v // length for v in voxel]


def scales(n_channels: int, shape: tuple[int, ...], seed: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Values of two scales and two lists of places in each, counted from the first channel of a sample."""
    sizes = shape, tuple(max(n // 2, 1) for n in shape)
    values = [random_probabilities((2, n_channels, *size), seed).requires_grad_() for size in sizes]
    lists = []
    for share in (0.4, 0.1):
        masks = [random_mask((2, n_channels, *size), seed + 1, share=share) for size in sizes]
        for mask in masks:
            mask[:, 1:] = False
        lists.append([positions(mask) for mask in masks])
    return values, *lists


@on_shapes
@pytest.mark.parametrize("channels", [(0,), (2,), (1, 0), (0, 1, 2)])
def test_values_that_are_read_and_their_gradient(shape: tuple[int, ...], channels: tuple[int, ...]) -> None:
    """At two scales and in two lists, of which one may be used."""
    values, *lists = scales(3, shape, seed=2)
    found = read(values, *lists, channels=channels)
    for places, gathered in zip(lists, found):
        expected = [
            torch.cat([value.flatten()[place + c * value[0, 0].numel()] for value, place in zip(values, places)])
            for c in channels
        ]
        assert torch.equal(gathered, torch.stack(expected))
    assert torch.autograd.gradcheck(lambda *v: [x**2 for x in read(v, *lists, channels=channels)], values)
    assert torch.autograd.gradcheck(lambda *v: read(v, *lists, channels=channels)[1] ** 2, values)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("n", [0, 1, 5, 23])
def test_sums_over_groups_and_their_gradient(n: int) -> None:
    """The last of five groups is empty."""
    values = random_probabilities((n,), seed=6).requires_grad_()
    groups = torch.arange(n, dtype=torch.int32) * 3 % 4
    expected = [sum(v for v, g in zip(values.tolist(), groups.tolist()) if g == group) + 0.0 for group in range(5)]
    torch.testing.assert_close(sum_over(values, groups, 5).tolist(), expected)
    assert sum_over(values.float(), groups, 5).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda v: sum_over(v, groups, 5) ** 2, values) or n == 0


@pytest.mark.parametrize("largest", [100, 2**31])
def test_sums_of_runs(largest: int) -> None:
    values = torch.tensor([3, 1, 4, 1, 5], dtype=torch.int32)
    for end, expected in (([0, 3, 4], [3, 6, 5]), ([4], [14]), ([], [])):
        sums = sums_between(values[: end[-1] + 1 if end else 0], torch.tensor(end, dtype=torch.int32), largest)
        assert sums.tolist() == expected and sums.dtype == torch.int64


@on_shapes
@pytest.mark.usefixtures("_blocks")
def test_totals_and_their_gradient(shape: tuple[int, ...]) -> None:
    """Of each channel of each sample of each scale."""
    values, places, _ = scales(2, shape, seed=4)
    expected = torch.cat([value.flatten(2).sum(2).flatten() for value in values])
    torch.testing.assert_close(total(values), expected)
    inside, everything = read_with_total(values, places)
    assert torch.equal(inside, read(values, places)[0][0])
    torch.testing.assert_close(everything, expected)

    def both(*v: Tensor) -> Tensor:
        inside, everything = read_with_total(v, places)
        return (inside**2).sum() * everything

    assert torch.autograd.gradcheck(both, values)
    assert torch.autograd.gradcheck(lambda *v: read_with_total(v, places)[1] ** 2, values)
    assert torch.autograd.gradcheck(lambda *v: read_with_total(v, places)[0] ** 2, values)


def test_totals_are_summed_in_double_precision() -> None:
    values = torch.rand(1, 1, 40, 50, 60, generator=generator(6))
    values[0, 0, 0, 0, 0] = 1e8
    assert total([values]).item() == values.double().sum().item()
    assert total([values]).dtype == torch.float64


def test_an_image_that_is_read_twice_gets_both_gradients() -> None:
    values = torch.rand(1, 2, 4, 5, requires_grad=True)
    a, b = torch.tensor([1, 3]), torch.tensor([3, 7])
    first, second = read([values], [a], [b])
    (first.sum() + 2 * second.sum()).backward()
    expected = torch.zeros(1, 2, 20)
    expected[0, 0, [1, 3, 7]] = torch.tensor([1.0, 3.0, 2.0])
    assert torch.equal(values.grad.flatten(2), expected)  # type: ignore[union-attr]


def test_tallies_count_each_group() -> None:
    assert tally(torch.tensor([2, 0, 2], dtype=torch.int32), 4).tolist() == [1, 0, 2, 0]
    assert tally(torch.tensor([], dtype=torch.int64), 2).tolist() == [0, 0]
