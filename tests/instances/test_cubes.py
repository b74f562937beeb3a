from __future__ import annotations

import pytest
import torch
from geometry import SHAPES, Box, generator, random_mask

from nnunet_instance_trainers.instances.cubes import count_around, draw_cubes, widen


@pytest.mark.parametrize("reach", [0, 1, 2, 30])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 4)])
def test_widening_reaches_so_far_and_no_farther(shape: tuple[int, ...], reach: int) -> None:
    mask = random_mask((2, *shape), seed=1, share=0.05)
    for axis in range(1, mask.ndim):
        grown, kept = widen(mask, axis, reach), mask.clone()
        expected = torch.zeros_like(mask)
        for at in mask.nonzero().tolist():
            for x in range(max(at[axis] - reach, 0), min(at[axis] + reach + 1, mask.shape[axis])):
                expected[(*at[:axis], x, *at[axis + 1 :])] = True
        assert torch.equal(grown, expected)
        assert torch.equal(mask, kept)


@pytest.mark.parametrize("shape", SHAPES)
def test_cubes_are_clipped_and_merged(shape: tuple[int, ...]) -> None:
    reach = (2, 0, 3)[: len(shape)]
    sample = torch.tensor([0, 0, 2, 2, 2])
    centres = torch.stack([torch.randint(0, n, (5,), generator=generator(n)) for n in shape], 1)
    centres[0], centres[1] = 0, torch.tensor(shape) - 1
    expected = torch.zeros(3, *shape, dtype=torch.bool)
    for b, centre in zip(sample.tolist(), centres.tolist()):
        low = tuple(max(c - r, 0) for c, r in zip(centre, reach))
        expected[b] |= Box(low, tuple(c + r + 1 for c, r in zip(centre, reach))).mask(shape)
    assert torch.equal(draw_cubes((3, *shape), sample, centres, reach), expected)
    assert not draw_cubes((3, *shape), sample[:0], centres[:0], reach).any()


@pytest.mark.parametrize("reach", [(0, 0, 0), (1, 2, 3), (30, 1, 30), (20, 20, 20)])
@pytest.mark.parametrize("shape", SHAPES)
def test_counts_around_centres_equal_plain_loops(shape: tuple[int, ...], reach: tuple[int, ...]) -> None:
    """Also at corners, and in cubes wider than the image."""
    mask, reach = random_mask((3, *shape), seed=2, share=0.4), reach[: len(shape)]
    sample = torch.randint(0, 3, (40,), generator=generator(3))
    centres = torch.stack([torch.randint(0, n, (40,), generator=generator(n)) for n in shape], 1)
    centres[0], centres[1] = 0, torch.tensor(shape) - 1
    counts = count_around(mask, sample, centres, reach)
    assert counts.dtype == torch.int64
    for total, b, centre in zip(counts.tolist(), sample.tolist(), centres.tolist()):
        assert total == mask[b][tuple(slice(max(c - r, 0), c + r + 1) for c, r in zip(centre, reach))].sum()


def test_counts_beyond_the_range_of_int16() -> None:
    mask = torch.ones(1, 200, 200, dtype=torch.bool)
    middle = torch.tensor([[100, 100]])
    assert count_around(mask, torch.tensor([0]), middle, (95, 90)).tolist() == [191 * 181]
