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
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from nnunet_instance_trainers.losses.averaging import Average, class_means
from nnunet_instance_trainers.losses.blob import blob_average, pixel_average
from nnunet_instance_trainers.losses.center import center_average
from nnunet_instance_trainers.losses.class_problems import ClassProblems
from nnunet_instance_trainers.losses.component_weights import mil_average, tversky_average
from nnunet_instance_trainers.losses.instance import instance_average
from nnunet_instance_trainers.losses.inverse import inverse_average
from nnunet_instance_trainers.losses.named_criteria import CriterionSpec, resolve
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.proximity import proximity_average
from nnunet_instance_trainers.losses.rates import rate_average
from nnunet_instance_trainers.losses.target_side import TargetSide
from nnunet_instance_trainers.losses.topk import topk_average
from nnunet_instance_trainers.losses.voronoi import mixed, voronoi_average

__all__ = [
    "BiCCLoss",
    "BlobLoss",
    "ClassLoss",
    "ComponentTverskyLoss",
    "FalseInstanceLoss",
    "InstanceCenterLoss",
    "InstanceMILLoss",
    "InstanceProximityLoss",
    "InstanceSegmentationLoss",
    "InverseWeightedLoss",
    "PixelLoss",
    "TopKDiceLoss",
    "VoronoiLoss",
]


class ClassLoss(nn.Module):
    """Base of the modules: averages a loss of binary problems over the classes that have something to average.

    Args:
        problem: the options of :class:`ClassProblems`.

    Attributes:
        of_target: what of a :class:`TargetSide` the loss asks for; each is computed once.
    """

    of_target: tuple[str, ...] = ("instances.number", "instances.background_size")

    def __init__(self, **problem: Any) -> None:
        super().__init__()
        self.problems = ClassProblems(**problem)

    @in_full_precision
    def forward(self, output: Tensor, target: Tensor, instances: Tensor | None = None) -> Tensor:
        comparison = self.problems([output], [target], None if instances is None else [instances])
        return class_means([self.average(comparison)], comparison.n_classes).reshape(())

    @abstractmethod
    def average(self, comparison: Comparison) -> Average:
        """The means of the loss of all binary problems, before their division."""

    def prepare(self, target: TargetSide) -> None:
        """Ask for what the loss needs of the target, so that it is there before the network starts."""
        attrgetter(*self.of_target)(target)


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

    of_target = ("instances.number", "instances.centres")

    def __init__(self, *, width: int | Sequence[int] = 7, surrogate_weight: float = 0.1, **problem: Any) -> None:
        super().__init__(**problem)
        self.width, self.surrogate_weight = width, surrogate_weight

    def average(self, comparison: Comparison) -> Average:
        return center_average(comparison, width=self.width, surrogate_weight=self.surrogate_weight)


class FalseInstanceLoss(ClassLoss):
    """Missed or false rate (Rachmadi et al. 2024, Eq. 5 and 6): see :func:`functional.false_instance_loss`."""

    of_target = ("whole_instances",)

    def __init__(self, *, side: str = "target", surrogate_weight: float = 0.1, **problem: Any) -> None:
        super().__init__(**problem)
        self.side, self.surrogate_weight = side, surrogate_weight

    def average(self, comparison: Comparison) -> Average:
        return rate_average(comparison, side=self.side, surrogate_weight=self.surrogate_weight)


class InstanceProximityLoss(ClassLoss):
    """Proximity loss (Rachmadi et al. 2024, Eq. 7 to 10): see :func:`functional.instance_proximity_loss`."""

    of_target = ("instances.background_size", "instances.boxes", "whole_instances")

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


class VoronoiLoss(ClassLoss):
    """Every object in its cell (CC-DiceCE, and one side of BiCC): see :func:`functional.voronoi_loss`."""

    def __init__(
        self,
        *,
        side: str = "target",
        criterion: CriterionSpec = "dice+bce",
        empty_cell: str = "mass",
        without_instance: str = "skip",
        size_power: float = 0.0,
        cell_grid: str = "full",
        **problem: Any,
    ) -> None:
        super().__init__(**problem)
        self.options: dict[str, Any] = {
            "side": side,
            "criterion": resolve(criterion),
            "empty_cell": empty_cell,
            "without_instance": without_instance,
            "size_power": size_power,
            "cell_grid": cell_grid,
        }

    def average(self, comparison: Comparison) -> Average:
        return voronoi_average(comparison, **self.options)

    def prepare(self, target: TargetSide) -> None:
        super().prepare(target)
        if self.options["side"] == "target":
            target.cells(self.options["cell_grid"])


class BiCCLoss(ClassLoss):
    """Both sides of the Voronoi loss (BiCC without its global loss): see :func:`functional.bicc_loss`.

    No single average, since classes may occur on one side only: as terms of a compound loss take both sides of
    :class:`VoronoiLoss`.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        criterion: CriterionSpec = "dice+bce",
        empty_cell: str = "mass",
        without_instance: str = "skip",
        cell_grid: str = "full",
        **problem: Any,
    ) -> None:
        super().__init__(**problem)
        self.alpha = alpha
        options: dict[str, Any] = {
            "criterion": criterion,
            "empty_cell": empty_cell,
            "without_instance": without_instance,
            "cell_grid": cell_grid,
        }
        self.sides = [VoronoiLoss(side=side, **options) for side in ("target", "prediction")]

    @in_full_precision
    def forward(self, output: Tensor, target: Tensor, instances: Tensor | None = None) -> Tensor:
        comparison = self.problems([output], [target], None if instances is None else [instances])
        means = class_means([side.average(comparison) for side in self.sides], comparison.n_classes)
        return mixed(means[0, 0], means[1, 0], self.alpha)


class ComponentTverskyLoss(ClassLoss):
    """Tversky loss with weights by size (CAT of CATMIL): see :func:`functional.component_tversky`."""

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        size_offset: float = 5.0,
        background_weight: float = 0.01,
        without_instance: str = "skip",
        **problem: Any,
    ) -> None:
        super().__init__(**problem)
        self.options: dict[str, Any] = {
            "gamma": gamma,
            "size_offset": size_offset,
            "background_weight": background_weight,
            "without_instance": without_instance,
        }

    def average(self, comparison: Comparison) -> Average:
        return tversky_average(comparison, **self.options)


class InstanceMILLoss(ClassLoss):
    """The largest probability of each instance (MIL of CATMIL): see :func:`functional.instance_mil`."""

    def average(self, comparison: Comparison) -> Average:
        return mil_average(comparison)
