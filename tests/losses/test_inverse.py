from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry import SHAPES, random_labels, random_mask, random_probabilities
from gradients import gradients_are_right
from losses.plain import S, assert_same, with_gradient
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from nnunet_instance_trainers.losses import inverse_weighted_loss, inverse_weights
from nnunet_instance_trainers.losses.inverse import WEIGHTED_CRITERIA
from nnunet_instance_trainers.losses.named_criteria import ASL, Focal

every_criterion = pytest.mark.parametrize("criterion", WEIGHTED_CRITERIA)


def plain_weights(ids: Tensor, valid: Tensor, max_weight: float | None) -> Tensor:
    """(*S) of one sample, object by object."""
    weights, names = torch.zeros(ids.shape, dtype=torch.float64), [i for i in ids[valid].unique() if i > 0]
    for mask in [(ids == i) & valid for i in names] + [(ids <= 0) & valid]:
        weights[mask] = int(valid.sum()) / ((len(names) + 1) * max(int(mask.sum()), 1))
    return weights if max_weight is None else weights.clamp(max=max_weight)


def plain(
    p: Tensor, ids: Tensor, criterion: str = "bce", max_weight: float | None = None, valid: Tensor | None = None
) -> Tensor:
    """Table 1 voxel by voxel."""
    losses = []
    for b in range(len(p)):
        ok = torch.ones_like(ids[b], dtype=torch.bool) if valid is None else valid[b]
        w, x, y = plain_weights(ids[b], ok, max_weight)[ok], p[b][ok], ((ids[b] > 0) & ok)[ok].to(p.dtype)
        if criterion == "bce":
            losses.append((w * binary_cross_entropy(x, y, reduction="none")).mean())
        elif criterion == "focal":
            right = torch.where(y == 1, x, 1 - x)
            losses.append((w * torch.where(y == 1, 0.75, 0.25) * (1 - right) ** 2 * -right.log()).mean())
        elif criterion == "dice":
            losses.append(1 - (2 * (w * x * y).sum() + S) / ((w * x * x).sum() + (w * y).sum() + S))
        else:
            tp, fp, fn = (w * x * y).sum(), (w * x * (1 - y)).sum(), (w * (1 - x) * y).sum()
            losses.append(1 - (3.25 * tp + S) / (3.25 * tp + 2.25 * fn + fp + S))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("max_weight", [None, 4.0, 0.5])
@every_criterion
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_plain_loop(shape: tuple[int, ...], criterion: str, max_weight: float | None, masked: bool) -> None:
    """Value and gradient; one sample without instances."""
    ids = random_labels(shape, 6, seed=1, batch=3)
    ids[1] = 0
    p = random_probabilities(ids.shape, seed=2)
    valid = random_mask(ids.shape, seed=3) if masked else None
    settings = {"criterion": criterion, "max_weight": max_weight, "valid": valid}
    fast, slow = with_gradient(inverse_weighted_loss, p, ids, **settings), with_gradient(plain, p, ids, **settings)
    assert_same(fast, slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("max_weight", [None, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_equal_the_plain_loop(shape: tuple[int, ...], max_weight: float | None, masked: bool) -> None:
    ids = random_labels(shape, 6, seed=4, batch=3)
    ids[1] = 0
    valid = random_mask(ids.shape, seed=5) if masked else torch.ones_like(ids, dtype=torch.bool)
    weights = inverse_weights(ids, max_weight=max_weight, valid=valid if masked else None)
    assert weights.dtype == torch.float32
    for b in range(3):
        torch.testing.assert_close(weights[b].double(), plain_weights(ids[b], valid[b], max_weight), rtol=1e-6, atol=0)
    if max_weight is None:
        torch.testing.assert_close(weights.flatten(1).sum(1), valid.flatten(1).sum(1).float())
    assert (weights[1][valid[1]] == 1).all()


def test_golden_values(golden: Path) -> None:
    """Sums and largest weights, and the losses, one per sample."""
    expected = json.loads((golden / "expected.json").read_text())
    for case, values in expected.items():
        arrays = np.load(golden / "cases" / f"{case}.npz")
        p, ids = torch.from_numpy(arrays["pred"])[:, 0], torch.from_numpy(arrays["instances"])[:, 0]
        weights = inverse_weights(ids)
        assert weights.flatten(1).sum(1).tolist() == pytest.approx(values["iw_sum_per_sample"], rel=2e-6), case
        assert weights.flatten(1).amax(1).tolist() == pytest.approx(values["iw_max_per_sample"], rel=2e-6), case
        for criterion in ("bce", "dice", "asl"):
            of_samples = values[f"iw_{criterion}_per_sample"]
            for b, value in enumerate(of_samples):
                sample = p[b : b + 1], ids[b : b + 1]
                found = inverse_weighted_loss(sample[0].double(), sample[1], criterion=criterion)
                assert found.item() == pytest.approx(value, abs=1e-9, rel=0), (case, criterion)
                single = inverse_weighted_loss(*sample, criterion=criterion).item()
                assert single == pytest.approx(value, rel=2e-6, abs=1e-7), (case, criterion)
            found = inverse_weighted_loss(p, ids, criterion=criterion)
            assert found.item() == pytest.approx(np.mean(of_samples), rel=2e-6), (case, criterion)
    assert len(expected) >= 15


def test_hand_number() -> None:
    p, ids = torch.tensor([[0.5, 0.25, 0.25, 0.5, 0.0, 0.0]]), torch.tensor([[1, 2, 2, 0, 0, 0]])
    # Weights 6 / (3 * 1), 6 / (3 * 2) and 6 / (3 * 3): 2, 1, 1, 2/3, 2/3, 2/3.
    assert inverse_weights(ids)[0].tolist() == pytest.approx([2, 1, 1, 2 / 3, 2 / 3, 2 / 3])
    dice = 1 - 2 * (2 * 0.5 + 0.25 + 0.25) / (2 * 0.25 + 2 * 0.0625 + 2 / 3 * 0.25 + 4)
    assert inverse_weighted_loss(p, ids, criterion="dice").item() == pytest.approx(dice, abs=1e-5)
    asl = 1 - 3.25 * 1.5 / (3.25 * 1.5 + 2.25 * (4 - 1.5) + 1 / 3)
    assert inverse_weighted_loss(p, ids, criterion="asl").item() == pytest.approx(asl, abs=1e-5)
    # A cap of 1 changes the first only: TP = 0.5 + 0.25 + 0.25
    asl = 1 - 3.25 * 1 / (3.25 * 1 + 2.25 * 2 + 1 / 3)
    assert inverse_weighted_loss(p, ids, criterion="asl", max_weight=1).item() == pytest.approx(asl, abs=1e-5)


def test_every_object_weighs_the_same() -> None:
    ids = torch.zeros(1, 20, 20, dtype=torch.int64)
    ids[0, :15, :15], ids[0, 18, 18] = 1, 2
    _, gradient = with_gradient(inverse_weighted_loss, torch.full((1, 20, 20), 0.5).double(), ids)
    sums = [gradient[ids == i].sum().abs().item() for i in range(3)]
    assert sums == pytest.approx([2 / 3] * 3)


def test_weights_below_one_stay() -> None:
    """The authors' code raises them to 1."""
    ids = torch.zeros(1, 10, dtype=torch.int64)
    ids[0, 0] = 1
    assert inverse_weights(ids)[0, 5].item() == pytest.approx(10 / (2 * 9))


@pytest.mark.parametrize("criterion", ["bce", "focal", "asl"])
def test_objects_as_large_as_the_background_give_the_unweighted_loss(criterion: str) -> None:
    ids = torch.tensor([[1, 1, 0, 2, 2, 0]])
    p = random_probabilities(ids.shape, seed=6)
    y = (ids > 0).double()
    tp, fp = (p * y).sum(), (p * (1 - y)).sum()
    expected = {
        "bce": binary_cross_entropy(p, y),
        "focal": (Focal().positive(p) * y + Focal().negative(p) * (1 - y)).mean(),
        "asl": ASL()(tp, fp, y.sum(), (1 - y).sum()),
    }
    torch.testing.assert_close(inverse_weighted_loss(p, ids, criterion=criterion), expected[criterion])


@every_criterion
def test_numbering_and_mirroring_change_nothing(criterion: str) -> None:
    ids, p = random_labels((7, 6, 9), 6, seed=7), random_probabilities((2, 7, 6, 9), seed=8)
    expected = with_gradient(inverse_weighted_loss, p, ids, criterion=criterion)
    for names in ([0, 4, 6, 1, 5, 2, 3], [0, 5, 4_000_000, 17, 3, 2**40, 1]):
        assert_same(with_gradient(inverse_weighted_loss, p, torch.tensor(names)[ids], criterion=criterion), expected)
    value, gradient = with_gradient(inverse_weighted_loss, p.flip(1, 3), ids.flip(1, 3), criterion=criterion)
    assert_same((value, gradient.flip(1, 3)), expected)


@every_criterion
def test_all_ignored_gives_an_attached_zero(criterion: str) -> None:
    ids, p = random_labels((5, 6), 3, seed=9), random_probabilities((2, 5, 6), seed=10)
    value, gradient = with_gradient(
        inverse_weighted_loss, p, ids, criterion=criterion, valid=torch.zeros_like(ids, dtype=torch.bool)
    )
    assert value == 0
    assert (gradient == 0).all()


@every_criterion
def test_gradcheck(criterion: str) -> None:
    ids, valid = random_labels((4, 3), 3, seed=11), random_mask((2, 4, 3), seed=12)
    p = random_probabilities((2, 4, 3), seed=13).requires_grad_()
    assert gradients_are_right(lambda p: inverse_weighted_loss(p, ids, criterion=criterion, valid=valid), p)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_criterion
def test_half_precision_equals_float32_on_the_same_numbers(criterion: str, dtype: torch.dtype) -> None:
    ids, half = random_labels((16, 13), 5, seed=14), random_probabilities((2, 16, 13), seed=15).to(dtype)
    expected = inverse_weighted_loss(half.float(), ids, criterion=criterion)
    assert inverse_weighted_loss(half, ids, criterion=criterion) == expected
    with torch.autocast("cpu", dtype=dtype):
        assert inverse_weighted_loss(half, ids, criterion=criterion) == expected


def test_what_does_not_fit_is_refused() -> None:
    p, ids = torch.rand(1, 4, 5), torch.zeros(1, 4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="must be one of bce, focal, dice, asl, got 'tversky'"):
        inverse_weighted_loss(p, ids, criterion="tversky")
    with pytest.raises(ValueError, match=r"one shape \(B, \*S\), got \(1, 4, 5\) and \(1, 5, 4\)"):
        inverse_weighted_loss(p, ids.mT)
    with pytest.raises(ValueError, match="valid must have the shape of ids"):
        inverse_weights(ids, valid=torch.ones(1, 5, 4, dtype=torch.bool))
