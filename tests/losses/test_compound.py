from __future__ import annotations

import pytest
import torch
from geometry import random_labels, random_probabilities
from torch import Tensor, nn

from nnunet_instance_trainers.losses import BlobLoss, CompoundLoss, PixelLoss
from nnunet_instance_trainers.losses.compound import TERMS


class Sum(nn.Module):
    """A factor times the sum of the output; refuses outputs of ones."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, output: Tensor, target: Tensor, instances: Tensor) -> Tensor:
        assert not (output == 1).all(), "computed what has weight 0"
        assert output.shape == target.shape == instances.shape
        return self.factor * output.sum()


class First(nn.Module):
    """A pixel loss that takes lists: the mean of the first output minus the mean of the first target."""

    def forward(self, output: list[Tensor], target: list[Tensor]) -> Tensor:
        return output[0].mean() - target[0].mean()


SCALES = [torch.full((4,), 3.0), torch.full((2,), 5.0), torch.ones(1)]


def test_parts_are_weighed_and_added() -> None:
    loss = CompoundLoss(
        lambda output, target: (output - target).sum(),
        {"a": Sum(1.0), "b": Sum(10.0)},
        {"pixel": 2.0, "a": 0.5, "b": 0.25},
    )
    x = torch.tensor([3.0, 4.0])
    assert loss(x, x - 1, x).item() == 2 * 2 + 0.5 * 7 + 0.25 * 70
    assert {name: value.item() for name, value in loss.values.items()} == {"pixel": 2, "a": 7, "b": 70}


def test_scales_are_weighed_in_the_terms_only() -> None:
    loss = CompoundLoss(First(), {"a": Sum(1.0)}, {"pixel": 2.0, "a": 0.5}, scale_weights=[0.75, 0.25, 0.0])
    targets = [torch.zeros_like(scale) for scale in SCALES]
    assert loss(SCALES, targets, targets).item() == 2 * 3 + 0.5 * (0.75 * 12 + 0.25 * 10)
    assert loss.values["a"].item() == 0.75 * 12 + 0.25 * 10


def test_a_scale_of_weight_0_is_not_computed() -> None:
    """The term raises on the last scale, so it shows where it is called."""
    for weights, expected in (([1, 0, 0], 12), ([0, 1, 0], 10)):
        loss = CompoundLoss(First(), {"a": Sum(1.0)}, {"pixel": 0.0, "a": 1.0}, scale_weights=weights)
        assert loss(SCALES, SCALES, SCALES).item() == expected
    loss = CompoundLoss(First(), {"a": Sum(1.0)}, {"pixel": 0.0, "a": 1.0}, scale_weights=[1, 0, 1e-9])
    with pytest.raises(AssertionError, match="weight 0"):
        loss(SCALES, SCALES, SCALES)


def test_values_are_detached_and_of_the_last_call() -> None:
    loss = CompoundLoss(nn.MSELoss(), {"a": Sum(1.0)}, {"pixel": 1.0, "a": 1.0})
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    loss(x, x + 1, x)
    result = loss(2 * x, 2 * x + 2, x)
    assert result.requires_grad
    assert not any(value.requires_grad for value in loss.values.values())
    assert {name: value.item() for name, value in loss.values.items()} == {"pixel": 4, "a": 14}


def test_pixel_and_blob_at_two_scales_are_the_sum_of_their_parts() -> None:
    """Value and gradient."""
    scales = [
        (random_probabilities((2, 2, *s), seed=1), *[random_labels(s, 4, seed=2)[:, None]] * 2)
        for s in ((9, 8), (5, 4))
    ]
    outputs, targets, ids = ([scale[i].clone() for scale in scales] for i in range(3))
    targets = [target.clamp(max=1) for target in targets]
    for output in outputs:
        output.requires_grad_()
    pixel = PixelLoss(criterion="dice+bce")
    loss = CompoundLoss(
        lambda output, target: pixel(output[0], target[0]),
        {"blob": TERMS["blob"]()},
        {"pixel": 2.0, "blob": 1.5},
        scale_weights=[0.8, 0.2],
    )
    blobs = [BlobLoss()(*scale) for scale in zip(outputs, targets, ids)]
    expected = 2 * pixel(outputs[0], targets[0]) + 1.5 * (0.8 * blobs[0] + 0.2 * blobs[1])
    result = loss(outputs, targets, ids)
    torch.testing.assert_close(result, expected)
    for a, b in zip(torch.autograd.grad(result, outputs), torch.autograd.grad(expected, outputs)):
        torch.testing.assert_close(a, b)


def test_a_missing_weight_is_an_error() -> None:
    loss = CompoundLoss(nn.MSELoss(), {"a": Sum(1.0)}, {"pixel": 1.0})
    with pytest.raises(KeyError, match="a"):
        loss(*[torch.zeros(2)] * 3)
