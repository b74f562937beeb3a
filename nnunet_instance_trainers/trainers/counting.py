"""Objects counted in a batch of validation patches, straight from the output of the network.

The rules are those of the evaluation (``overlap``; voxels that are ignored belong to nothing, and an object that
touches one and meets nothing is not counted, for it may go on where nobody annotated) and of nnU-Net's
prediction (what wins the softmax, or a probability above 0.5 of a region).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.instances import Objects, OverlapTable, label_batch
from nnunet_instance_trainers.instances.boxes import widen
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
    rows = Objects(_instance_ids(target, ids, labels_with_ids, n_labels))
    component_ids = label_batch(predicted)
    columns = Objects(component_ids)
    # Objects of different labels do not meet, though they may share voxels.
    table = OverlapTable(rows, columns, component_ids.masked_fill(target != predicted, 0))
    met_rows = torch.bincount(table.instance, minlength=len(rows)) > 0
    met_columns = torch.bincount(table.component, minlength=len(columns)) > 0
    near = None if valid is None else _beside(~valid)
    kept_rows, kept_columns = met_rows | ~_touched(rows, near), met_columns | ~_touched(columns, near)
    row_label, column_label = _labels_of(rows, target), _labels_of(columns, predicted)
    pair_label = row_label[table.instance]

    def per_label(labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return torch.bincount(labels, weights, minlength=n_labels + 1)[1:].long()

    counts = (
        per_label(row_label[kept_rows]),
        per_label(column_label[kept_columns]),
        per_label(row_label[met_rows]),
        per_label(column_label[met_columns]),
        per_label(pair_label[_matched(table)]),
        per_label(row_label, rows.size),
        per_label(column_label, columns.size),
        per_label(pair_label, table.size),
    )
    return torch.stack(counts, 1).cpu().numpy()


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


def _labels_of(objects: Objects, labels: Tensor) -> Tensor:
    """(N,) the label of each object, whose voxels all have the same."""
    of_objects = torch.zeros(len(objects), dtype=torch.long, device=labels.device)
    of_objects[objects.member] = objects.gather(labels).long()
    return of_objects


def _matched(table: OverlapTable) -> Tensor:
    """Indices of the one-to-one pairs of IoU 0.5 or more."""
    both = table.instances.size[table.instance] + table.components.size[table.component]
    pairs = (table.instance, table.component, table.size, both)
    instance, component, shared, both = (values.cpu().numpy() for values in pairs)
    chosen = match_one_to_one(instance, component, shared / (both - shared), threshold=0.5)
    return torch.from_numpy(chosen).to(table.size.device)


def _beside(ignored: Tensor) -> Tensor:
    """(B, *S) bool, the ignored voxels and their neighbours."""
    for axis in range(1, ignored.ndim):
        ignored = widen(ignored, axis, 1)
    return ignored


def _touched(objects: Objects, near: Tensor | None) -> Tensor:
    """(N,) bool, whether a voxel of the object is marked."""
    if near is None:
        return torch.zeros_like(objects.size, dtype=torch.bool)
    return torch.bincount(objects.member[objects.gather(near)], minlength=len(objects)) > 0
