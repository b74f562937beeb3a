from __future__ import annotations

import pytest
import torch
from geometry import SHAPES, generator, random_labels
from torch import Tensor

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.voxel_lists import VoxelList
from nnunet_instance_trainers.losses.prediction import (
    BinarySoftmax,
    Prediction,
    Probabilities,
    Sigmoid,
    Softmax,
    winners,
)

SIZES = [(16, 13, 7), (8, 6, 5)]


def logits(n_channels: int) -> list[Tensor]:
    """Of two scales."""
    random = generator(n_channels)
    return [(3 * torch.randn(2, n_channels, *s, generator=random, dtype=torch.float64)).requires_grad_() for s in SIZES]


def kinds_of(output: list[Tensor]) -> dict[str, tuple[Prediction, list[Tensor]]]:
    """Every kind with the probabilities (B, C, *S) of its classes that torch gives for it."""
    n = output[0].shape[1]
    softmax, given = [scale.softmax(1) for scale in output], [scale.sigmoid() for scale in output]
    some = (0, n - 1)
    kinds: dict[str, tuple[Prediction, list[Tensor]]] = {
        "sigmoid": (Sigmoid(output, some), [scale[:, some] for scale in given]),
        "probabilities": (Probabilities(given, some), [scale[:, some] for scale in given]),
        "softmax": (Softmax(output, range(1, n)), [scale[:, 1:] for scale in softmax]),
        "softmax by threshold": (Softmax(output, (1, n - 1), by_threshold=True), [s[:, (1, n - 1)] for s in softmax]),
        "given softmax": (Probabilities(softmax, range(1, n), winner=True), [scale[:, 1:] for scale in softmax]),
    }
    if n == 2:
        kinds["binary softmax"] = BinarySoftmax(output), [scale[:, 1:] for scale in softmax]
    return kinds


def objects_in(prediction: Prediction, seed: int) -> tuple[Objects, list[Tensor]]:
    """Random objects of the prediction's classes, and for each scale a mask (B, C, *S) of their voxels."""
    n_classes = len(prediction.classes)
    n_images = 2 if prediction.exclusive else 2 * n_classes
    labels = [random_labels(size, 6, seed, batch=n_images) for size in SIZES]
    voxels = VoxelList.where(labels)
    if not prediction.exclusive or n_classes == 1:
        return Objects.of_ids(voxels, voxels.read(labels)), [(x > 0).view(2, n_classes, *x.shape[1:]) for x in labels]
    kinds = [label % n_classes for label in labels]
    objects = Objects.of_ids(voxels, voxels.read(labels), voxels.read(kinds).int(), n_kinds=n_classes)
    return objects, [
        torch.stack([(label > 0) & (kind == one) for one in range(n_classes)], 1) for label, kind in zip(labels, kinds)
    ]


@pytest.mark.parametrize("n_channels", [2, 4])
def test_probabilities_and_their_gradients_are_torch_s_own(n_channels: int) -> None:
    """Of all classes, everywhere and summed over the voxels of objects, which fall into samples by class."""
    output = logits(n_channels)
    for kind, (prediction, expected) in kinds_of(output).items():
        assert (prediction.shapes, prediction.dtype) == (tuple((2, *size) for size in SIZES), torch.float64)
        (objects, masks), (others, _) = objects_in(prediction, seed=1), objects_in(prediction, seed=2)
        everywhere = [scale[:, prediction.channels] for scale in prediction.probabilities]
        for ours, theirs in zip(everywhere, expected):
            torch.testing.assert_close(ours, theirs, msg=kind)
        (p, _), _ = prediction.at(objects, others)
        sums = objects.per_sample(objects.sum_gathered(p.square()))
        there = torch.cat([(scale.square() * mask).flatten(2).sum(2).flatten() for scale, mask in zip(expected, masks)])
        torch.testing.assert_close(sums, there, msg=kind)
        weight = torch.rand(sums.shape, generator=generator(1), dtype=torch.float64)
        for ours, theirs in (
            (sum(scale.square().sum() for scale in everywhere), sum(scale.square().sum() for scale in expected)),
            ((weight * sums).sum(), (weight * there).sum()),
        ):
            gradients = (torch.autograd.grad(loss, output, retain_graph=True) for loss in (ours, theirs))
            for pair in zip(*gradients):
                torch.testing.assert_close(*pair, msg=kind)


@pytest.mark.parametrize("n_channels", [2, 4])
def test_log_odds_are_the_logarithm_of_the_odds(n_channels: int) -> None:
    output = logits(n_channels)
    for kind, (prediction, _) in kinds_of(output).items():
        ((p, odds),) = prediction.at(objects_in(prediction, seed=3)[0])
        if kind in ("given softmax", "probabilities"):
            assert odds is None
        else:
            torch.testing.assert_close(odds, (p / (1 - p)).log(), msg=kind)
            assert torch.autograd.grad(odds.sum(), output, retain_graph=True)[0].abs().sum() > 0, kind


def test_log_odds_of_given_logits() -> None:
    z = logits(2)[0][:, 0]
    objects = Objects((z > 0).int())
    ((p, odds),) = Probabilities(z.sigmoid(), logits=z).at(objects)
    torch.testing.assert_close(odds, (p / (1 - p)).log())
    assert Probabilities(z.sigmoid()).at(objects)[0][1] is None


def test_log_odds_do_not_saturate() -> None:
    output = torch.tensor([[[-200.0, 200.0]], [[200.0, -200.0]]]).transpose(0, 1)
    objects = Objects(torch.ones(1, 2, dtype=torch.int64))
    for prediction in (BinarySoftmax([output]), Softmax([output], (1,))):
        assert prediction.at(objects)[0][1].tolist() == [400, -400]  # type: ignore[union-attr]


@pytest.mark.parametrize("classes", [(1, 2, 3), (1, 3), (2,)])
def test_foreground_is_what_nnunet_would_predict(classes: tuple[int, ...]) -> None:
    output = [scale.detach() for scale in logits(4)]
    softmax = [scale.softmax(1) for scale in output]
    for scale, *kinds in zip(
        output,
        Softmax(output, classes).foreground,
        Probabilities(softmax, classes, winner=True).foreground,
        Softmax(output, classes, by_threshold=True).foreground,
        Sigmoid(output, classes).foreground,
    ):
        winner = scale.argmax(1)
        for found in kinds[:2]:
            labels = found.int() * classes[0] if found.dtype == torch.bool else found
            assert torch.equal(labels.long(), winner * torch.isin(winner, torch.tensor(classes)))
        assert torch.equal(kinds[2], (scale.softmax(1)[:, classes] >= 0.5).flatten(0, 1))
        assert torch.equal(kinds[3], (scale[:, classes].sigmoid() >= 0.5).flatten(0, 1))
    two = [scale[:, :2] for scale in output]
    assert all(torch.equal(a, b.argmax(1) == 1) for a, b in zip(BinarySoftmax(two).foreground, two))


def test_ties() -> None:
    tie = [torch.zeros(1, 2, 3)]
    assert not BinarySoftmax(tie).foreground[0].any(), "nnU-Net's argmax takes the first of equals"
    assert BinarySoftmax(tie, by_threshold=True).foreground[0].all() and Sigmoid(tie, (0,)).foreground[0].all()
    assert Softmax(tie, (1,), by_threshold=True).foreground[0].all()
    assert Probabilities(torch.tensor([[0.3, 0.29]]), threshold=0.3).foreground[0].tolist() == [[True, False]]
    level = torch.randint(0, 3, (2, 5, *SHAPES[0]), generator=generator(9)).float()
    assert torch.equal(winners(level, range(1, 5)).long(), level.argmax(1))


def test_images_of_probabilities_are_made_once() -> None:
    for prediction in (Softmax(logits(4), (1, 2)), BinarySoftmax(logits(2)), Sigmoid(logits(2), (0,))):
        assert all(a is b for a, b in zip(prediction.probabilities, prediction.probabilities))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"probabilities and logits must have one shape .* \(2, 3\) and \(2, 4\)"):
        Probabilities(torch.zeros(2, 3), logits=torch.zeros(2, 4))
