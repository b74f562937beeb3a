from __future__ import annotations

from dataclasses import fields, replace
from math import log

import pytest
import torch
from geometry import random_mask, random_probabilities
from torch import Tensor

from nnunet_instance_trainers.losses import PixelLoss
from nnunet_instance_trainers.losses.named_criteria import (
    ASL,
    CRITERIA,
    AdaptiveTversky,
    BalancedCrossEntropy,
    BinaryCrossEntropy,
    Criterion,
    Dice,
    Focal,
    GeneralizedDice,
    Tversky,
    resolve,
)

# Off every symmetry: TP = 1.3, FP = 0.6, FN = 0.7, TN = 2.4; 2 positive and 3 negative voxels.
P = torch.tensor([0.8, 0.5, 0.2, 0.4, 0.0], dtype=torch.float64)
T = torch.tensor([1, 1, 0, 0, 0])


def loss_of(criterion: Criterion, p: Tensor, t: Tensor) -> Tensor:
    """The criterion over one region, given voxel by voxel."""
    inside, outside = p[t > 0], p[t == 0]
    sums = criterion.positive(inside).sum(), criterion.negative(outside).sum()
    return criterion(*sums, torch.tensor(len(inside)), torch.tensor(len(outside)))


def value_and_gradient(criterion: Criterion, p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    p = p.clone().requires_grad_()
    loss = loss_of(criterion, p, t)
    return loss.detach(), torch.autograd.grad(loss, p)[0]


def assert_equal_with_gradients(a: Criterion, b: Criterion) -> None:
    p, t = random_probabilities((50,), seed=1), random_mask((50,), seed=2, share=0.3).long()
    for x, y in zip(value_and_gradient(a, p, t), value_and_gradient(b, p, t)):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (Dice(smooth=0), 1 - 2.6 / (2.6 + 0.6 + 0.7)),
        (Dice(smooth=1), 1 - 3.6 / (2.6 + 0.6 + 0.7 + 1)),
        (Tversky(smooth=0), 1 - 1.3 / (1.3 + 0.3 * 0.6 + 0.7 * 0.7)),
        (Tversky(alpha=0.9, beta=0.2, smooth=1), 1 - 2.3 / (1.3 + 0.9 * 0.6 + 0.2 * 0.7 + 1)),
        # (FP^2 + FN^2) / (FP + FN) = (0.36 + 0.49) / 1.3
        (AdaptiveTversky(smooth=0), 1 - 1.3 / (1.3 + 0.3 * 1.3 + 0.4 * 0.85 / 1.3)),
        (AdaptiveTversky(base=0.1, adaptive=0.9, smooth=1), 1 - 2.3 / (1.3 + 0.1 * 1.3 + 0.9 * 0.85 / 1.3 + 1)),
        (ASL(smooth=0), 1 - 3.25 * 1.3 / (3.25 * 1.3 + 2.25 * 0.7 + 0.6)),
        (ASL(beta=2, smooth=1), 1 - (5 * 1.3 + 1) / (5 * 1.3 + 4 * 0.7 + 0.6 + 1)),
        # w = 1/2^2 and 1/3^2; P + T is 1.9 + 2 in the foreground and 3.1 + 3 in the background
        (GeneralizedDice(smooth=0), 1 - 2 * (1.3 / 4 + 2.4 / 9) / (3.9 / 4 + 6.1 / 9)),
        # the same weights with sum 1: 9/13 and 4/13
        (GeneralizedDice(smooth=1), 1 - (2 * (9 * 1.3 + 4 * 2.4) / 13 + 1) / ((9 * 3.9 + 4 * 6.1) / 13 + 1)),
        (BalancedCrossEntropy(smooth=0), -(log(0.8) + log(0.5)) / 4 - (log(0.8) + log(0.6)) / 6),
        (BalancedCrossEntropy(smooth=1), -((log(0.8) + log(0.5)) / 3 + (log(0.8) + log(0.6)) / 4) / 3),
        (BinaryCrossEntropy(), -(log(0.8) + log(0.5) + log(0.8) + log(0.6)) / 5),
        (
            Focal(),
            -(0.75 * (0.2**2 * log(0.8) + 0.5**2 * log(0.5)) + 0.25 * (0.2**2 * log(0.8) + 0.4**2 * log(0.6))) / 5,
        ),
        (
            Focal(gamma=3, alpha=None),
            -(0.2**3 * log(0.8) + 0.5**3 * log(0.5) + 0.2**3 * log(0.8) + 0.4**3 * log(0.6)) / 5,
        ),
    ],
    ids=repr,
)
def test_hand_number(criterion: Criterion, expected: float) -> None:
    assert loss_of(criterion, P, T).item() == pytest.approx(expected, abs=1e-12)


def test_defaults_are_those_of_the_papers() -> None:
    assert Tversky() == Tversky(alpha=0.3, beta=0.7, smooth=1e-5)
    assert ASL() == ASL(beta=1.5, smooth=1e-5)
    assert Focal() == Focal(gamma=2.0, alpha=0.75)
    assert Dice().smooth == GeneralizedDice().smooth == 1e-5


@pytest.mark.parametrize(
    ("criterion", "limit"),
    [
        (Tversky(alpha=0.5, beta=0.5, smooth=0.05), Dice(smooth=0.1)),
        (ASL(beta=1, smooth=0.1), Dice(smooth=0.1)),
        (Focal(gamma=0, alpha=None), BinaryCrossEntropy()),
        (AdaptiveTversky(base=0.2, adaptive=0), Tversky(alpha=0.2, beta=0.2)),
    ],
    ids=repr,
)
def test_limit_equals_its_neighbour_in_value_and_gradient(criterion: Criterion, limit: Criterion) -> None:
    assert_equal_with_gradients(criterion, limit)


def test_balanced_cross_entropy_of_equal_numbers_is_the_plain_one() -> None:
    p, t = random_probabilities((50,), seed=5), torch.arange(50) % 2
    for x, y in zip(
        value_and_gradient(BalancedCrossEntropy(smooth=0), p, t), value_and_gradient(BinaryCrossEntropy(), p, t)
    ):
        torch.testing.assert_close(x, y)


def test_adaptive_tversky_of_equal_errors_is_dice_in_value_and_gradient() -> None:
    p, t = torch.tensor([0.7, 0.9, 0.1, 0.3]).double(), torch.tensor([1, 1, 0, 0])  # FP = FN = 0.4
    for x, y in zip(value_and_gradient(AdaptiveTversky(), p, t), value_and_gradient(Dice(smooth=2e-5), p, t)):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("criterion", [Dice(smooth=0), Tversky(smooth=0), ASL(smooth=0), AdaptiveTversky(smooth=0)])
def test_nothing_predicted_where_nothing_is_costs_1_without_smoothing(criterion: Criterion) -> None:
    value, gradient = value_and_gradient(criterion, torch.zeros(4).double(), torch.zeros(4))
    assert value == 1 and gradient.isfinite().all()


def test_focal_with_equal_weights_is_half_of_the_unweighted() -> None:
    p, t = random_probabilities((50,), seed=3), random_mask((50,), seed=4, share=0.3).long()
    for x, y in zip(value_and_gradient(Focal(alpha=0.5), p, t), value_and_gradient(Focal(alpha=None), p, t)):
        torch.testing.assert_close(2 * x, y)


@pytest.mark.parametrize(("name", "field"), [(name, f.name) for name, c in CRITERIA.items() for f in fields(c)])
def test_each_parameter_changes_value_and_gradient(name: str, field: str) -> None:
    default = CRITERIA[name]()
    other = replace(default, **{field: 3.0 if field == "gamma" else 0.55})
    p = P.clamp(min=0.01)
    (a, grad_a), (b, grad_b) = value_and_gradient(default, p, T), value_and_gradient(other, p, T)
    assert abs(a - b) > 1e-3
    assert (grad_a - grad_b).abs().max() > 1e-3


@pytest.mark.parametrize("name", CRITERIA)
def test_perfect_costs_nothing_and_worse_costs_more(name: str) -> None:
    losses = [loss_of(CRITERIA[name](), (1 - e) * T + e * (1 - T), T).item() for e in (0.0, 0.1, 0.3, 0.6, 1.0)]
    assert losses[0] == pytest.approx(0, abs=1e-12)
    assert losses == sorted(losses) and losses[-1] > 0.9


@pytest.mark.parametrize("name", CRITERIA)
def test_a_negative_voxel_of_p_0_contributes_exactly_nothing(name: str) -> None:
    """Ignored voxels rely on it."""
    assert CRITERIA[name]().negative(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [(1, 1, 1, 0, 0, 0), (1,) * 6, (0,) * 6])
@pytest.mark.parametrize("name", CRITERIA)
def test_p_of_exactly_0_and_1_is_finite_with_finite_gradient(name: str, t: tuple[int, ...], dtype: torch.dtype) -> None:
    p = torch.tensor([0, 1, 0.5, 0, 1, 0.5], dtype=dtype)
    value, gradient = value_and_gradient(CRITERIA[name](), p, torch.tensor(t))
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("gamma", [0.5, 0.99, -1.0])
def test_focal_refuses_a_gamma_whose_gradient_is_infinite_at_certain_voxels(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"gamma of the focal loss must be 0 or at least 1, got {gamma}"):
        Focal(gamma=gamma)


@pytest.mark.parametrize("size", [10, 1000, 10**6])
@pytest.mark.parametrize("name", ["dice", "tversky", "asl", "generalized_dice"])
def test_missing_an_object_costs_about_1_whatever_its_size(name: str, size: int) -> None:
    """In a large background: generalised Dice gives 1 / (1 + 2 n_foreground / n_background)."""
    zero, n = torch.tensor(0.0), torch.tensor(size)
    assert CRITERIA[name]()(zero, zero, n, 10_000 * n).item() == pytest.approx(1, abs=3e-4)


class TestAgainstMonai:
    """MONAI 1.4 or later, its smoothing at 0, on objects of 10 to a million voxels in a long 1D image."""

    @pytest.fixture
    def losses(self):  # type: ignore[no-untyped-def]
        return pytest.importorskip("monai.losses", reason="MONAI is the yardstick here and is not installed")

    @pytest.fixture(params=[10, 1000, 10**6])
    def image(self, request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
        t = torch.zeros(2 * request.param + 7, dtype=torch.int64)
        t[3 : 3 + request.param] = 1
        return random_probabilities(t.shape, seed=5) ** (2 - t), t

    @staticmethod
    def check(criterion: Criterion, loss, p: Tensor, monai_input, t: Tensor) -> None:  # type: ignore[no-untyped-def]
        """Value and gradient; ``monai_input`` makes MONAI's (1, C, *S) input from p, ``t`` is (1, C, *S)."""
        leaf = p.clone().requires_grad_()
        expected = loss(monai_input(leaf), t.double())
        value, gradient = value_and_gradient(criterion, p, t[0, -1])
        slope = torch.autograd.grad(expected, leaf)[0]
        # MONAI's weights of generalised Dice are float32, and so is all of its focal loss.
        rtol = 1e-7 if expected.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(value, expected.detach(), rtol=rtol, atol=0, check_dtype=False)
        torch.testing.assert_close(gradient, slope, rtol=0, atol=rtol * float(slope.abs().max()))

    @staticmethod
    def one(x: Tensor) -> Tensor:
        return x[None, None]

    @staticmethod
    def two(x: Tensor) -> Tensor:
        return torch.stack([1 - x, x])[None]

    def test_dice_on_one_channel(self, losses, image) -> None:  # type: ignore[no-untyped-def]
        p, t = image
        self.check(Dice(smooth=0), losses.DiceLoss(smooth_nr=0, smooth_dr=0), p, self.one, self.one(t))

    def test_dice_on_two_channels(self, losses, image) -> None:  # type: ignore[no-untyped-def]
        p, t = image
        loss = losses.DiceLoss(include_background=False, smooth_nr=0, smooth_dr=0)
        self.check(Dice(smooth=0), loss, p, self.two, self.two(t))

    @pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.7, 0.3), (0.1, 0.4)])
    def test_tversky_on_one_and_two_channels(self, losses, image, alpha, beta) -> None:  # type: ignore[no-untyped-def]
        p, t = image
        ours = Tversky(alpha=alpha, beta=beta, smooth=0)
        settings = {"alpha": alpha, "beta": beta, "smooth_nr": 0, "smooth_dr": 0}
        self.check(ours, losses.TverskyLoss(**settings), p, self.one, self.one(t))
        self.check(ours, losses.TverskyLoss(include_background=False, **settings), p, self.two, self.two(t))

    @pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (2.0, 0.75), (1.0, 0.2), (3.0, 0.9)])
    def test_focal_on_one_channel(self, losses, image, gamma, alpha) -> None:  # type: ignore[no-untyped-def]
        p, t = image
        loss = losses.FocalLoss(gamma=gamma, alpha=alpha)
        self.check(Focal(gamma=gamma, alpha=alpha), loss, p, lambda x: self.one(x.logit()), self.one(t))

    def test_focal_on_two_channels(self, losses, image) -> None:  # type: ignore[no-untyped-def]
        """MONAI's mean runs over both channels, one of which is 0 in each voxel."""
        p, t = image
        loss = losses.FocalLoss(gamma=2, alpha=0.75, use_softmax=True)
        self.check(Focal(), lambda x, y: 2 * loss(x, y), p, lambda x: self.two(x).log(), self.two(t))

    def test_generalized_dice_on_two_channels(self, losses, image) -> None:  # type: ignore[no-untyped-def]
        p, t = image
        loss = losses.GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0)
        self.check(GeneralizedDice(smooth=0), loss, p, self.two, self.two(t))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        *((name, (criterion(),)) for name, criterion in CRITERIA.items()),
        ("dice+bce", (Dice(), BinaryCrossEntropy())),
        ("bce + tversky", (BinaryCrossEntropy(), Tversky())),
        ("generalized_dice+focal", (GeneralizedDice(), Focal(alpha=None))),
        ({"tversky": {"alpha": 0.2, "beta": 0.8}}, (Tversky(alpha=0.2, beta=0.8),)),
        ({"dice": {}, "focal": {"gamma": 1.0, "alpha": None}}, (Dice(), Focal(gamma=1.0, alpha=None))),
        (ASL(beta=3), (ASL(beta=3),)),
        ([Dice(), Focal()], (Dice(), Focal())),
        ((Dice(smooth=1),), (Dice(smooth=1),)),
    ],
    ids=str,
)
def test_resolve_takes(spec, expected: tuple[Criterion, ...]) -> None:  # type: ignore[no-untyped-def]
    assert resolve(spec) == expected


@pytest.mark.parametrize("spelling", ["generalized_dice + focal", "focal+generalized_dice"])
def test_resolve_gives_a_sum_the_same_parts_however_it_is_spelt(spelling: str) -> None:
    assert set(resolve(spelling)) == set(resolve("generalized_dice+focal"))


def test_resolve_drops_no_part_in_silence() -> None:
    assert resolve("dice+dice") == (Dice(), Dice())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dize", r"unknown criterion 'dize': allowed are dice, tversky, adaptive_tversky, bce, balanced_bce, focal"),
        ("dice+", r"unknown criterion ''"),
        ("", r"unknown criterion ''"),
        ({"dyce": {}}, r"unknown criterion 'dyce'"),
        ({"tversky": {"gamma": 1}}, r"'tversky' has no parameter 'gamma': allowed are alpha, beta, smooth"),
        ({"bce": {"smooth": 1}}, r"'bce' has no parameter 'smooth': allowed are none"),
        ({}, r"criterion must be one of dice.*got {}"),
        ((), r"criterion must be one of dice.*got \(\)"),
        (("dice", "bce"), r"criterion must be one of dice.*got \('dice', 'bce'\)"),
        (None, r"criterion must be one of dice.*got None"),
        (3, r"criterion must be one of dice.*got 3"),
    ],
    ids=repr,
)
def test_resolve_refuses(spec, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        resolve(spec)


# --- a network that has gone wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["dice", "tversky", "asl", "generalized_dice", "bce", "focal"])
def test_nan_reaches_the_loss_as_in_nnunets_own(criterion: str) -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, 1, 0, 0] = torch.nan
    loss = PixelLoss(criterion=criterion, regions=False, ignore_label=None)
    assert loss(logits, torch.ones(1, 1, 4, 4)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_that_of_torch(dtype: torch.dtype) -> None:
    p = torch.tensor([0.0, 1e-30, 1e-9, 0.3, 1 - 1e-6, 1.0], dtype=dtype, requires_grad=True)
    for own, target in ((BinaryCrossEntropy().positive, 1.0), (BinaryCrossEntropy().negative, 0.0)):
        expected = torch.nn.functional.binary_cross_entropy(p, torch.full_like(p, target), reduction="none")
        assert torch.allclose(own(p), expected, rtol=1e-6, atol=0)
        inner = slice(2, 5)  # beyond, a sigmoid passes no gradient on
        (gradient,), (wanted,) = (torch.autograd.grad(value[inner].sum(), p) for value in (own(p), expected))
        assert torch.allclose(gradient[inner], wanted[inner], rtol=1e-5)
