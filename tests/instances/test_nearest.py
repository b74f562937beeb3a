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

Boxes = tuple[Tensor, Tensor, Tensor]


def random_boxes(n: int, dim: int, seed: int, *, spread: int = 12, n_samples: int = 1) -> Boxes:
    g = generator(seed)
    low = torch.randint(0, spread, (n, dim), generator=g)
    return torch.randint(0, n_samples, (n,), generator=g), low, low + torch.randint(1, 6, (n, dim), generator=g)


def brute(a: Boxes, b: Boxes) -> np.ndarray:
    """(N, M) DIoU losses by plain loops, infinite between samples."""
    lists = [list(zip(sample.tolist(), low.tolist(), high.tolist())) for sample, low, high in (a, b)]
    return np.array([[diou(x[1:], y[1:]) if x[0] == y[0] else np.inf for y in lists[1]] for x in lists[0]])


def all_pairs(a: Boxes, b: Boxes) -> tuple[Tensor, Tensor]:
    """The same minima of many boxes, by the formula over all pairs in float64, row by row."""
    sides = [(sample, low.double(), high.double()) for sample, low, high in (a, b)]
    of_a, of_b = torch.full((len(a[0]),), torch.inf).double(), torch.full((len(b[0]),), torch.inf).double()
    samples, lows, highs = sides[1]
    volumes = (highs - lows).prod(1)
    for n, (sample, low, high) in enumerate(zip(*sides[0])):
        shared = (torch.minimum(high, highs) - torch.maximum(low, lows)).clamp(min=0).prod(1)
        around = (torch.maximum(high, highs) - torch.minimum(low, lows)).square().sum(1)
        apart = ((low + high - lows - highs) / 2).square().sum(1)
        losses = 1 - shared / ((high - low).prod() + volumes - shared) + apart / around
        losses[samples != sample] = torch.inf
        of_a[n], of_b = losses.min(), torch.minimum(of_b, losses)
    return of_a, of_b


@pytest.mark.parametrize("at_once", [1 << 14, 50, 1])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 40), (9, 13), (60, 45)])
@pytest.mark.parametrize("dim", [2, 3])
def test_nearest_boxes_equal_plain_loops(dim: int, n: int, m: int, at_once: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """However many pairs are computed at once, in one sample and in several, some of which lack boxes of one side."""
    monkeypatch.setattr(nearest, "_PAIRS", at_once)
    monkeypatch.setattr(nearest, "_LINES", at_once)
    for spread, n_samples in ((12, 1), (100, 1), (30, 3)):
        a = random_boxes(n, dim, seed=n, spread=spread, n_samples=n_samples)
        b = random_boxes(m, dim, seed=m + 100, spread=spread, n_samples=n_samples)
        for mine, its in zip(a, b):
            its[0] = mine[0]  # the same box
        b[2][m // 2] += 30  # one large box among small ones
        table = brute(a, b)
        of_a, of_b = nearest_boxes(a, b)
        np.testing.assert_allclose(of_a, table.min(1), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(of_b, table.min(0), rtol=1e-6, atol=1e-6)


def clustered(n: int, seed: int) -> Boxes:
    """Boxes 1 to 33 wide in five clusters, long and flat ones among them, that overlap a lot."""
    g = generator(seed)
    low = torch.randint(0, 5, (n, 1), generator=g) * 60.0 + torch.randint(0, 40, (n, 3), generator=g)
    return torch.zeros(n).int(), low, low + 1 + (torch.rand(n, 3, generator=g) * 3.5).exp().floor()


def scattered(n: int, seed: int, *, n_samples: int, dim: int, extent: int, largest: int) -> Boxes:
    """Many small boxes and few large ones, as noise has them; sizes are spread over orders of magnitude."""
    g = generator(seed)
    low = torch.randint(0, extent, (n, dim), generator=g)
    edges = 1 + (largest ** torch.rand(n, dim, generator=g).pow(6)).floor() * torch.rand(n, dim, generator=g)
    return torch.randint(0, n_samples, (n,), generator=g), low, low + edges.floor().long()


def with_hole(boxes: Boxes) -> Boxes:
    """Without those in the middle, 100 wide."""
    return tuple(part[((boxes[1] - 150).abs() > 50).any(1)] for part in boxes)


def shifted(boxes: Boxes, *, sample: int = 0, by: int = 0) -> Boxes:
    return boxes[0] + sample, boxes[1] + by, boxes[2] + by


def joined(*boxes: Boxes) -> Boxes:
    return tuple(torch.cat(parts) for parts in zip(*boxes))


def in_one_line(n: int, seed: int) -> Boxes:
    """All centres in a few hundred places of one line, but for one far away in it."""
    g = generator(seed)
    low = torch.randint(0, 300, (n, 3), generator=g) * torch.tensor([0, 1, 0])
    low[0, 1] = 1000
    return torch.randint(0, 2, (n,), generator=g), low, low + torch.tensor([1, 3, 1])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (clustered(900, 0), clustered(700, 1)),
        (clustered(3, 2), clustered(1500, 3)),
        *[
            (
                scattered(n, n, n_samples=samples, dim=dim, extent=extent, largest=largest),
                scattered(m, m + 1, n_samples=samples, dim=dim, extent=extent, largest=largest),
            )
            for n, m, samples, dim, extent, largest in (
                (300, 4000, 2, 3, 64, 60),
                (500, 3000, 3, 2, 256, 250),
                (800, 2000, 1, 3, 128, 4),
                (20, 3000, 4, 2, 512, 100),
                (400, 2500, 1, 2, 3, 3),  # nearly all centres in a few places
            )
        ],
        (in_one_line(200, 7), in_one_line(1000, 8)),
        # A sample of many beside nine of one each, so that it has more boxes than cells, and a box far from all.
        (
            joined(random_boxes(300, 2, seed=1, spread=50), shifted(random_boxes(1, 2, seed=2), by=10**6)),
            joined(
                random_boxes(1500, 2, seed=3, spread=50),
                *(shifted(random_boxes(1, 2, seed=n), sample=n) for n in range(1, 10)),
            ),
        ),
    ],
)
def test_the_nearest_of_many_boxes_is_found_whatever_their_sizes(a: Boxes, b: Boxes) -> None:
    for found, expected in zip(nearest_boxes(a, b), all_pairs(a, b)):
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


MANY = random_boxes(4000, 3, seed=0, spread=300)
FEW = random_boxes(3, 3, seed=2, spread=300)


@pytest.mark.parametrize(
    ("a", "b", "at_most"),
    [
        (random_boxes(4000, 3, seed=1, spread=300), MANY, 100),
        (shifted(random_boxes(300, 3, seed=1, spread=60), by=120), with_hole(MANY), 500),
        # Beside a sample of many, one that has few: its boxes look at these, not at thousands of cells.
        (shifted(random_boxes(4000, 3, seed=1, spread=300), sample=1), joined(MANY, shifted(FEW, sample=1)), 10),
        (shifted(random_boxes(4000, 3, seed=1, spread=300), sample=1), MANY, 3),
        (in_one_line(1000, 3), in_one_line(1000, 4), 100),
    ],
)
def test_small_boxes_in_a_large_image_look_at_few(a: Boxes, b: Boxes, at_most: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Lines of cells and boxes for each: among 4000, in a hole among them, in samples with few, in flat images."""
    looked_at = 0

    def counted(method):  # type: ignore[no-untyped-def]
        def wrapper(*args):  # type: ignore[no-untyped-def]
            nonlocal looked_at
            first, number = method(*args)
            looked_at += number.size + int(number.sum())
            return first, number

        return wrapper

    for name in ("_lines", "_all"):
        monkeypatch.setattr(nearest._Grid, name, counted(getattr(nearest._Grid, name)))
    nearest._nearest(nearest._centred(*a), nearest._centred(*b))
    assert 0 < looked_at < at_most * len(a[0]), looked_at / len(a[0])


@pytest.mark.parametrize("dim", [2, 3])
def test_no_box_is_nearer_than_the_loss_from_which_the_reach_follows(dim: int) -> None:
    """100,000 pairs of all proportions: who has found a loss a little larger looks at least that far."""
    g = np.random.default_rng(0)
    half = 2 ** g.uniform(-1, 5, (2, dim, 100_000)).astype(np.float32)
    apart = (half.sum(0) * 2 ** g.uniform(-5, 5, half.shape[2]) * g.random(half.shape[1:])).astype(np.float32)
    a, b = np.concatenate((0 * apart, half[0])), np.concatenate((apart, half[1]))
    found = nearest._losses(a, b) * 1.001 + 1e-4
    reach = nearest._reach(found, half[0], half[1] * g.choice([1, 3], half.shape[1:]).astype(np.float32))
    assert (reach >= apart.max(0)).all()
    assert np.mean(reach < 3 * apart.max(0)) > 0.3  # nor much farther


def test_a_larger_box_may_be_nearer_than_closer_ones() -> None:
    """Twelve boxes 10 wide and 30 away have the closest centres; one 50 wide and 36 away is nearest, and is found.

    So it is where forty more, far away, make the closest ones one of many.
    """
    centres = [(30 + 0.1 * k, 0, 0) for k in range(12)] + [(400 + k, 0, 0) for k in range(40)] + [(36, 0, 0)]
    widths = torch.tensor([10.0] * 52 + [50])[:, None]
    a = torch.full((1, 3), -0.5)
    for chosen in (slice(None), [*range(12), 52]):
        b = torch.tensor(centres)[chosen] - widths[chosen] / 2
        of_a, _ = nearest_boxes((torch.zeros(1), a, a + 1), (torch.zeros(len(b)), b, b + widths[chosen]))
        assert of_a.item() == pytest.approx(1 + 36**2 / (61.5**2 + 2 * 50**2))


def test_distances_by_hand() -> None:
    """Boxes of 8 and 9 that share 1; centres (1, 2) and (2.5, 4.5); around both 4 x 6."""
    a = torch.tensor([0]), torch.tensor([[0.0, 0]]), torch.tensor([[2.0, 4]])
    b = torch.tensor([0]), torch.tensor([[1.0, 3]]), torch.tensor([[4.0, 6]])
    expected = 1 - 1 / (8 + 9 - 1) + (1.5**2 + 2.5**2) / (4**2 + 6**2)
    for pair in product(*[[a, b]] * 2):
        of_a, of_b = nearest_boxes(*pair)
        assert of_a.item() == of_b.item() == pytest.approx(0 if pair[0] is pair[1] else expected)


def test_boxes_of_other_samples_are_nowhere() -> None:
    box = torch.tensor([[0, 0]]), torch.tensor([[2, 2]])
    of_a, of_b = nearest_boxes((torch.tensor([0]), *box), (torch.tensor([1]), *box))
    assert of_a.isinf().all() and of_b.isinf().all()
    of_none, of_one = nearest_boxes(tuple(part[:0] for part in (torch.tensor([0]), *box)), (torch.tensor([1]), *box))
    assert of_none.shape == (0,) and of_one.isinf().all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in kB")
def test_many_boxes_need_little_memory() -> None:
    """2500 x 2500 boxes that all meet, or in two places (25 MB per temporary of all pairs), and 30,000 scattered."""
    code = """
import re, torch
from pathlib import Path
from nnunet_instance_trainers.instances.nearest import nearest_boxes
torch.set_num_threads(1)
def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
together, scattered = torch.rand(2500, 3), torch.rand(30000, 3) * 300
for low in (together * 3, together + torch.arange(2500)[:, None] % 2 * 999, scattered):
    boxes = torch.zeros(len(low)), low, low + 1 + torch.rand(len(low), 3) * 9
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    nearest_boxes(boxes, (boxes[0], low + 0.5, boxes[2]))
    print((memory("VmHWM") - before) / 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    peaks = [float(line) for line in run.stdout.splitlines()]
    assert len(peaks) == 3 and peaks[0] > 0 and max(peaks) < 20, peaks
