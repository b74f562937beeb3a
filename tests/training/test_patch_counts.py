"""What is counted during validation is what ``evaluation.detect`` finds, image by image and class by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from geometry import SHAPES, Box, generator, paint, random_labels, random_mask
from torch import Tensor

from nnunet_instance_trainers.evaluation import Counts, detect
from nnunet_instance_trainers.training.patch_counts import as_counts, count_objects

pytestmark = pytest.mark.nnunet  # importing the trainers imports nnU-Net

SHAPE = (8, 12)
READ = ("instances", "components", "found", "hits", "iou50_instances", "iou50_components")
READ += ("target_voxels", "predicted_voxels", "shared_voxels", "sensitivity", "precision", "f1", "f1_iou50")


def read(counts: Counts) -> dict[str, float]:
    return {name: getattr(counts, name) for name in READ}


def expected(targets: Tensor, masks: Tensor, valid: Tensor | None = None) -> Counts:
    """The sum over the images of a batch, of ids (B, *S) and predicted masks (B, *S)."""
    total = Counts()
    for i, (ids, mask) in enumerate(zip(targets.numpy(), masks.numpy())):
        total += detect(ids, mask, valid=None if valid is None else valid[i].numpy()).counts
    return total


def components(masks: Tensor) -> Tensor:
    from nnunet_instance_trainers.instances import label_components

    return torch.stack([torch.from_numpy(label_components(m)[0].astype(np.int32)) for m in masks.numpy()])


def random_logits(labels: Tensor, n_channels: int, seed: int) -> Tensor:
    """Logits (B, C, *S) that follow the labels, with errors."""
    noise = torch.randn((len(labels), n_channels, *labels.shape[1:]), generator=generator(seed))
    return noise + 2 * torch.stack([labels == c for c in range(n_channels)], 1)


def assert_rows(rows: np.ndarray, *counts: Counts) -> None:
    assert len(rows) == len(counts)
    for row, wanted in zip(rows, counts):
        np.testing.assert_equal(read(as_counts(row)), read(wanted))
        assert wanted.instances == 0 or as_counts(row).volume_ratio == pytest.approx(wanted.volume_ratio)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_channels", [2, 4])
@pytest.mark.parametrize("with_ignored", [False, True])
def test_labels_equal_detect(shape, seed, n_channels, with_ignored) -> None:
    labels = random_labels(shape, 9, seed) % n_channels
    output = random_logits(labels, n_channels, seed)
    ignore, valid = None, None
    if with_ignored:
        ignore, valid = n_channels, random_mask(labels.shape, seed, share=0.98)
        labels = labels.where(valid, torch.tensor(n_channels))
    rows = count_objects(output, labels[:, None], None, range(1, n_channels), ignore_label=ignore)
    classes = range(1, n_channels)
    winner = output.argmax(1)
    assert_rows(rows, *(expected(components(labels == c), winner == c, valid) for c in classes))


@pytest.mark.parametrize("with_ignored", [False, True])
def test_regions_equal_detect(with_ignored) -> None:
    masks = torch.stack([random_labels(SHAPES[1], 6, seed) > 0 for seed in range(3)], 1)
    output = torch.randn(masks.shape, generator=generator(0)) + 3 * masks - 1.5
    valid, target = None, masks
    if with_ignored:
        valid = random_mask((2, *SHAPES[1]), 5, share=0.98)
        target = torch.cat((masks, ~valid[:, None]), 1)
    rows = count_objects(output, target, None, range(3), regions=True)
    assert_rows(rows, *(expected(components(masks[:, r]), output[:, r] > 0, valid) for r in range(3)))


def test_given_ids_keep_touching_objects_apart() -> None:
    ids = paint(SHAPE, [Box((1, 1), (4, 4)), Box((1, 4), (4, 6)), Box((6, 1), (7, 3))], [7, 3, 9])[None, None]
    target, output = (ids > 0).long(), torch.zeros(1, 2, *SHAPE)
    output[0, 1, 1:4, 1:4] = 1  # the first alone, exactly
    counts = as_counts(count_objects(output, target, ids.short(), [1])[0])
    assert (counts.instances, counts.found, counts.components, counts.hits) == (3, 1, 1, 1)
    assert (counts.sensitivity, counts.precision, counts.f1) == (1 / 3, 1.0, 0.5)
    assert (counts.f1_iou50, counts.volume_ratio) == (2 / 4, 9 / 17)
    assert as_counts(count_objects(output, target, None, [1])[0]).instances == 2  # components merge the touching ones


def test_classes_without_ids_get_components() -> None:
    labels = paint(SHAPE, [Box((1, 1), (3, 3)), Box((1, 5), (3, 7)), Box((5, 1), (7, 3)), Box((5, 3), (7, 5))])[None]
    labels, ids = (labels + 1) // 2, labels.where(labels > 2, 0)  # 1, 1, 2, 2; ids of label 2 only, which touch
    output = random_logits(labels, 3, 0)
    rows = count_objects(output, labels[:, None], ids[:, None], [2])
    assert [as_counts(row).instances for row in rows] == [2, 2]
    assert [as_counts(row).instances for row in count_objects(output, labels[:, None], None, [2])] == [2, 1]


def test_ids_of_components_beside_given_ids_are_their_own() -> None:
    labels = torch.zeros(1, 1, *SHAPE, dtype=torch.int16)
    labels[..., ::2, :3:2] = 1  # eight voxels
    labels[..., 8:] = 2
    rows = count_objects(torch.zeros(1, 3, *SHAPE), labels, (labels == 2).short(), [2])
    assert [as_counts(row).instances for row in rows] == [8, 1]


def test_objects_beside_ignored_voxels_count_only_if_they_meet_something() -> None:
    labels = paint(SHAPE, [Box((0, 2), (2, 4)), Box((3, 2), (5, 4)), Box((6, 7), (8, 9))]).clamp(max=1)
    labels[:, :2] = 2
    output = torch.zeros(1, 2, *SHAPE)
    output[0, 1, 3:5, 3:5] = 1  # meets the second instance, which an ignored voxel touches, as one touches the first
    output[0, 1, 7, 2] = 1  # false, and beside an ignored voxel
    counts = as_counts(count_objects(output, labels[None, None], None, [1], ignore_label=2)[0])
    assert (counts.instances, counts.found, counts.components, counts.hits) == (2, 1, 1, 1)
    assert counts.volume_ratio == 5 / 12  # volumes are those of all objects


def test_regions_without_ids_get_components() -> None:
    ids = paint(SHAPE, [Box((1, 1), (3, 3)), Box((1, 3), (3, 5))])[None]
    target = torch.stack((ids > 0, ids > 0), 1)
    instances = torch.stack((torch.zeros_like(ids), ids), 1)
    rows = count_objects(torch.zeros(1, 2, *SHAPE), target, instances, [1], regions=True)
    assert [as_counts(row).instances for row in rows] == [1, 2]


def test_an_object_in_two_labels_counts_in_each() -> None:
    ids = paint(SHAPE, [Box((1, 1), (5, 5))], [4])
    labels = ids.clamp(max=1)
    labels[1:5, 3:5] = 2
    output = torch.zeros(1, 3, *SHAPE)
    output[0, 1, 1:5, 1:5] = 1  # all of it is taken for label 1
    one, two = map(as_counts, count_objects(output, labels[None, None], ids[None, None], [1, 2]))
    assert (one.instances, one.found, one.volume_ratio) == (1, 1, 2.0)
    assert (two.instances, two.found, two.components) == (1, 0, 0)


def test_batches_add_up() -> None:
    labels = random_labels(SHAPES[0], 9, 1, batch=4) % 3
    output = random_logits(labels, 3, 1)
    parts = [count_objects(output[i : i + 2], labels[i : i + 2, None], None, [1, 2]) for i in (0, 2)]
    np.testing.assert_array_equal(sum(parts), count_objects(output, labels[:, None], None, [1, 2]))


@pytest.mark.parametrize("regions", [False, True])
def test_nothing_there_counts_nothing(regions) -> None:
    target = torch.zeros(2, 3 if regions else 1, *SHAPE, dtype=torch.bool if regions else torch.int16)
    output = torch.full((2, 3, *SHAPE), -1.0)
    assert not count_objects(output, target, None, [1, 2], regions=regions).any()


def test_half_precision_and_gradients_change_nothing() -> None:
    labels = random_labels(SHAPES[0], 9, 2) % 2
    output = random_logits(labels, 2, 2).half()
    rows = count_objects(output.clone().requires_grad_(), labels[:, None], None, [1])
    np.testing.assert_array_equal(rows, count_objects(output.float(), labels[:, None], None, [1]))


def test_what_nnunet_wants_to_see_stays_as_it_is() -> None:
    labels = random_labels(SHAPES[0], 9, 2)[:, None] % 3
    output, before = random_logits(labels[:, 0], 2, 2), labels.clone()
    kept = output.clone()
    count_objects(output, labels, labels, [1], ignore_label=2)
    assert (labels == before).all() and (output == kept).all()
