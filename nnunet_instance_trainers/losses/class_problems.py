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
    SoftmaxChannel,
)

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
        extent: the edges of an image, one number per axis in any unit; over its voxels that is their spacing, at every
            scale of deep supervision. None is a spacing of 1 along each axis.

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
        extent: Sequence[float] | None = None,
    ) -> None:
        if classes is not None and not len(classes):
            raise ValueError("classes must name at least one channel, or be None for all")
        if components_from not in (None, "argmax", "threshold") or (regions and components_from == "argmax"):
            raise ValueError(f"components_from must be 'threshold', or 'argmax' with labels, got {components_from!r}")
        self.regions = regions
        self.classes = None if classes is None else tuple(classes)
        self.ignore_label = ignore_label
        self.from_logits = from_logits
        self.components_from = components_from or ("threshold" if regions else "argmax")
        self.extent = None if extent is None else tuple(extent)

    def __call__(self, output: Tensor, target: Tensor, instances: Tensor | None) -> list[Comparison]:
        """The binary problems of a batch; without ids a class is one object."""
        self._check(output, target, instances)
        n_channels = output.shape[1]
        if self.regions:
            valid = None if target.shape[1] == n_channels else ~target[:, -1].bool()
        else:
            valid = None if self.ignore_label is None else target[:, 0] != self.ignore_label
        channels = self.classes or tuple(range(0 if self.regions else 1, n_channels))
        spacing = self.extent and [edge / size for edge, size in zip(self.extent, output.shape[2:], strict=True)]
        problems = []
        for channel, prediction in zip(channels, self._predictions(output, channels)):
            mask = target[:, channel].bool() if self.regions else target[:, 0] == channel
            own = channel if self.regions else 0
            ids = mask if instances is None else torch.where(mask, instances[:, own], 0)
            problems.append(Comparison(prediction, ids, valid=valid, spacing=spacing))
        return problems

    def _predictions(self, output: Tensor, channels: Sequence[int]) -> list[Prediction]:
        if self.regions:
            make = Sigmoid if self.from_logits else lambda output, channel: Probabilities(output[:, channel])
            return [make(output, channel) for channel in channels]
        by_threshold = self.components_from == "threshold"
        if output.shape[1] == 2 and self.from_logits:
            return [BinarySoftmax(output, by_threshold=by_threshold)]
        softmax = Softmax(output, self.from_logits)
        return [SoftmaxChannel(softmax, channel, by_threshold=by_threshold) for channel in channels]

    def _check(self, output: Tensor, target: Tensor, instances: Tensor | None) -> None:
        lowest, highest = 0 if self.regions else 1, output.shape[1] - 1
        if self.classes is not None and not all(lowest <= channel <= highest for channel in self.classes):
            raise ValueError(f"classes must be channels from {lowest} to {highest}, got {self.classes}")
        n_ids = output.shape[1] if self.regions else 1
        n_targets = (n_ids, n_ids + 1) if self.regions else (1,)
        spatial = output.shape[2:]
        if target.shape[1] not in n_targets or target.shape[2:] != spatial:
            raise ValueError(
                f"target must be (B, {' or '.join(map(str, n_targets))}, *{tuple(spatial)}), got {tuple(target.shape)}"
            )
        if instances is not None and (instances.shape[1] != n_ids or instances.shape[2:] != spatial):
            raise ValueError(f"instances must be (B, {n_ids}, *{tuple(spatial)}), got {tuple(instances.shape)}")
