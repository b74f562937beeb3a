from __future__ import annotations

import pytest
import torch
from geometry import SHAPES, Box, generator, random_mask

from nnunet_instance_trainers.instances.cubes import count_around, cube_sizes, draw_cubes, widen


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


def two_scales(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Three images of a shape and two of another, and none beside the border is as long as a cube."""
    return [(3, *shape), (2, *(n - 2 for n in shape))]


def centres_in(shapes: list[tuple[int, ...]], samples: list[int]) -> torch.Tensor:
    sizes = [size for n, *size in shapes for _ in range(n)]
    places = [
        [torch.randint(0, n, (1,), generator=generator(n + i)).item() for n in sizes[s]] for i, s in enumerate(samples)
    ]
    places[0], places[1] = [0] * len(sizes[0]), [n - 1 for n in sizes[samples[1]]]
    return torch.tensor(places)


@pytest.mark.parametrize("shape", SHAPES)
def test_cubes_are_clipped_and_merged(shape: tuple[int, ...]) -> None:
    """At two scales; their sizes are those of what is drawn of one alone."""
    reach, shapes, samples = (2, 0, 3)[: len(shape)], two_scales(shape), [0, 0, 2, 2, 4, 3, 4]
    sample, centres = torch.tensor(samples), centres_in(shapes, samples)
    expected = [torch.zeros(size, dtype=torch.bool) for size in shapes]
    images = [image for scale in expected for image in scale]
    sizes = []
    for b, centre in zip(samples, centres.tolist()):
        low = tuple(max(c - r, 0) for c, r in zip(centre, reach))
        cube = Box(low, tuple(c + r + 1 for c, r in zip(centre, reach))).mask(images[b].shape)
        images[b] |= cube
        sizes.append(int(cube.sum()))
    none, found = draw_cubes(shapes, [(sample[:0], centres[:0]), (sample, centres)], reach)
    assert all(map(torch.equal, found, expected))
    assert not any(picture.any() for picture in none)
    assert cube_sizes(shapes, sample, centres, reach).tolist() == sizes


@pytest.mark.parametrize("reach", [(0, 0, 0), (1, 2, 3), (30, 1, 30), (20, 20, 20)])
@pytest.mark.parametrize("shape", SHAPES)
def test_counts_around_centres_equal_plain_loops(shape: tuple[int, ...], reach: tuple[int, ...]) -> None:
    """Also at corners, and in cubes wider than the image; at two scales."""
    reach, shapes = reach[: len(shape)], two_scales(shape)
    masks = [random_mask(size, seed=2, share=0.4) for size in shapes]
    images = [image for scale in masks for image in scale]
    samples = [0, *torch.randint(0, 5, (39,), generator=generator(3)).tolist()]
    centres = centres_in(shapes, samples)
    counts = count_around(masks, torch.tensor(samples), centres, reach)
    assert counts.dtype == torch.int64
    for total, b, centre in zip(counts.tolist(), samples, centres.tolist()):
        assert total == images[b][tuple(slice(max(c - r, 0), c + r + 1) for c, r in zip(centre, reach))].sum()


def test_counts_beyond_the_range_of_int16() -> None:
    mask = torch.ones(1, 200, 200, dtype=torch.bool)
    middle = torch.tensor([[100, 100]])
    assert count_around([mask], torch.tensor([0]), middle, (95, 90)).tolist() == [191 * 181]
