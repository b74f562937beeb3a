from __future__ import annotations

import pytest
import torch
from geometry import random_labels, random_probabilities
from losses.plain import assert_same, scene
from torch import Tensor, nn

from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.losses import BlobLoss, CompoundLoss, PixelLoss, object_comparison
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.class_problems import ClassProblems
from nnunet_instance_trainers.losses.modules import ClassLoss
from nnunet_instance_trainers.losses.named_terms import TERMS, make_term

SETTINGS = {**vars(Settings()), "missed": "soft", "center_width": 5, "weighted_criterion": "dice"}


class Sum(ClassLoss):
    """A factor times the sum of the probabilities; refuses those of ones."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def average(self, c: object_comparison.Comparison) -> Average:
        assert not any((scale == 1).all() for scale in c.probabilities), "computed what has weight 0"
        one = torch.ones(len(c.shapes), dtype=torch.int64)
        return Average(self.factor * c.totals(c.probabilities).float(), one, one)


class First(nn.Module):
    """A pixel loss that takes lists: the mean of the first output minus the mean of the first target."""

    def forward(self, output: list[Tensor], target: list[Tensor]) -> Tensor:
        return output[0].mean() - target[0].mean()


PROBABILITIES = ClassProblems(regions=True, from_logits=False)


def image(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[None, None, None]


SCALES = [image(3, 3, 3, 3), image(5, 5), image(1)]


def test_parts_are_weighed_and_added() -> None:
    loss = CompoundLoss(
        lambda output, target: (output - target).sum(),
        {"a": Sum(1.0), "b": Sum(10.0)},
        {"pixel": 2.0, "a": 0.5, "b": 0.25},
        problems=PROBABILITIES,
    )
    x = image(3, 4)
    assert loss(x, x - 1, x).item() == 2 * 2 + 0.5 * 7 + 0.25 * 70
    assert {name: value.item() for name, value in loss.values.items()} == {"pixel": 2, "a": 7, "b": 70}


def test_scales_are_weighed_in_the_terms_only() -> None:
    loss = CompoundLoss(
        First(),
        {"a": Sum(1.0)},
        {"pixel": 2.0, "a": 0.5},
        scale_weights=[0.75, 0.25, 0.0],
        problems=PROBABILITIES,
    )
    targets = [torch.zeros_like(scale) for scale in SCALES]
    for instances in (targets, None):
        assert loss(SCALES, targets, instances).item() == 2 * 3 + 0.5 * (0.75 * 12 + 0.25 * 10)
        assert loss.values["a"].item() == 0.75 * 12 + 0.25 * 10


def test_a_scale_of_weight_0_is_not_computed() -> None:
    """The term raises on the last scale, so it shows where it is called."""
    settings = {"weights": {"pixel": 0.0, "a": 1.0}, "problems": PROBABILITIES}
    for weights, expected in (([1, 0, 0], 12), ([0, 1, 0], 10)):
        loss = CompoundLoss(First(), {"a": Sum(1.0)}, scale_weights=weights, **settings)
        assert loss(SCALES, SCALES, SCALES).item() == expected
    loss = CompoundLoss(First(), {"a": Sum(1.0)}, scale_weights=[1, 0, 1e-9], **settings)
    with pytest.raises(AssertionError, match="weight 0"):
        loss(SCALES, SCALES, SCALES)


def test_as_many_scales_as_weights() -> None:
    loss = CompoundLoss(First(), {"a": Sum(1.0)}, {"pixel": 1, "a": 1}, scale_weights=[1, 0], problems=PROBABILITIES)
    with pytest.raises(ValueError, match="zip"):
        loss(SCALES, SCALES, SCALES)


def test_a_pixel_loss_of_weight_0_is_not_computed() -> None:
    loss = CompoundLoss(lambda *_: 1 / 0, {"a": Sum(1.0)}, {"pixel": 0, "a": 2}, problems=PROBABILITIES)
    x = image(3, 4)
    assert loss(x, x, x).item() == 14
    assert list(loss.values) == ["a"]


def test_without_terms_it_is_the_pixel_loss() -> None:
    x = image(3, 4)
    assert CompoundLoss(nn.MSELoss(), {}, {"pixel": 0.5})(x, x - 2, None).item() == 2


def test_a_pixel_loss_of_plain_0_is_taken() -> None:
    """As nnU-Net's cross-entropy is where every voxel is ignored."""
    output = image(0.5, 0.25).requires_grad_()
    loss = CompoundLoss(lambda *_: 0, {}, {"pixel": 2.0}, problems=PROBABILITIES)
    value = loss(output, image(1, 0), None)
    value.backward()
    assert value.item() == 0 and output.grad is not None and (output.grad == 0).all()
    assert loss.values["pixel"].item() == 0


def test_values_are_detached_and_of_the_last_call() -> None:
    loss = CompoundLoss(nn.MSELoss(), {"a": Sum(1.0)}, {"pixel": 1.0, "a": 1.0}, problems=PROBABILITIES)
    x = image(3, 4).requires_grad_()
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
        {"blob": BlobLoss()},
        {"pixel": 2.0, "blob": 1.5},
        scale_weights=[0.8, 0.2],
    )
    blobs = [BlobLoss()(*scale) for scale in zip(outputs, targets, ids)]
    expected = 2 * pixel(outputs[0], targets[0]) + 1.5 * (0.8 * blobs[0] + 0.2 * blobs[1])
    result = loss(outputs, targets, ids)
    torch.testing.assert_close(result, expected)
    for a, b in zip(torch.autograd.grad(result, outputs), torch.autograd.grad(expected, outputs)):
        torch.testing.assert_close(a, b)


def problem_of_three_classes() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and ids; class 3 has no instance."""
    z, ids = scene((16, 13), seed=21)
    labels = torch.tensor([0, 1, 2, 1, 2, 2])[ids][:, None]
    output = torch.stack([-z, z * (labels[:, 0] != 2), z * (labels[:, 0] == 2), z - 4], 1)
    return output + 0.1 * random_probabilities(output.shape, seed=22), labels, ids[:, None]


@pytest.mark.parametrize("components_from", ["argmax", "threshold"])
def test_all_terms_together_equal_each_alone(components_from: str) -> None:
    """Value and gradient; what the terms share does not change what they are."""
    output, labels, ids = problem_of_three_classes()
    output.requires_grad_()
    weights = {"pixel": 0.0} | {name: 0.1 + i for i, name in enumerate(TERMS)}
    terms = {name: make_term(name, SETTINGS) for name in TERMS}
    problems = ClassProblems(components_from=components_from)
    together = CompoundLoss(PixelLoss(), terms, weights, problems=problems)(output, labels, ids)
    for term in terms.values():
        term.problems = problems
    alone = sum(weights[name] * term(output, labels, ids) for name, term in terms.items())
    assert_same((together, *torch.autograd.grad(together, output)), (alone, *torch.autograd.grad(alone, output)))


def test_the_prediction_is_labelled_once_whatever_the_number_of_terms(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    calls = []

    def counting(*arguments: object) -> Objects:
        calls.append(arguments)
        return labelled(*arguments)

    labelled = object_comparison.label_objects
    monkeypatch.setattr(object_comparison, "label_objects", counting)
    output, labels, ids = problem_of_three_classes()
    for names, expected in ((list(TERMS), 1), (["center"], 1), (["blob", "topk_dice", "inverse_weighted"], 0)):
        calls.clear()
        terms = {name: make_term(name, SETTINGS) for name in names}
        weights = {"pixel": 0.0} | dict.fromkeys(names, 1.0)
        loss = CompoundLoss(PixelLoss(), terms, weights, scale_weights=(0.7, 0.3))
        loss(*([scale, scale[..., ::2]] for scale in (output, labels, ids)))
        assert len(calls) == expected, names  # for all classes and scales


@pytest.mark.parametrize("options", [{}, {"components_from": "threshold"}, {"classes": [3, 1], "ignore_label": 2}])
def test_a_target_side_made_before_changes_nothing(options: dict) -> None:
    """Value and gradient; nothing of it is made again, and scales of weight 0 are left out of it."""
    output, labels, ids = problem_of_three_classes()
    scales = [[scale, scale[..., ::2], scale[..., ::4]] for scale in (output, labels, ids)]
    terms = {name: make_term(name, SETTINGS) for name in TERMS}
    weights = {"pixel": 0.0} | dict.fromkeys(terms, 1.0)
    loss = CompoundLoss(PixelLoss(), terms, weights, problems=ClassProblems(**options), scale_weights=(0.7, 0.3, 0.0))
    side = loss.target_side(*scales[1:], n_channels=4)
    made = dict(vars(side))
    assert {"instances", "whole_instances"} <= made.keys() and len(side.ids) == 2
    for name in ("centres", "boxes", "number", "background_size"):
        assert name in vars(side.instances)
    for scale in scales[0]:
        scale.requires_grad_()
    found, expected = (loss(*scales[:2], third) for third in (side, scales[2]))
    assert dict(vars(side)) == made
    used = scales[0][:2]
    assert_same((found, *torch.autograd.grad(found, used)), (expected, *torch.autograd.grad(expected, used)))


def test_a_missing_weight_is_an_error() -> None:
    loss = CompoundLoss(nn.MSELoss(), {"a": Sum(1.0)}, {"pixel": 1.0}, problems=PROBABILITIES)
    with pytest.raises(KeyError, match="a"):
        loss(*[image(0, 0)] * 3)


def test_terms_are_computed_before_the_pixel_loss() -> None:
    """So that the backward pass, which goes the other way, frees the images of the one before it makes the other's."""
    calls: list[str] = []

    class Noting(Sum):
        def average(self, c: object_comparison.Comparison) -> Average:
            calls.append("term")
            return super().average(c)

    def pixel(output: Tensor, target: Tensor) -> Tensor:
        calls.append("pixel")
        return output.sum()

    loss = CompoundLoss(pixel, {"a": Noting(1.0)}, {"pixel": 1.0, "a": 1.0}, problems=PROBABILITIES)
    x = image(3, 4)
    loss(x, x - 1, x)
    assert calls == ["term", "pixel"]
    assert list(loss.values) == ["pixel", "a"]


@pytest.mark.parametrize("name", TERMS)
def test_monai_s_tensors_and_float_label_maps_are_taken(name: str) -> None:
    data = pytest.importorskip("monai.data", reason="MONAI is not installed")
    z, ids = scene((9, 8, 7), seed=61)
    output, labels = torch.stack((-z, z), 1).float(), (ids > 0)[:, None].long()
    term = make_term(name, SETTINGS)
    expected = term(output, labels, instances=ids[:, None])
    wrapped = data.MetaTensor(output).requires_grad_()
    value = term(wrapped, data.MetaTensor(labels.float()), instances=data.MetaTensor(ids[:, None].float()))
    value.backward()
    torch.testing.assert_close(torch.as_tensor(value), expected)
    assert wrapped.grad.abs().sum() > 0
