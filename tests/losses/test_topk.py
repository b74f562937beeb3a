from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry import SHAPES, random_labels, random_mask, random_probabilities
from gradients import gradients_are_right
from losses.plain import S, assert_same, with_gradient
from torch import Tensor

from nnunet_instance_trainers.losses import topk_dice_loss


def plain(p: Tensor, target: Tensor, k_percent: int = 50, valid: Tensor | None = None) -> Tensor:
    """Voxel by voxel; of equal ones the later is dropped first."""
    losses = []
    for b in range(len(p)):
        ok = torch.ones_like(target[b], dtype=torch.bool) if valid is None else valid[b]
        inside, outside = p[b][(target[b] > 0) & ok], p[b][(target[b] == 0) & ok]
        best_first = sorted(range(len(inside)), key=lambda i: (inside[i].item(), i), reverse=True)
        dropped = len(inside) * (100 - k_percent) // 100
        kept = inside[sorted(best_first[dropped:])]
        losses.append(1 - (2 * kept.sum() + S) / (kept.square().sum() + len(kept) + outside.square().sum() + S))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("k_percent", [1, 30, 50, 90, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_plain_loop(shape: tuple[int, ...], k_percent: int, masked: bool) -> None:
    """Value and gradient; one sample without foreground; ties, too."""
    target = random_labels(shape, 6, seed=1, batch=3)
    target[1] = 0
    valid = random_mask(target.shape, seed=2) if masked else None
    p = random_probabilities(target.shape, seed=3)
    for prediction in (p, (p * 4).round() / 4, torch.full_like(p, 0.5)):
        fast = with_gradient(topk_dice_loss, prediction, target, k_percent=k_percent, valid=valid)
        slow = with_gradient(plain, prediction, target, k_percent=k_percent, valid=valid)
        assert_same(fast, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("k_percent", [30, 50])
def test_golden_values(golden: Path, k_percent: int) -> None:
    """Given per sample, where there is foreground."""
    expected, n_cases = json.loads((golden / "expected.json").read_text()), 0
    for case, values in expected.items():
        of_samples = values.get(f"topk_dice_{k_percent}_per_sample")
        if of_samples is None:
            continue
        n_cases += 1
        arrays = np.load(golden / "cases" / f"{case}.npz")
        p, ids = torch.from_numpy(arrays["pred"])[:, 0], torch.from_numpy(arrays["instances"])[:, 0]
        for b, value in enumerate(of_samples):
            sample = p[b : b + 1], ids[b : b + 1]
            found = topk_dice_loss(sample[0].double(), sample[1], k_percent=k_percent)
            assert found.item() == pytest.approx(value, abs=1e-9, rel=0), case
            assert topk_dice_loss(*sample, k_percent=k_percent).item() == pytest.approx(value, rel=2e-6, abs=1e-7), case
        assert topk_dice_loss(p, ids, k_percent=k_percent).item() == pytest.approx(np.mean(of_samples), rel=2e-6)
    assert n_cases >= 12


def test_hand_number() -> None:
    p, target = torch.tensor([[0.75, 0.25, 0.5, 0.5, 0.25]]), torch.tensor([[1, 3, 3, 0, 0]])
    # K = 50 of 3 drops one, 0.75; the background is 0.5 and 0.25.
    expected = 1 - 2 * 0.75 / (0.0625 + 0.25 + 2 + 0.25 + 0.0625)
    assert topk_dice_loss(p, target).item() == pytest.approx(expected, abs=1e-5)
    # K = 30 drops two: floor(2.1)
    expected = 1 - 2 * 0.25 / (0.0625 + 1 + 0.25 + 0.0625)
    assert topk_dice_loss(p, target, k_percent=30).item() == pytest.approx(expected, abs=1e-5)


def test_all_of_it_is_dice_with_squares() -> None:
    target, p = random_labels((16, 13), 5, seed=4) > 0, random_probabilities((2, 16, 13), seed=5)

    def dice(p: Tensor) -> Tensor:
        hits, squares = (p * target).flatten(1).sum(1), p.square().flatten(1).sum(1)
        return (1 - (2 * hits + S) / (squares + target.flatten(1).sum(1) + S)).mean()

    assert_same(with_gradient(topk_dice_loss, p, target, k_percent=100), with_gradient(dice, p))


@pytest.mark.parametrize("k_percent", [*range(5, 100, 5), 1, 33, 99])
def test_the_number_dropped_is_rounded_down_exactly(k_percent: int) -> None:
    """With p = 1 in the foreground and nothing else, the loss of a dropped share is 0; so count by the gradient."""
    for n in (1, 2, 3, 7, 10, 20, 100, 999, 1000):
        p = torch.linspace(0.1, 0.9, n)[None]
        _, gradient = with_gradient(topk_dice_loss, p, torch.ones_like(p), k_percent=k_percent)
        assert int((gradient == 0).sum()) == int((1 - Fraction(k_percent, 100)) * n), n


def test_the_best_are_dropped_and_the_worst_are_raised() -> None:
    p, target = torch.tensor([[0.9, 0.2, 0.6, 0.3, 0.4]]), torch.tensor([[1, 1, 1, 1, 0]])
    _, gradient = with_gradient(topk_dice_loss, p, target)
    assert [int(x) for x in gradient[0].sign()] == [0, -1, 0, -1, 1]


def test_a_lower_share_costs_more() -> None:
    p, target = random_probabilities((2, 16, 13), seed=6), random_labels((16, 13), 5, seed=7)
    losses = [topk_dice_loss(p, target, k_percent=k).item() for k in (10, 30, 50, 80, 100)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 5


def test_nothing_to_find_and_all_ignored() -> None:
    p, nothing = random_probabilities((2, 5, 6), seed=8), torch.zeros(2, 5, 6, dtype=torch.bool)
    assert topk_dice_loss(p, nothing).item() == pytest.approx(1, abs=1e-5)
    assert topk_dice_loss(p * 0, nothing).item() == pytest.approx(0)
    value, gradient = with_gradient(topk_dice_loss, p, ~nothing, valid=nothing)
    assert value == 0
    assert (gradient == 0).all()


def test_gradcheck() -> None:
    target, valid = random_labels((4, 3), 3, seed=9), random_mask((2, 4, 3), seed=10)
    p = random_probabilities((2, 4, 3), seed=11).requires_grad_()
    assert gradients_are_right(lambda p: topk_dice_loss(p, target, valid=valid), p)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_equals_float32_on_the_same_numbers(dtype: torch.dtype) -> None:
    target, half = random_labels((16, 13), 5, seed=12), random_probabilities((2, 16, 13), seed=13).to(dtype)
    expected = topk_dice_loss(half.float(), target)
    assert topk_dice_loss(half, target) == expected
    with torch.autocast("cpu", dtype=dtype):
        assert topk_dice_loss(half, target) == expected


@pytest.mark.parametrize("k_percent", [0, -1, 100.5])
def test_shares_out_of_range_are_refused(k_percent: float) -> None:
    with pytest.raises(ValueError, match=rf"k_percent must be above 0 and up to 100, got {k_percent}"):
        topk_dice_loss(torch.rand(1, 4, 5), torch.ones(1, 4, 5), k_percent=k_percent)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape \(B, \*S\), got \(1, 4, 5\) and \(1, 5, 4\)"):
        topk_dice_loss(torch.rand(1, 4, 5), torch.ones(1, 5, 4))
