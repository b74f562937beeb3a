from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from geometry import SHAPES, Box, generator, random_mask
from losses.plain import diou

from nnunet_instance_trainers.instances import boxes
from nnunet_instance_trainers.instances.boxes import Boxes, count_around, draw_cubes, nearest_boxes, voxels, widen


def random_boxes(n: int, dim: int, seed: int, *, spread: int = 12) -> Boxes:
    low = torch.randint(0, spread, (n, dim), generator=generator(seed))
    return low, low + torch.randint(1, 6, (n, dim), generator=generator(seed + 1))


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
    assert voxels(mask).tolist() == mask.flatten(1).sum(1).tolist()


def test_counts_beyond_the_range_of_int16() -> None:
    mask = torch.ones(1, 200, 200, dtype=torch.bool)
    middle = torch.tensor([[100, 100]])
    assert count_around(mask, torch.tensor([0]), middle, (95, 90)).tolist() == [191 * 181]


def brute(a: Boxes, b: Boxes) -> np.ndarray:
    lists = [list(zip(low.tolist(), high.tolist())) for low, high in (a, b)]
    return np.array([[diou(x, y) for y in lists[1]] for x in lists[0]])


@pytest.mark.parametrize("few", [2_000_000, 1])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 40), (9, 13), (60, 45)])
@pytest.mark.parametrize("dim", [2, 3])
def test_nearest_boxes_equal_plain_loops(dim: int, n: int, m: int, few: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """By all pairs, and by the search tree that takes over where there are many."""
    monkeypatch.setattr(boxes, "_FEW_PAIRS", few)
    for spread in (12, 100):
        a, b = random_boxes(n, dim, seed=n, spread=spread), random_boxes(m, dim, seed=m + 100, spread=spread)
        b[0][0], b[1][0] = a[0][0], a[1][0]
        b[1][m // 2] += 30  # one large box among small ones
        table = brute(a, b)
        of_a, of_b = nearest_boxes(*[tuple(corner.double() for corner in side) for side in (a, b)])
        np.testing.assert_allclose(of_a, table.min(1), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(of_b, table.min(0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_the_search_tree_misses_no_nearest_box(seed: int) -> None:
    """2000 x 1500 boxes of very different size, in clusters, against all pairs."""
    sides = []
    for k, n in enumerate((2000, 1500)):
        g = generator(10 * seed + k)
        cluster = torch.randint(0, 5, (n, 1), generator=g) * 60.0
        low = (cluster + torch.randint(0, 40, (n, 3), generator=g)).double()
        sides.append((low, low + 1 + (torch.rand(n, 3, generator=g).double() * 3.5).exp().floor()))
    of_a, of_b = nearest_boxes(*sides)
    (low_a, high_a), (low_b, high_b) = sides
    best_b = torch.full((1500,), torch.inf).double()
    for rows in torch.arange(2000).split(250):
        low, high = low_a[rows, None], high_a[rows, None]
        shared = (torch.minimum(high, high_b) - torch.maximum(low, low_b)).clamp(min=0).prod(-1)
        union = (high - low).prod(-1) + (high_b - low_b).prod(-1) - shared
        rho = ((low + high - low_b - high_b) / 2).square().sum(-1)
        table = 1 - shared / union + rho / (torch.maximum(high, high_b) - torch.minimum(low, low_b)).square().sum(-1)
        torch.testing.assert_close(of_a[rows], table.amin(1), rtol=1e-12, atol=1e-15)
        best_b = torch.minimum(best_b, table.amin(0))
    torch.testing.assert_close(of_b, best_b, rtol=1e-12, atol=1e-15)


def test_a_larger_box_may_be_nearer_than_closer_ones(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Twelve boxes 10 wide and 30 away are the closest, and sixteen far away the largest; one 18 wide is nearest."""
    monkeypatch.setattr(boxes, "_FEW_PAIRS", 1)
    centres = [(30 + 0.1 * k, 0, 0) for k in range(12)] + [(36, 0, 0)] + [(-900 - 40 * k, 0, 0) for k in range(16)]
    widths = torch.tensor([10.0] * 12 + [18] + [30] * 16)[:, None].double()
    b = torch.tensor(centres).double() - widths / 2
    a = torch.full((1, 3), -0.5).double()
    of_a, _ = nearest_boxes((a, a + 1), (b, b + widths))
    assert of_a.item() == pytest.approx(1 + 36**2 / (45.5**2 + 2 * 18**2))


def test_distances_by_hand() -> None:
    """Boxes of 8 and 9 that share 1; centres (1, 2) and (2.5, 4.5); around both 4 x 6."""
    a, b = (torch.tensor([[0.0, 0]]), torch.tensor([[2.0, 4]])), (torch.tensor([[1.0, 3]]), torch.tensor([[4.0, 6]]))
    expected = 1 - 1 / (8 + 9 - 1) + (1.5**2 + 2.5**2) / (4**2 + 6**2)
    for pair in product(*[[a, b]] * 2):
        of_a, of_b = nearest_boxes(*pair)
        assert of_a.item() == of_b.item() == pytest.approx(0 if pair[0] is pair[1] else expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in kB")
def test_many_boxes_need_little_memory() -> None:
    """3000 x 3000 boxes stay below 300 MB; all pairs at once would take several temporaries of 36 MB per axis."""
    code = """
import resource, torch
from nnunet_instance_trainers.instances.boxes import nearest_boxes
torch.set_num_threads(1)
low = torch.rand(3000, 3) * 100
boxes = low, low + 1 + torch.rand(3000, 3) * 9
nearest_boxes((low[:2], boxes[1][:2]), boxes)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest_boxes(boxes, (low + 0.5, boxes[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 200
