from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from geometry import generator
from losses.plain import diou
from torch import Tensor

from nnunet_instance_trainers.instances import nearest
from nnunet_instance_trainers.instances.nearest import nearest_boxes

Boxes = tuple[Tensor, Tensor]


def random_boxes(n: int, dim: int, seed: int, *, spread: int = 12) -> Boxes:
    low = torch.randint(0, spread, (n, dim), generator=generator(seed))
    return low, low + torch.randint(1, 6, (n, dim), generator=generator(seed + 1))


def brute(a: Boxes, b: Boxes) -> np.ndarray:
    lists = [list(zip(low.tolist(), high.tolist())) for low, high in (a, b)]
    return np.array([[diou(x, y) for y in lists[1]] for x in lists[0]])


@pytest.mark.parametrize("at_once", [1 << 15, 50, 1])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 40), (9, 13), (60, 45)])
@pytest.mark.parametrize("dim", [2, 3])
def test_nearest_boxes_equal_plain_loops(dim: int, n: int, m: int, at_once: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """However many pairs are computed at once."""
    monkeypatch.setattr(nearest, "_IN_CACHE", at_once)
    for spread in (12, 100):
        a, b = random_boxes(n, dim, seed=n, spread=spread), random_boxes(m, dim, seed=m + 100, spread=spread)
        b[0][0], b[1][0] = a[0][0], a[1][0]
        b[1][m // 2] += 30  # one large box among small ones
        table = brute(a, b)
        of_a, of_b = nearest_boxes(a, b)
        np.testing.assert_allclose(of_a, table.min(1), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(of_b, table.min(0), rtol=1e-6, atol=1e-6)


def clustered(n: int, seed: int) -> Boxes:
    """Boxes 1 to 33 wide in five clusters, long and flat ones among them."""
    g = generator(seed)
    low = torch.randint(0, 5, (n, 1), generator=g) * 60.0 + torch.randint(0, 40, (n, 3), generator=g)
    return low, low + 1 + (torch.rand(n, 3, generator=g) * 3.5).exp().floor()


@pytest.mark.parametrize("seed", range(3))
def test_the_candidates_of_many_boxes_are_hardly_farther_than_the_nearest(seed: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """2000 x 1500 boxes: never below the exact values, on average at most two per cent above."""
    sides = clustered(2000, 2 * seed), clustered(1500, 2 * seed + 1)
    candidates = nearest_boxes(*sides)
    monkeypatch.setattr(nearest, "_ALL_PAIRS", 3_000_000)
    for found, exact in zip(candidates, nearest_boxes(*sides)):
        assert (found >= exact).all() and not torch.equal(found, exact)
        assert found.mean() < 1.02 * exact.mean()


def test_a_larger_box_may_be_nearer_than_closer_ones(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Twelve boxes 10 wide and 30 away have the closest centres; one 50 wide and 36 away is nearest, and is found."""
    monkeypatch.setattr(nearest, "_ALL_PAIRS", 1)
    centres = [(30 + 0.1 * k, 0, 0) for k in range(12)] + [(36, 0, 0)]
    widths = torch.tensor([10.0] * 12 + [50])[:, None]
    b = torch.tensor(centres) - widths / 2
    a = torch.full((1, 3), -0.5)
    of_a, _ = nearest_boxes((a, a + 1), (b, b + widths))
    assert of_a.item() == pytest.approx(1 + 36**2 / (61.5**2 + 2 * 50**2))


def test_distances_by_hand() -> None:
    """Boxes of 8 and 9 that share 1; centres (1, 2) and (2.5, 4.5); around both 4 x 6."""
    a, b = (torch.tensor([[0.0, 0]]), torch.tensor([[2.0, 4]])), (torch.tensor([[1.0, 3]]), torch.tensor([[4.0, 6]]))
    expected = 1 - 1 / (8 + 9 - 1) + (1.5**2 + 2.5**2) / (4**2 + 6**2)
    for pair in product(*[[a, b]] * 2):
        of_a, of_b = nearest_boxes(*pair)
        assert of_a.item() == of_b.item() == pytest.approx(0 if pair[0] is pair[1] else expected)


@pytest.mark.parametrize("all_pairs", [2_000_000, 9_000_000])
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in kB")
def test_many_boxes_need_little_memory(all_pairs: int) -> None:
    """3000 x 3000 boxes stay below 200 MB; all pairs at once would take several temporaries of 36 MB per axis."""
    code = f"""
import resource, torch
from nnunet_instance_trainers.instances import nearest
torch.set_num_threads(1)
nearest._ALL_PAIRS = {all_pairs}
low = torch.rand(3000, 3) * 100
boxes = low, low + 1 + torch.rand(3000, 3) * 9
nearest.nearest_boxes((low[:2], boxes[1][:2]), boxes)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest.nearest_boxes(boxes, (low + 0.5, boxes[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 200
