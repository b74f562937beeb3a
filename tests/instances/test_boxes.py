from __future__ import annotations

import inspect
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from geometry import SHAPES, Box, generator, random_labels, random_mask
from losses.plain import diou
from torch import Tensor

from nnunet_instance_trainers.instances.boxes import box_sums, draw_cubes, nearest_boxes, widen


def random_boxes(n: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    low = torch.randint(0, 12, (n, dim), generator=generator(seed))
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
                expected[tuple(at[:axis] + [x] + at[axis + 1 :])] = True
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


@pytest.mark.parametrize("shape", SHAPES)
def test_box_sums_equal_plain_loops(shape: tuple[int, ...]) -> None:
    mask = random_mask((3, *shape), seed=2, share=0.4)
    n, size = 40, torch.tensor(shape)
    sample = torch.randint(0, 3, (n,), generator=generator(3))
    ends = torch.rand(2, n, len(shape), generator=generator(4))
    ends = (ends * (size + 1)).long().sort(0).values  # some are empty, some reach to the end
    ends[:, 0] = torch.stack([torch.zeros_like(size), size])
    sums = box_sums(mask, sample, *ends)
    for total, b, low, high in zip(sums.tolist(), sample.tolist(), *ends.tolist()):
        assert total == mask[b][tuple(slice(i, j) for i, j in zip(low, high))].sum()
    assert sums[0] == mask[sample[0]].sum()


@pytest.mark.parametrize("rows", [1, 4, 256])
@pytest.mark.parametrize("dim", [2, 3])
def test_nearest_boxes_equal_plain_loops(dim: int, rows: int) -> None:
    (low_a, high_a), (low_b, high_b) = (random_boxes(n, dim, seed=n) for n in (9, 13))
    low_b[0], high_b[0] = low_a[0], high_a[0]
    a, b = [list(zip(x.tolist(), y.tolist())) for x, y in ((low_a, high_a), (low_b, high_b))]
    table = np.array([[diou(x, y) for y in b] for x in a])
    for of_a, of_b in (
        nearest_boxes((low_a.double(), high_a.double()), (low_b.double(), high_b.double()), rows=rows),
        nearest_boxes((low_b.double(), high_b.double()), (low_a.double(), high_a.double()), rows=rows)[::-1],
    ):
        np.testing.assert_allclose(of_a, table.min(1), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(of_b, table.min(0), rtol=1e-12, atol=1e-15)
    assert of_a[0] == 0


def test_distances_by_hand() -> None:
    """Boxes of 8 and 9 that share 1; centres (1, 2) and (2.5, 4.5); around both 4 x 6."""
    a, b = (torch.tensor([[0.0, 0]]), torch.tensor([[2.0, 4]])), (torch.tensor([[1.0, 3]]), torch.tensor([[4.0, 6]]))
    expected = 1 - 1 / (8 + 9 - 1) + (1.5**2 + 2.5**2) / (4**2 + 6**2)
    for pair in product(*[[a, b]] * 2):
        of_a, of_b = nearest_boxes(*pair)
        assert of_a.item() == of_b.item() == pytest.approx(0 if pair[0] is pair[1] else expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in kB")
def test_rows_bound_the_memory_of_many_boxes() -> None:
    """3000 x 3000 boxes stay below 300 MB; all at once each temporary would take 108 MB."""
    code = """
import resource, torch
from nnunet_instance_trainers.instances.boxes import nearest_boxes
torch.set_num_threads(1)
low = torch.rand(3000, 3) * 100
boxes = low, low + 1 + torch.rand(3000, 3) * 9
nearest_boxes((low[:2], boxes[1][:2]), boxes)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for rows in (256, 3000):
    nearest_boxes(boxes, boxes, rows=rows)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    assert inspect.signature(nearest_boxes).parameters["rows"].default == 256
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    used, used_at_once = map(float, run.stdout.split())
    assert used < 150
    assert used < used_at_once / 2


def test_boxes_of_labels_are_where_the_labels_are() -> None:
    """The sum of a mask over the tight box of all of it is its size."""
    masks = random_labels((16, 13), 5, seed=6) > 0
    at = [mask.nonzero() for mask in masks]
    low, high = torch.stack([x.amin(0) for x in at]), torch.stack([x.amax(0) + 1 for x in at])
    assert box_sums(masks, torch.arange(2), low, high).tolist() == masks.flatten(1).sum(1).tolist()
