"""Every term on a device that is not the CPU: the CPU's values and gradients, and a budget of kernels and waits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from counted_device import CountedDevice
from geometry import generator, random_labels
from torch import Tensor

from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.instances import labelling
from nnunet_instance_trainers.instances.labelling import Labeller, labeller
from nnunet_instance_trainers.instances.propagation import propagate_labels
from nnunet_instance_trainers.losses import CompoundLoss, PixelLoss
from nnunet_instance_trainers.losses.class_problems import ClassProblems
from nnunet_instance_trainers.losses.named_criteria import CRITERIA
from nnunet_instance_trainers.losses.named_terms import TERMS, make_term
from nnunet_instance_trainers.training.patch_counts import count_objects

SETTINGS = {**vars(Settings()), "missed": "soft", "center_width": 3}
SEVEN = ["instance_target", "instance_prediction", "center", "missed_rate", "false_rate", "proximity"]
SCALE_WEIGHTS = (8 / 15, 4 / 15, 2 / 15, 1 / 15)
Lists = tuple[list[Tensor], list[Tensor], list[Tensor]]


@pytest.fixture(autouse=True)
def _labelled_where_the_images_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA without CuPy."""
    there = Labeller("PyTorch", "as on CUDA", propagate_labels)
    monkeypatch.setattr(labelling, "labeller", lambda device: labeller(device) if device.type == "cpu" else there)


def problem(n_classes: int, sizes: list[tuple[int, ...]], *, regions: bool = False, ignored: bool = False) -> Lists:
    """Logits, target and ids of a batch of two at each scale; some objects are missed and some invented."""
    outputs, targets, instances = [], [], []
    for seed, size in enumerate(sizes):
        first, second = (random_labels(size, 7, seed=seed + k) for k in (1, 40))
        drawn = torch.rand((2, n_classes + 1, *size), generator=generator(seed))
        label = torch.where(first > 0, first % n_classes + 1, 0)
        predicted = torch.where(second > 2, second % n_classes + 1, label * (first > 1))
        is_ignored = (torch.rand((2, *size), generator=generator(seed + 9)) < 0.05) & ignored
        one_hot = torch.nn.functional.one_hot(predicted, n_classes + 1).movedim(-1, 1)
        if regions:
            masks = torch.stack([label > region for region in range(n_classes)], 1)
            outputs.append((4 * one_hot.flip(1).cumsum(1).flip(1) + drawn - 2.5)[:, 1:])
            targets.append(torch.cat((masks, is_ignored[:, None]), 1) if ignored else masks)
            instances.append(masks * first[:, None].short())
        else:
            outputs.append(3 * one_hot + drawn)
            targets.append(label.masked_fill(is_ignored, n_classes + 1)[:, None].short())
            instances.append((first * ~is_ignored)[:, None].short())
    return outputs, targets, instances


def compound(terms: list[str], n_scales: int, **options: object) -> CompoundLoss:
    weights = {"pixel": 0.0} | dict.fromkeys(terms, 1.0)
    problems = ClassProblems(**options)  # type: ignore[arg-type]
    made = {name: make_term(name, SETTINGS) for name in terms}
    return CompoundLoss(PixelLoss(), made, weights, problems=problems, scale_weights=SCALE_WEIGHTS[:n_scales])


def with_gradients(loss: CompoundLoss, lists: Lists) -> list[Tensor]:
    """The value of each term, and the derivative of the loss at each scale."""
    outputs = [scale.detach().requires_grad_() for scale in lists[0]]
    gradients = torch.autograd.grad(loss(outputs, *lists[1:]), outputs)
    return [torch.stack([value.float() for value in loss.values.values()]), *gradients]


def on_device(loss: CompoundLoss, lists: Lists) -> list[Tensor]:
    with CountedDevice() as device:
        return [tensor.cpu() for tensor in with_gradients(loss, tuple(device.send(*part) for part in lists))]


SIZES = {2: [(14, 11), (7, 6)], 3: [(6, 9, 7), (3, 5, 4)]}


@pytest.mark.parametrize(
    ("dim", "n_classes", "options"),
    [
        (3, 1, {}),
        (2, 3, {"ignore_label": 4}),
        (3, 2, {"regions": True}),
        (2, 3, {"components_from": "threshold"}),
        (2, 3, {"classes": [1, 3], "from_logits": False}),
    ],
    ids=["one class", "ignored", "regions", "threshold", "some classes"],
)
def test_values_and_gradients_are_those_of_the_cpu(dim: int, n_classes: int, options: dict) -> None:
    ignored, regions = "ignore_label" in options or (dim == 3 and n_classes == 2), options.get("regions", False)
    lists = problem(n_classes, SIZES[dim], regions=regions, ignored=ignored)
    if options.get("from_logits") is False:
        lists = ([scale.softmax(1) for scale in lists[0]], *lists[1:])
    loss = compound(list(TERMS), 2, **options)
    found, expected = on_device(loss, lists), with_gradients(loss, lists)
    assert (expected[0] > 0).sum() > 7 and all(gradient.any() for gradient in expected[1:])
    for there, here in zip(found, expected):
        torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_cpu_s_values(dtype: torch.dtype) -> None:
    """As a network under autocast puts it out."""
    lists = problem(2, SIZES[2])
    lists = ([scale.to(dtype) for scale in lists[0]], *lists[1:])
    loss = compound(["blob", *SEVEN], 2)
    for there, here in zip(on_device(loss, lists), with_gradients(loss, lists)):
        assert there.dtype == here.dtype
        torch.testing.assert_close(there.float(), here.float(), rtol=1e-2 if here.dtype == dtype else 1e-5, atol=1e-5)


def test_autocast_is_off_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tensors are in lists."""
    loss, seen = compound(["blob"], 2), []
    average = loss.terms["blob"].average
    monkeypatch.setattr(loss.terms["blob"], "average", lambda c: seen.append(enabled()) or average(c))

    def enabled() -> bool:
        return torch.is_autocast_enabled("counted")

    with CountedDevice() as device, torch.autocast("counted", dtype=torch.bfloat16):
        loss(*(device.send(*part) for part in problem(1, SIZES[2])))
        seen.append(enabled())
    assert seen == [False, True]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion(criterion: str) -> None:
    lists = problem(2, SIZES[2])
    loss = CompoundLoss(PixelLoss(criterion=criterion), {}, {"pixel": 1.0})
    first = tuple([part[0]] for part in lists)
    module = partial(lambda module, outputs, targets, ids: module(outputs[0], targets[0], ids[0]), loss)
    outputs = first[0][0].requires_grad_()
    expected = torch.autograd.grad(module([outputs], *first[1:]), outputs)[0]
    with CountedDevice() as device:
        there = [device.send(*part) for part in first]
        sent = there[0][0].detach().requires_grad_()
        found = torch.autograd.grad(module([sent], *there[1:]), sent)[0].cpu()
    torch.testing.assert_close(found, expected)


def test_components_may_come_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do on a device for which no way was made."""
    monkeypatch.setattr(labelling, "labeller", labeller)
    lists, loss = problem(2, SIZES[3]), compound(SEVEN, 2)
    for there, here in zip(on_device(loss, lists), with_gradients(loss, lists)):
        torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-7)


# --- what it costs --------------------------------------------------------------------------------------------------

# Of the terms in one step with four scales, forward and backward, labelling and the target's side included: kernels and
# waits with one class, and with five classes how many times as many kernels at most.
BUDGETS = {
    "blob": (["blob"], 210, 2),
    "ICI": (["instance_target", "center"], 830, 8),
    "all seven": (SEVEN, 1180, 9),
    "BiCC": (["voronoi_target", "voronoi_prediction"], 890, 8),
}
GROWTH = 1.3


@pytest.mark.parametrize("name", BUDGETS)
def test_a_step_stays_within_its_budget(name: str) -> None:
    """Sizes change nothing but the rounds in which components are merged."""
    terms, kernels, waits = BUDGETS[name]
    loss, device, counts = compound(terms, 4), CountedDevice(), []
    for n_classes in (1, 5):
        with device:
            lists = tuple(
                device.send(*part) for part in problem(n_classes, [(16, 16, 16), (8, 8, 8), (4, 4, 4), (2, 2, 2)])
            )
            with_gradients(loss, lists)  # what is kept from step to step is made in the first
            device.clear()
            with_gradients(loss, lists)
        counts.append((device.kernels.total(), device.waits.total()))
    (one, waits_of_one), (five, waits_of_five) = counts
    assert one <= kernels and waits_of_one <= waits, counts
    assert five <= GROWTH * one and waits_of_five <= waits, counts


def test_with_the_target_side_made_before_blob_waits_for_nothing() -> None:
    loss, (outputs, targets, ids) = compound(["blob"], 2), problem(3, SIZES[3])
    expected = with_gradients(loss, (outputs, targets, ids))
    with CountedDevice() as device:
        sent = [device.send(*part) for part in (outputs, targets, ids)]
        side = loss.target_side(sent[1], sent[2], n_channels=4)
        device.clear()
        x = [scale.detach().requires_grad_() for scale in sent[0]]
        gradients = torch.autograd.grad(loss(x, sent[1], side), x)
        assert not device.waits and device.kernels
        for there, here in zip(gradients, expected[1:]):
            torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("regions", [False, True])
def test_validation_counts_the_same_objects(regions: bool) -> None:
    (output,), (target,), (ids,) = problem(3, SIZES[2][:1], regions=regions, ignored=True)
    options = {"regions": regions, "ignore_label": None if regions else 4}
    expected = count_objects(output, target, ids, (1, 2), **options)
    with CountedDevice() as device:
        found = count_objects(*device.send(output, target, ids), (1, 2), **options)
    assert np.array_equal(found, expected) and expected[:, :3].any(0).all()


# --- the device itself ------------------------------------------------------------------------------------------------


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    with CountedDevice() as device:
        (there,) = device.send(torch.ones(3))
        with pytest.raises(RuntimeError, match=r"mixes the device with CPU tensors of \[\(3,\)\]"):
            there + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert (there + 1).cpu().tolist() == [2, 2, 2]


def test_the_device_counts_kernels_and_waits() -> None:
    with CountedDevice() as device:
        (there,) = device.send(torch.tensor([0.0, 1.0, 2.0]))
        device.clear()
        there.view(3, 1)[1:].sum()
        assert (device.kernels, device.waits) == ({"sum": 1}, {})
        for wait in (torch.nonzero, torch.unique, lambda x: x[x > 0], lambda x: x.sum().item(), lambda x: x.cpu()):
            device.clear()
            wait(there)
            assert device.waits.total() == 1, device.waits
