"""The output of a network and its target as binary problems, one per class or region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import (
    BinarySoftmax,
    Prediction,
    Probabilities,
    Sigmoid,
    Softmax,
)
from nnunet_instance_trainers.losses.target_side import TargetSide

__all__ = ["ClassProblems"]


class ClassProblems:
    """Cuts the output of a network and its target into binary problems, one per class or region.

    Args:
        regions: whether output and target are overlapping regions (sigmoid) instead of labels (softmax).
        classes: the channels of the output that get the loss; None means all but the background.
        ignore_label: with labels, the label of voxels that count for nothing.
        from_logits: False where the output already holds probabilities.
        components_from: ``"argmax"`` takes as predicted what wins the softmax, ``"threshold"`` what has a
            probability of at least 0.5; None is argmax for labels, as nnU-Net predicts, and threshold for
            regions. For two classes both agree but for ties.
        spacing: of the voxels at the first scale, one number per axis in any unit, where losses look at distances;
            None is 1 along each.

    Raises:
        ValueError: an unknown option, or shapes that do not belong together.
    """

    def __init__(
        self,
        *,
        regions: bool = False,
        classes: Sequence[int] | None = None,
        ignore_label: int | None = None,
        from_logits: bool = True,
        components_from: str | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        if classes is not None and not len(classes):
            raise ValueError("classes must name at least one channel, or be None for all")
        if components_from not in (None, "argmax", "threshold") or (regions and components_from == "argmax"):
            raise ValueError(f"components_from must be 'threshold', or 'argmax' with labels, got {components_from!r}")
        self.regions = regions
        self.classes = None if classes is None else tuple(sorted(classes))
        self.ignore_label = ignore_label
        self.from_logits = from_logits
        self.components_from = components_from or ("threshold" if regions else "argmax")
        self.spacing = None if spacing is None else tuple(spacing)

    def __call__(
        self,
        output: Sequence[Tensor],
        target: Sequence[Tensor],
        instances: Sequence[Tensor] | TargetSide | None,
    ) -> Comparison:
        """All binary problems of a batch, at the scales given; without ids a class is one object."""
        given = instances is not None and not isinstance(instances, TargetSide)
        ids: Sequence[Tensor | None] = instances if given else [None] * len(output)  # type: ignore[assignment]
        for scale, of_scale, ids_of_scale in zip(output, target, ids, strict=True):
            self._check(scale.shape[1], scale.shape[2:], of_scale, ids_of_scale)
        if not isinstance(instances, TargetSide):
            instances = self.target_side(target, instances, output[0].shape[1])
        return Comparison(self._prediction(output, instances.classes), instances)

    def target_side(self, target: Sequence[Tensor], instances: Sequence[Tensor] | None, n_channels: int) -> TargetSide:
        """What is known before there is an output of so many channels."""
        for number, scale in enumerate(target):
            self._check(n_channels, scale.shape[2:], scale, None if instances is None else instances[number])
        channels = self.channels(n_channels)
        if not self.regions:
            labels = [scale[:, 0] for scale in target]
            valid = None if self.ignore_label is None else [label != self.ignore_label for label in labels]
            own = labels if instances is None else [scale[:, 0] for scale in instances]
            if self.components_from == "argmax" or len(channels) == 1:
                return TargetSide(own, labels=labels, classes=channels, valid=valid, spacing=self.spacing)
            # By threshold two classes may be predicted at one voxel, at 0.5 each.
            masks = [torch.stack([label == channel for channel in channels], 1) for label in labels]
            alone = [torch.where(mask, scale.unsqueeze(1), 0).flatten(0, 1) for mask, scale in zip(masks, own)]
            return TargetSide(alone, classes=channels, valid=valid, spacing=self.spacing)
        is_ignored = target[0].shape[1] != n_channels
        valid = [~scale[:, -1].bool() for scale in target] if is_ignored else None
        masks = [torch.stack([scale[:, channel] for channel in channels], 1).bool() for scale in target]
        if instances is not None:
            own = [torch.stack([scale[:, channel] for channel in channels], 1) for scale in instances]
            masks = [torch.where(mask, scale, 0) for mask, scale in zip(masks, own)]
        alone = [mask.flatten(0, 1) for mask in masks]
        return TargetSide(alone, classes=channels, valid=valid, spacing=self.spacing)

    def channels(self, n_channels: int) -> tuple[int, ...]:
        """The channels that get the loss."""
        return self.classes or tuple(range(0 if self.regions else 1, n_channels))

    def _prediction(self, output: Sequence[Tensor], channels: tuple[int, ...]) -> Prediction:
        by_threshold = self.components_from == "threshold"
        if not self.from_logits:
            return Probabilities(output, channels, winner=not by_threshold)
        if self.regions:
            return Sigmoid(output, channels)
        if output[0].shape[1] == 2:
            return BinarySoftmax(output, by_threshold=by_threshold)
        return Softmax(output, channels, by_threshold=by_threshold)

    def _check(self, n_channels: int, spatial: torch.Size, target: Tensor, instances: Tensor | None = None) -> None:
        lowest, highest = 0 if self.regions else 1, n_channels - 1
        if self.classes is not None and not all(lowest <= channel <= highest for channel in self.classes):
            raise ValueError(f"classes must be channels from {lowest} to {highest}, got {self.classes}")
        n_ids = n_channels if self.regions else 1
        n_targets = (n_ids, n_ids + 1) if self.regions else (1,)
        if target.shape[1] not in n_targets or target.shape[2:] != spatial:
            raise ValueError(
                f"target must be (B, {' or '.join(map(str, n_targets))}, *{tuple(spatial)}), got {tuple(target.shape)}"
            )
        if instances is not None and (instances.shape[1] != n_ids or instances.shape[2:] != spatial):
            raise ValueError(f"instances must be (B, {n_ids}, *{tuple(spatial)}), got {tuple(instances.shape)}")
