from __future__ import annotations

import pytest
import torch
from geometry import SHAPES, generator
from torch import Tensor

from nnunet_instance_trainers.losses.prediction import (
    BinarySoftmax,
    Prediction,
    Probabilities,
    Sigmoid,
    Softmax,
    SoftmaxChannel,
)

VOXEL = torch.tensor([0, 3, 17, 40, 41, 77])


def logits(n_channels: int) -> Tensor:
    output = torch.randn(2, n_channels, *SHAPES[0][:2], generator=generator(n_channels), dtype=torch.float64)
    return (3 * output).requires_grad_()


def predictions(output: Tensor) -> dict[str, tuple[Prediction, Tensor]]:
    """Every kind with the probabilities that torch gives for it."""
    n, softmax, given = output.shape[1], output.softmax(1), output.sigmoid()
    kinds: dict[str, tuple[Prediction, Tensor]] = {
        "sigmoid": (Sigmoid(output, n - 1), given[:, -1]),
        "probabilities": (Probabilities(given[:, 0], logits=output[:, 0]), given[:, 0]),
        "softmax": (SoftmaxChannel(Softmax(output, True), 1), softmax[:, 1]),
        "given softmax": (SoftmaxChannel(Softmax(softmax, False), 1), softmax[:, 1]),
    }
    if n == 2:
        kinds["binary softmax"] = BinarySoftmax(output), softmax[:, 1]
    return kinds


@pytest.mark.parametrize("n_channels", [2, 4])
def test_probabilities_and_their_gradients_are_torch_s_own(n_channels: int) -> None:
    output = logits(n_channels)
    for kind, (prediction, expected) in predictions(output).items():
        weight = torch.rand(expected.shape, generator=generator(1), dtype=torch.float64)
        torch.testing.assert_close(prediction.probabilities, expected, msg=kind)
        assert (prediction.shape, prediction.dtype) == (expected.shape, expected.dtype)
        for ours, theirs in (
            ((weight * prediction.probabilities).sum(), (weight * expected).sum()),
            (prediction.at(VOXEL)[0].square().sum(), expected.flatten()[VOXEL].square().sum()),
        ):
            gradients = (torch.autograd.grad(loss, output, retain_graph=True)[0] for loss in (ours, theirs))
            torch.testing.assert_close(*gradients, msg=kind)


@pytest.mark.parametrize("n_channels", [2, 4])
def test_log_odds_are_the_logarithm_of_the_odds(n_channels: int) -> None:
    output = logits(n_channels)
    for kind, (prediction, expected) in predictions(output).items():
        p, odds = prediction.at(VOXEL)
        torch.testing.assert_close(p, expected.flatten()[VOXEL], msg=kind)
        if kind == "given softmax":
            assert odds is None
        else:
            torch.testing.assert_close(odds, (p / (1 - p)).log(), msg=kind)
            assert torch.autograd.grad(odds.sum(), output, retain_graph=True)[0].abs().sum() > 0, kind
    assert Probabilities(output[:, 0].sigmoid()).at(VOXEL)[1] is None


def test_log_odds_do_not_saturate() -> None:
    output = torch.tensor([[[-200.0, 200.0]], [[200.0, -200.0]]]).transpose(0, 1)
    for prediction in (BinarySoftmax(output), SoftmaxChannel(Softmax(output, True), 1)):
        assert prediction.at(torch.tensor([0, 1]))[1].tolist() == [400, -400]  # type: ignore[union-attr]


def test_foreground_is_what_nnunet_would_predict() -> None:
    output = logits(4).detach()
    winner = output.argmax(1)
    softmax = Softmax(output, True)
    for channel in range(1, 4):
        assert torch.equal(SoftmaxChannel(softmax, channel).foreground, winner == channel)
        threshold = SoftmaxChannel(softmax, channel, by_threshold=True).foreground
        assert torch.equal(threshold, output.softmax(1)[:, channel] >= 0.5)
        assert torch.equal(Sigmoid(output, channel).foreground, output[:, channel].sigmoid() >= 0.5)
    assert torch.equal(BinarySoftmax(output[:, :2]).foreground, output[:, :2].argmax(1) == 1)
    tie = torch.zeros(1, 2, 3)
    assert not BinarySoftmax(tie).foreground.any(), "nnU-Net's argmax takes the first of equals"
    assert BinarySoftmax(tie, by_threshold=True).foreground.all() and Sigmoid(tie, 0).foreground.all()
    assert SoftmaxChannel(Softmax(tie, True), 1, by_threshold=True).foreground.all()
    assert Probabilities(torch.tensor([[0.3, 0.29]]), threshold=0.3).foreground.tolist() == [[True, False]]


def test_all_classes_share_one_softmax() -> None:
    softmax = Softmax(logits(4), True)
    images = [SoftmaxChannel(softmax, channel).probabilities for channel in (1, 2)]
    assert images[0].untyped_storage().data_ptr() == images[1].untyped_storage().data_ptr()
    assert softmax.winner is softmax.winner
    binary = BinarySoftmax(logits(2))
    assert binary.probabilities is binary.probabilities


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"probabilities and logits must have one shape .* \(2, 3\) and \(2, 4\)"):
        Probabilities(torch.zeros(2, 3), logits=torch.zeros(2, 4))
