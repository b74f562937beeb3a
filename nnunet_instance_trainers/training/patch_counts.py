"""Objects counted in a batch of validation patches, straight from the output of the network.

The rules are those of the evaluation (``overlap``; voxels that are ignored belong to nothing, and an object that
touches one and meets nothing is not counted, for it may go on where nobody annotated) and of nnU-Net's
prediction (what wins the softmax, or a probability above 0.5 of a region).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.instances import Objects, OverlapTable, label_batch
from nnunet_instance_trainers.instances.cubes import with_neighbours
from nnunet_instance_trainers.instances.matching import match_one_to_one

__all__ = ["as_counts", "count_objects"]

_COLUMNS = ("instances", "components", "found", "hits", "matched", "target_voxels", "predicted_voxels", "shared_voxels")


def as_counts(row: np.ndarray) -> Counts:
    """One row of :func:`count_objects`, or a sum of such rows, as counts of voxels of 1 mL."""
    named = dict(zip(_COLUMNS, row.tolist()))
    matched = named.pop("matched")
    volumes = {"target_ml": named["target_voxels"], "predicted_ml": named["predicted_voxels"]}
    return Counts(**named, **volumes, iou50_instances=matched, iou50_components=matched)


@torch.no_grad()
def count_objects(
    output: Tensor,
    target: Tensor,
    instances: Tensor | None,
    channels: Collection[int],
    *,
    regions: bool = False,
    ignore_label: int | None = None,
) -> np.ndarray:
    """Count found, missed and false objects in a batch, for every foreground class or region.

    Args:
        output: (B, C, *S) logits; with labels channel 0 is the background.
        target: (B, 1, *S) labels, or (B, R, *S) masks of regions with the mask of ignored voxels after them.
        instances: (B, 1, *S) ids, or (B, R, *S) with regions; None takes the components of the target.
        channels: the classes (channels of the output) that ``instances`` has ids of; others get components.
        regions: whether the channels are overlapping regions.
        ignore_label: with labels, the label of voxels that count for nothing.

    Returns:
        (classes, columns) int64; rows of several batches add up, :func:`as_counts` names the columns.
    """
    if not regions:
        n_labels, labels = output.shape[1] - 1, target[:, 0]
        valid = None if ignore_label is None else labels != ignore_label
        ids = None if instances is None else instances[:, 0]
        return _count_labels(labels, _winner(output), ids, channels, valid, n_labels)
    n_regions = output.shape[1]
    valid = None if target.shape[1] == n_regions else ~target[:, -1].bool()
    counts = []
    for region in range(n_regions):
        ids = None if instances is None or region not in channels else instances[:, region]
        counts.append(_count_labels(target[:, region], output[:, region] > 0, ids, (1,), valid, 1))
    return np.concatenate(counts)


def _winner(output: Tensor) -> Tensor:
    """The channel (B, *S) of the greatest logit. On a CPU argmax takes longer than a loss (torch 2.15)."""
    return output[:, 1] > output[:, 0] if output.shape[1] == 2 else output.max(1).indices


def _count_labels(
    target: Tensor,
    predicted: Tensor,
    ids: Tensor | None,
    labels_with_ids: Collection[int],
    valid: Tensor | None,
    n_labels: int,
) -> np.ndarray:
    """(n_labels, columns) of label images (B, *S)."""
    small = torch.uint8 if n_labels < 255 else torch.int16  # what is copied and labelled is then a byte per voxel
    target, predicted = (
        image.to(small) if valid is None else image.to(small).masked_fill(~valid, 0) for image in (target, predicted)
    )
    component_ids = label_batch(predicted)
    # The table holds what both have in common and no more: of a bad prediction, half the image, nothing else is
    # listed voxel by voxel. Objects of different labels do not meet, though they may share voxels.
    shared_ids = component_ids.masked_fill(target != predicted, 0)
    table = OverlapTable(_instance_ids(target, ids, labels_with_ids, n_labels), shared_ids)
    near = None if valid is None else with_neighbours(~valid)
    rows, columns = _rows(table.instances, target, near), _columns(component_ids, predicted, near, n_labels)
    row, size = table.instance.cpu().numpy(), table.size.cpu().numpy()
    column = columns.index(table.components)[table.component.cpu().numpy()]
    both = rows.size[row] + columns.size[column]
    matched = match_one_to_one(row, column, size / (both - size), threshold=0.5)
    met_rows, met_columns = np.isin(np.arange(len(rows.size)), row), np.isin(np.arange(len(columns.size)), column)
    kept_rows, kept_columns = met_rows | ~rows.touched, met_columns | ~columns.touched

    def per_label(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(labels, weights, minlength=n_labels + 1)[1:].astype(np.int64)

    counts = (
        per_label(rows.label[kept_rows]),
        per_label(columns.label[kept_columns]),
        per_label(rows.label[met_rows]),
        per_label(columns.label[met_columns]),
        per_label(rows.label[row[matched]]),
        per_label(rows.label, rows.size),
        per_label(columns.label, columns.size),
        per_label(rows.label[row], size),
    )
    return np.stack(counts, 1)


def _instance_ids(target: Tensor, ids: Tensor | None, labels_with_ids: Collection[int], n_labels: int) -> Tensor:
    """Ids (B, *S) of all foreground, no id in two labels."""
    if ids is None:
        return label_batch(target)
    own = ids.masked_fill(target == 0, 0)
    if n_labels == 1:
        return own
    # An annotators' object is counted once in each label that it touches.
    own = torch.where(own > 0, own.int() * (n_labels + 1) + target, 0)
    others = [label for label in range(1, n_labels + 1) if label not in labels_with_ids]
    if not others:
        return own
    rest = label_batch(target * torch.isin(target, torch.tensor(others, device=target.device)))
    return torch.where(rest > 0, rest + own.max(), own)


@dataclass(frozen=True)
class _Side:
    """The objects of one side, sample after sample.

    Attributes:
        size: (N,) voxels.
        label: (N,) the label that all its voxels have.
        touched: (N,) bool, whether an ignored voxel is beside it.
        first: (B,) index of the first object of each sample; only of components.
    """

    size: np.ndarray
    label: np.ndarray
    touched: np.ndarray
    first: np.ndarray | None = None

    def index(self, objects: Objects) -> np.ndarray:
        """Where in these lists some of the objects are, whose ids count from 1 in each sample."""
        assert self.first is not None
        return self.first[objects.sample.cpu().numpy()] + objects.id.cpu().numpy() - 1


def _rows(instances: Objects, labels: Tensor, near: Tensor | None) -> _Side:
    label = torch.zeros_like(instances.size)
    label[instances.member] = instances.gather(labels).long()
    touched = torch.zeros_like(label, dtype=torch.bool)
    if near is not None:
        touched[instances.member[instances.gather(near)]] = True
    return _Side(*(values.cpu().numpy() for values in (instances.size, label, touched)))


def _columns(component_ids: Tensor, labels: Tensor, near: Tensor | None, n_labels: int) -> _Side:
    sizes, of_label, touched = [], [], []
    for sample, image in enumerate(component_ids.flatten(1)):
        size = torch.bincount(image)
        label, beside = torch.ones_like(size), torch.zeros_like(size, dtype=torch.bool)
        if n_labels > 1:
            label[image.long()] = labels[sample].flatten().long()
        if near is not None:
            beside[image[near[sample].flatten()].long()] = True
        for values, each in ((size, sizes), (label, of_label), (beside, touched)):
            each.append(values[1:].cpu().numpy())  # 0 is the background
    first = np.cumsum([0, *(len(size) for size in sizes[:-1])])
    return _Side(*map(np.concatenate, (sizes, of_label, touched)), first)
