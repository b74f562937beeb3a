"""Losses as modules: classes and regions as many binary problems, averaged.

A module takes the output of a network, a target and the target's instance ids:

- labels: output (B, C, *S) with background as channel 0, target (B, 1, *S) integer labels, instances
  (B, 1, *S) integer ids, one numbering for all labels. Class c is channel c of the softmax.
- regions (``regions=True``): output (B, R, *S), target (B, R, *S) masks, instances (B, R, *S) ids, one
  numbering per region. Region r is channel r of the sigmoid. A target of R + 1 channels has the mask of
  ignored voxels last, as nnU-Net hands it over.

    >>> loss = BlobLoss(criterion="tversky")
    >>> logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    >>> labels = torch.randint(0, 3, (2, 1, 8, 8))
    >>> loss(logits, labels, instances=labels).backward()
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunet_instance_trainers.losses import functional
from nnunet_instance_trainers.losses.averaging import Average, mean_over_classes
from nnunet_instance_trainers.losses.criteria import CriterionSpec, resolve
from nnunet_instance_trainers.losses.precision import in_full_precision

__all__ = ["BinaryProblem", "BlobLoss", "ClassLoss", "PixelLoss"]


class BinaryProblem(NamedTuple):
    """One class or region of a batch; all tensors are (B, *S), ``valid`` is None where nothing is ignored."""

    probabilities: Tensor
    instances: Tensor
    valid: Tensor | None


class ClassLoss(nn.Module):
    """Base of the modules: cuts output and target into binary problems and averages over them.

    Args:
        criterion: see :func:`~nnunet_instance_trainers.losses.criteria.resolve`.
        regions: whether output and target are overlapping regions (sigmoid) instead of labels (softmax).
        classes: the channels of the output that get the loss; None means all but the background.
        ignore_label: with labels, the label of voxels that count for nothing.
        from_logits: False where the output already holds probabilities.

    Raises:
        ValueError: unknown criterion, or shapes that do not belong together.
    """

    def __init__(
        self,
        *,
        criterion: CriterionSpec = "dice",
        regions: bool = False,
        classes: Sequence[int] | None = None,
        ignore_label: int | None = None,
        from_logits: bool = True,
    ) -> None:
        super().__init__()
        self.criterion = resolve(criterion)
        self.regions = regions
        if classes is not None and not len(classes):
            raise ValueError("classes must name at least one channel, or be None for all")
        self.classes = None if classes is None else tuple(classes)
        self.ignore_label = ignore_label
        self.from_logits = from_logits

    @in_full_precision
    def forward(self, output: Tensor, target: Tensor, instances: Tensor | None = None) -> Tensor:
        return mean_over_classes([self.average(problem) for problem in self.problems(output, target, instances)])

    @abstractmethod
    def average(self, problem: BinaryProblem) -> Average:
        """The loss of one binary problem, as sum and count."""

    def problems(self, output: Tensor, target: Tensor, instances: Tensor | None) -> Iterator[BinaryProblem]:
        """The binary problems of a batch, one per class or region; without ids a class is one object."""
        self._check(output, target, instances)
        n_channels = output.shape[1]
        if self.regions:
            valid = None if target.shape[1] == n_channels else ~target[:, -1].bool()
        else:
            valid = None if self.ignore_label is None else target[:, 0] != self.ignore_label
        channels = self.classes or tuple(range(0 if self.regions else 1, n_channels))
        for channel, probabilities in self._probabilities(output, channels):
            mask = target[:, channel].bool() if self.regions else target[:, 0] == channel
            if instances is None:
                ids = mask.to(torch.int32)
            else:
                ids = torch.where(mask, instances[:, channel if self.regions else 0], 0)
            yield BinaryProblem(probabilities, ids, valid)

    def _probabilities(self, output: Tensor, channels: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        if self.from_logits and not self.regions and output.shape[1] == 2:
            # The softmax of two channels is the sigmoid of their difference, at half the cost. unbind, since the
            # gradient of an index would first fill a whole output with zeros.
            background, foreground = output.unbind(1)
            yield 1, (foreground - background).sigmoid()
            return
        if self.from_logits and not self.regions:
            output = output.softmax(1)
        for channel in channels:
            needs_sigmoid = self.from_logits and self.regions
            yield channel, output[:, channel].sigmoid() if needs_sigmoid else output[:, channel]

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


class BlobLoss(ClassLoss):
    """Blob loss (Kofler et al. 2023, Eq. 1, 2 and 4): see :func:`functional.blob_loss`."""

    def average(self, problem: BinaryProblem) -> Average:
        return functional.blob_terms(
            problem.probabilities, problem.instances, criterion=self.criterion, valid=problem.valid
        )


class PixelLoss(ClassLoss):
    """The criterion over the whole image, mean over samples and classes: see :func:`functional.pixel_loss`.

    Needs no ids: call it as ``loss(output, target)``.
    """

    def average(self, problem: BinaryProblem) -> Average:
        return functional.pixel_terms(
            problem.probabilities, problem.instances, criterion=self.criterion, valid=problem.valid
        )
