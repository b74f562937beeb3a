from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from geometry import SHAPES, random_labels, random_mask, random_probabilities
from losses.plain import assert_same, with_gradient
from torch import Tensor, nn

from nnunet_instance_trainers.losses import BlobLoss, PixelLoss
from nnunet_instance_trainers.losses.functional import blob_loss, pixel_loss

PAIRS = [(BlobLoss, blob_loss), (PixelLoss, pixel_loss)]
every_loss = pytest.mark.parametrize(("module", "function"), PAIRS, ids=["blob", "pixel"])


def random_logits(shape: tuple[int, ...], seed: int) -> Tensor:
    return random_probabilities(shape, seed).logit()


def labels_of(ids: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Label images in which instance n has class ``classes[n - 1]``."""
    return torch.tensor((0, *classes))[ids]


@every_loss
def test_softmax_of_two_channels_equals_the_general_path(module, function) -> None:  # type: ignore[no-untyped-def]
    ids, logits = random_labels((16, 13), 5, seed=1)[:, None], random_logits((2, 2, 16, 13), seed=2)
    fast = with_gradient(module(), logits, ids.clamp(max=1), ids)
    general = module(from_logits=False)
    assert_same(fast, with_gradient(lambda x: general(x.softmax(1), ids.clamp(max=1), ids), logits))
    assert_same(fast, with_gradient(lambda x: function(x.softmax(1)[:, 1], ids[:, 0]), logits))


@pytest.mark.parametrize("criterion", ["dice", "tversky", "dice+bce"])
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_one_binary_problem_per_class(shape: tuple[int, ...], criterion: str) -> None:
    """Class 2 has no instance and stays out of the blob loss's mean, but not out of the pixel loss's."""
    ids, logits = random_labels(shape, 6, seed=3), random_logits((2, 4, *shape), seed=4)
    labels = labels_of(ids, (1, 3, 1, 3, 3, 1))
    labels[1][labels[1] == 3] = 0

    def problem(x: Tensor, c: int, function: Callable[..., Tensor]) -> Tensor:
        return function(x.softmax(1)[:, c], torch.where(labels == c, ids, 0), criterion=criterion)

    target = labels[:, None], ids[:, None]
    assert_same(
        with_gradient(BlobLoss(criterion=criterion), logits, *target),
        with_gradient(lambda x: sum(problem(x, c, blob_loss) for c in (1, 3)) / 2, logits),
    )
    assert_same(
        with_gradient(PixelLoss(criterion=criterion), logits, *target),
        with_gradient(lambda x: sum(problem(x, c, pixel_loss) for c in (1, 2, 3)) / 3, logits),
    )


@pytest.fixture
def nested() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, masks and ids of three regions: whole objects, their cores, and something nowhere."""
    whole = random_labels((16, 13), 5, seed=5)
    cores = torch.where(whole > 0, random_labels((16, 13), 9, seed=7), 0)  # some objects have two
    ids = torch.stack([whole, cores, torch.zeros_like(whole)], 1)
    return random_logits((2, 3, 16, 13), seed=7), ids > 0, ids


def test_regions_are_one_binary_problem_each(nested: tuple[Tensor, ...]) -> None:
    """Nested ones too, each with ids of its own; the region that occurs nowhere stays out."""
    logits, masks, ids = nested
    assert_same(
        with_gradient(BlobLoss(regions=True), logits, masks, ids),
        with_gradient(lambda x: sum(blob_loss(x[:, r].sigmoid(), ids[:, r]) for r in (0, 1)) / 2, logits),
    )
    assert_same(
        with_gradient(PixelLoss(regions=True), logits, masks),
        with_gradient(lambda x: sum(pixel_loss(x[:, r].sigmoid(), ids[:, r]) for r in range(3)) / 3, logits),
    )


@every_loss
def test_an_ignored_label_counts_for_nothing(module, function) -> None:  # type: ignore[no-untyped-def]
    ids, logits = random_labels((16, 13), 6, seed=8), random_logits((2, 3, 16, 13), seed=9)
    valid = random_mask(ids.shape, seed=10)
    labels = labels_of(ids, (1, 2, 1, 2, 2, 1)).masked_fill(~valid, 3)

    def plain(x: Tensor) -> Tensor:
        problems = [(x.softmax(1)[:, c], torch.where(labels == c, ids, 0)) for c in (1, 2)]
        return sum(function(*problem, valid=valid) for problem in problems) / 2

    result = with_gradient(module(ignore_label=3), logits, labels[:, None], ids[:, None])
    assert_same(result, with_gradient(plain, logits))
    assert (result[1].movedim(1, -1)[~valid] == 0).all()


@every_loss
def test_an_ignore_mask_comes_after_the_regions(module, function, nested) -> None:  # type: ignore[no-untyped-def]
    logits, masks, ids = nested
    ignored = ~random_mask((2, 1, 16, 13), seed=11)
    valid = ~ignored[:, 0]
    regions = range(3) if module is PixelLoss else (0, 1)

    def plain(x: Tensor) -> Tensor:
        return sum(function(x[:, r].sigmoid(), ids[:, r], valid=valid) for r in regions) / len(regions)

    for dtype in (torch.bool, torch.float32, torch.int16):
        target = torch.cat([masks, ignored], 1).to(dtype)
        result = with_gradient(module(regions=True), logits, target, ids)
        assert_same(result, with_gradient(plain, logits))
    assert (result[1].movedim(1, -1)[~valid] == 0).all()


@every_loss
def test_only_the_named_classes_get_the_loss(module, function, nested) -> None:  # type: ignore[no-untyped-def]
    ids, logits = random_labels((16, 13), 6, seed=12), random_logits((2, 4, 16, 13), seed=13)
    labels = labels_of(ids, (1, 2, 3, 1, 2, 3))
    value = module(classes=[1, 3])(logits, labels[:, None], ids[:, None])
    p = logits.softmax(1)
    expected = [function(p[:, c], torch.where(labels == c, ids, 0)) for c in (1, 3)]
    torch.testing.assert_close(value, sum(expected) / 2)

    logits, masks, ids = nested
    value = module(regions=True, classes=[1])(logits, masks, ids)
    torch.testing.assert_close(value, function(logits[:, 1].sigmoid(), ids[:, 1]))


@every_loss
@pytest.mark.parametrize(("classes", "says"), [([0], "from 1 to 1"), ([2], "from 1 to 1"), ([], "at least one")])
def test_classes_that_are_no_foreground_channels_are_refused(module, function, classes, says) -> None:  # type: ignore[no-untyped-def]
    del function
    ids = random_labels((16, 13), 5, seed=23)[:, None]
    with pytest.raises(ValueError, match=says):
        module(classes=classes)(random_logits((2, 2, 16, 13), seed=24), ids.clamp(max=1), ids)


@every_loss
def test_probabilities_are_taken_as_they_are(module, function, nested) -> None:  # type: ignore[no-untyped-def]
    del function
    logits, masks, ids = nested
    expected = module(regions=True)(logits, masks, ids)
    torch.testing.assert_close(module(regions=True, from_logits=False)(logits.sigmoid(), masks, ids), expected)
    labels = labels_of(ids[:, :1], (1, 2, 1, 2, 2))
    expected = module()(logits, labels, ids[:, :1])
    torch.testing.assert_close(module(from_logits=False)(logits.softmax(1), labels, ids[:, :1]), expected)


def test_the_pixel_loss_needs_no_ids() -> None:
    ids, logits = random_labels((16, 13), 6, seed=14)[:, None], random_logits((2, 3, 16, 13), seed=15)
    labels = labels_of(ids, (1, 2, 1, 2, 2, 1))
    assert_same(with_gradient(PixelLoss(), logits, labels), with_gradient(PixelLoss(), logits, labels, ids))


def test_without_ids_a_class_is_one_object() -> None:
    ids, logits = random_labels((16, 13), 6, seed=16)[:, None], random_logits((2, 3, 16, 13), seed=17)
    labels = labels_of(ids, (1, 2, 1, 2, 2, 1))
    assert_same(with_gradient(BlobLoss(), logits, labels), with_gradient(BlobLoss(), logits, labels, labels))
    assert BlobLoss()(logits, labels) != BlobLoss()(logits, labels, ids)


def test_an_id_counts_once_in_each_class_that_it_touches_and_nowhere_else() -> None:
    """Annotators' ids may lie half on one class, half on another, and reach into the background."""
    ids = torch.tensor([[[1, 1, 1, 1, 2, 2]]])
    labels = torch.tensor([[[1, 1, 2, 0, 2, 0]]])
    p = torch.tensor([[[0.1] * 6, [0.5, 0.5, 0.2, 0.2, 0, 0], [0, 0, 0.5, 0.25, 0.25, 0]]]).double()
    # class 1: 2*1.0 / (1.0 + 0.4 + 2); class 2, first and second: FP = 0.25 each
    expected = ((1 - 2 / 3.4) + ((1 - 1 / (0.5 + 0.25 + 1)) + (1 - 0.5 / (0.25 + 0.25 + 1))) / 2) / 2
    assert BlobLoss(from_logits=False)(p, labels, ids).item() == pytest.approx(expected, abs=1e-5)


@every_loss
def test_half_precision_and_autocast_give_float32(module, function) -> None:  # type: ignore[no-untyped-def]
    del function
    ids, logits = random_labels((16, 13), 6, seed=18)[:, None], random_logits((2, 3, 16, 13), seed=19)
    labels = labels_of(ids, (1, 2, 1, 2, 2, 1))
    for dtype in (torch.float16, torch.bfloat16):
        expected = module()(logits.to(dtype).float(), labels, ids)
        assert torch.equal(module()(logits.to(dtype), labels, ids), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = module()(nn.Conv2d(3, 3, 1)(logits.float()), labels, ids)
    assert result.dtype == torch.float32


def test_nothing_to_find_gives_an_attached_zero() -> None:
    logits, nothing = random_logits((2, 3, 5, 6), seed=20), torch.zeros(2, 1, 5, 6, dtype=torch.int64)
    for ignore_label in (None, 0):
        value, gradient = with_gradient(BlobLoss(ignore_label=ignore_label), logits, nothing, nothing)
        assert value == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("regions", "target", "instances", "message"),
    [
        (False, (2, 2, 4, 5), (2, 1, 4, 5), r"target must be \(B, 1, \*\(4, 5\)\), got \(2, 2, 4, 5\)"),
        (False, (2, 1, 5, 4), (2, 1, 4, 5), r"target must be \(B, 1, \*\(4, 5\)\), got \(2, 1, 5, 4\)"),
        (False, (2, 1, 4, 5), (2, 3, 4, 5), r"instances must be \(B, 1, \*\(4, 5\)\), got \(2, 3, 4, 5\)"),
        (False, (2, 1, 4, 5), (2, 1, 4), r"instances must be \(B, 1, \*\(4, 5\)\), got \(2, 1, 4\)"),
        (True, (2, 1, 4, 5), (2, 3, 4, 5), r"target must be \(B, 3 or 4, \*\(4, 5\)\), got \(2, 1, 4, 5\)"),
        (True, (2, 4, 4, 5), (2, 4, 4, 5), r"instances must be \(B, 3, \*\(4, 5\)\), got \(2, 4, 4, 5\)"),
    ],
)
@every_loss
def test_shapes_that_do_not_belong_together_are_refused(module, function, regions, target, instances, message) -> None:  # type: ignore[no-untyped-def]
    del function
    with pytest.raises(ValueError, match=message):
        module(regions=regions)(torch.zeros(2, 3, 4, 5), torch.zeros(target), torch.zeros(instances))


@every_loss
def test_unknown_options_are_refused(module, function) -> None:  # type: ignore[no-untyped-def]
    del function
    with pytest.raises(ValueError, match="unknown criterion 'dize'"):
        module(criterion="dize")
    with pytest.raises(TypeError, match="region"):
        module(region=True)


SHARES = {"2 and 1": ([0, 1], [2]), "one without instances": ([0, 1], [3]), "nothing anywhere": ([3], [3])}


def loss_of_samples(module: nn.Module, samples: list[int]) -> tuple[Tensor, Tensor]:
    """Loss and derivative with respect to the weights of a model, on some of four samples.

    Class 2 occurs in sample 0 only, and sample 3 has no instances.
    """
    ids, features = random_labels((9, 8), 4, seed=21, batch=4), random_logits((4, 3, 9, 8), seed=22)
    ids[3] = 0
    labels = labels_of(ids, (1, 1, 2, 1))
    labels[1:][labels[1:] == 2] = 0
    x, target = features[samples], (labels[samples, None], ids[samples, None])
    return with_gradient(
        lambda weights: module(x * weights, *target), torch.tensor([1.0, 2, 3]).double()[:, None, None]
    )


def rank_of_two(rank: int, folder: str) -> None:
    """One of two processes: writes its loss and gradient for each way to share the samples."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )
    modules = {"blob": BlobLoss(), "pixel": PixelLoss()}
    results = {(name, k): loss_of_samples(m, v[rank]) for name, m in modules.items() for k, v in SHARES.items()}
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_over_two_processes_the_mean_is_that_of_the_joined_batch(tmp_path: Path) -> None:
    """Loss and gradient averaged over the ranks, as DDP does; unequal shares, and ranks without instances."""
    # Forked, since a spawned process could not import a test file.
    torch.multiprocessing.start_processes(rank_of_two, (str(tmp_path),), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name, module in (("blob", BlobLoss()), ("pixel", PixelLoss())):
        for share, (first, second) in SHARES.items():
            averaged = tuple((a + b) / 2 for a, b in zip(*(rank[name, share] for rank in ranks)))
            assert_same(averaged, loss_of_samples(module, first + second))
    plain_mean = sum(loss_of_samples(BlobLoss(), samples)[0] for samples in SHARES["2 and 1"]) / 2
    assert abs(plain_mean - loss_of_samples(BlobLoss(), [0, 1, 2])[0]) > 1e-3
