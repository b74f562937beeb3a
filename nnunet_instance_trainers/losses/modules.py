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

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_instance_trainers.losses.averaging import Average, class_means
from nnunet_instance_trainers.losses.blob import blob_average, pixel_average
from nnunet_instance_trainers.losses.comparison import Comparison
from nnunet_instance_trainers.losses.criteria import CriterionSpec, resolve
from nnunet_instance_trainers.losses.instance import (
    center_average,
    instance_average,
    proximity_average,
    rate_average,
)
from nnunet_instance_trainers.losses.inverse import inverse_average
from nnunet_instance_trainers.losses.precision import in_full_precision
from nnunet_instance_trainers.losses.topk import topk_average

__all__ = [
    "BlobLoss",
    "ClassLoss",
    "ClassProblems",
    "FalseInstanceLoss",
    "InstanceCenterLoss",
    "InstanceProximityLoss",
    "InstanceSegmentationLoss",
    "InverseWeightedLoss",
    "PixelLoss",
    "TopKDiceLoss",
]


class ClassProblems:
    """Cuts the output of a network and its target into binary problems, one per class or region.

    Args:
        regions: whether output and target are overlapping regions (sigmoid) instead of labels (softmax).
        classes: the channels of the output that get the loss; None means all but the background.
        ignore_label: with labels, the label of voxels that count for nothing.
        from_logits: False where the output already holds probabilities.
        components_from: ``"argmax"`` takes as predicted what wins the softmax, ``"threshold"`` what has a
            probability of at least 0.5; None is argmax for labels, as nnU-Net predicts, and threshold for
            regions. For two classes both agree.

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

    def __call__(self, output: Tensor, target: Tensor, instances: Tensor | None) -> list[Comparison]:
        """The binary problems of a batch; without ids a class is one object."""
        self._check(output, target, instances)
        n_channels = output.shape[1]
        if self.regions:
            valid = None if target.shape[1] == n_channels else ~target[:, -1].bool()
        else:
            valid = None if self.ignore_label is None else target[:, 0] != self.ignore_label
        channels = self.classes or tuple(range(0 if self.regions else 1, n_channels))
        problems = []
        for channel, (probabilities, prediction) in zip(channels, self._predictions(output, channels)):
            mask = target[:, channel].bool() if self.regions else target[:, 0] == channel
            own = channel if self.regions else 0
            ids = mask if instances is None else torch.where(mask, instances[:, own], 0)
            problems.append(Comparison(probabilities, ids, valid=valid, **prediction))
        return problems

    def _predictions(self, output: Tensor, channels: Sequence[int]) -> list[tuple[Tensor, dict[str, Any]]]:
        """For each channel its probabilities, and what else a comparison wants to know of the prediction."""
        if not self.from_logits:
            return [(output[:, channel], self._winner(output, channel)) for channel in channels]
        if self.regions:
            logits = [output[:, channel] for channel in channels]
            return [(z.sigmoid(), {"logits": z}) for z in logits]
        if output.shape[1] == 2:
            # The softmax of two channels is the sigmoid of their difference, at half the cost. unbind, since the
            # gradient of an index would first fill a whole output with zeros.
            background, foreground = output.unbind(1)
            z = foreground - background
            return [(z.sigmoid(), {"logits": z})]
        softmax = output.softmax(1)
        return [
            (softmax[:, channel], {"lazy_logits": _log_odds(output, channel), **self._winner(output, channel)})
            for channel in channels
        ]

    def _winner(self, output: Tensor, channel: int) -> dict[str, Callable[[], Tensor]]:
        if self.components_from == "threshold":
            return {}
        return {"predicted": lambda: output.detach().argmax(1) == channel}

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


def _log_odds(output: Tensor, channel: int) -> Callable[[], Tensor]:
    """The logit whose sigmoid is channel ``channel`` of the softmax, computed when it is asked for."""

    def log_odds() -> Tensor:
        others = [c for c in range(output.shape[1]) if c != channel]
        return output[:, channel] - output[:, others].logsumexp(1)

    return log_odds


class ClassLoss(nn.Module):
    """Base of the modules: averages a loss of binary problems over the classes that have something to average.

    Args:
        problem: the options of :class:`ClassProblems`.
    """

    def __init__(self, **problem: Any) -> None:
        super().__init__()
        self.problems = ClassProblems(**problem)

    @in_full_precision
    def forward(self, output: Tensor, target: Tensor, instances: Tensor | None = None) -> Tensor:
        return class_means([[self.average(problem) for problem in self.problems(output, target, instances)]])[0]

    @abstractmethod
    def average(self, comparison: Comparison) -> Average:
        """The loss of one binary problem, before its division."""


class BlobLoss(ClassLoss):
    """Blob loss (Kofler et al. 2023, Eq. 1, 2 and 4): see :func:`functional.blob_loss`."""

    def __init__(self, *, criterion: CriterionSpec = "dice", **problem: Any) -> None:
        super().__init__(**problem)
        self.criterion = resolve(criterion)

    def average(self, comparison: Comparison) -> Average:
        return blob_average(comparison, criterion=self.criterion)


class PixelLoss(ClassLoss):
    """The criterion over the whole image, mean over samples and classes: see :func:`functional.pixel_loss`.

    Needs no ids: call it as ``loss(output, target)``.
    """

    def __init__(self, *, criterion: CriterionSpec = "dice", **problem: Any) -> None:
        super().__init__(**problem)
        self.criterion = resolve(criterion)

    def average(self, comparison: Comparison) -> Average:
        return pixel_average(comparison, criterion=self.criterion)


class InstanceSegmentationLoss(ClassLoss):
    """Instance segmentation loss (Rachmadi et al., Eq. 2 and 3): see :func:`functional.instance_segmentation_loss`."""

    def __init__(
        self,
        *,
        side: str = "target",
        exclude_other_targets: bool = True,
        missed: str = "constant",
        surrogate_weight: float = 0.1,
        criterion: CriterionSpec = "dice",
        **problem: Any,
    ) -> None:
        super().__init__(**problem)
        self.options: dict[str, Any] = {
            "side": side,
            "exclude_other_targets": exclude_other_targets,
            "missed": missed,
            "surrogate_weight": surrogate_weight,
            "criterion": resolve(criterion),
        }

    def average(self, comparison: Comparison) -> Average:
        return instance_average(comparison, **self.options)


class InstanceCenterLoss(ClassLoss):
    """Centre loss (Rachmadi et al., Eq. 4): see :func:`functional.instance_center_loss`."""

    def __init__(self, *, width: int | Sequence[int] = 7, surrogate_weight: float = 0.1, **problem: Any) -> None:
        super().__init__(**problem)
        self.width, self.surrogate_weight = width, surrogate_weight

    def average(self, comparison: Comparison) -> Average:
        return center_average(comparison, width=self.width, surrogate_weight=self.surrogate_weight)


class FalseInstanceLoss(ClassLoss):
    """Missed or false rate (Rachmadi et al. 2024, Eq. 5 and 6): see :func:`functional.false_instance_loss`."""

    def __init__(self, *, side: str = "target", surrogate_weight: float = 0.1, **problem: Any) -> None:
        super().__init__(**problem)
        self.side, self.surrogate_weight = side, surrogate_weight

    def average(self, comparison: Comparison) -> Average:
        return rate_average(comparison, side=self.side, surrogate_weight=self.surrogate_weight)


class InstanceProximityLoss(ClassLoss):
    """Proximity loss (Rachmadi et al. 2024, Eq. 7 to 10): see :func:`functional.instance_proximity_loss`."""

    def __init__(
        self,
        *,
        form: str = "mean",
        exclude_other_targets: bool = True,
        missed: str = "constant",
        surrogate_weight: float = 0.1,
        criterion: CriterionSpec = "dice",
        **problem: Any,
    ) -> None:
        super().__init__(**problem)
        if form == "mse":
            warnings.warn(
                "the published form 'mse' of the proximity loss pushes true positives down where many components are "
                "false: 'mean' is the default for that reason",
                stacklevel=2,
            )
        self.options: dict[str, Any] = {
            "form": form,
            "exclude_other_targets": exclude_other_targets,
            "missed": missed,
            "surrogate_weight": surrogate_weight,
            "criterion": resolve(criterion),
        }

    def average(self, comparison: Comparison) -> Average:
        return proximity_average(comparison, **self.options)


class TopKDiceLoss(ClassLoss):
    """TopK Dice (Hosseini 2023, Eq. 2 to 7): see :func:`functional.topk_dice_loss`. Needs no ids."""

    def __init__(self, *, k_percent: float = 50, **problem: Any) -> None:
        super().__init__(**problem)
        self.k_percent = k_percent

    def average(self, comparison: Comparison) -> Average:
        return topk_average(comparison, k_percent=self.k_percent)


class InverseWeightedLoss(ClassLoss):
    """Inverse weighting (Shirokikh et al. 2020, Table 1): see :func:`functional.inverse_weighted_loss`."""

    def __init__(self, *, criterion: str = "bce", max_weight: float | None = None, **problem: Any) -> None:
        super().__init__(**problem)
        self.criterion, self.max_weight = criterion, max_weight

    def average(self, comparison: Comparison) -> Average:
        return inverse_average(comparison, criterion=self.criterion, max_weight=self.max_weight)
