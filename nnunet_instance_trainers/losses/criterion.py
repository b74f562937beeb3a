"""What a criterion is: how the sums of a region become a loss.

A region has voxels whose target is 1 (``positive``) and voxels whose target is 0 (``negative``). A criterion
says what a voxel contributes to the sum of either kind, and turns the two sums and the two voxel counts into
one number. It never sees an image, so one criterion serves a whole image, one instance, one component or one cell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["Criterion", "OverlapCriterion", "PointwiseCriterion"]


class Criterion(ABC):
    """Turns the sums of a region into a loss.

    Subclasses keep ``negative(0) == 0``: ignored voxels are given p = 0 and then count for nothing.
    """

    @abstractmethod
    def positive(self, p: Tensor) -> Tensor:
        """Contribution of voxels of probability p whose target is 1."""

    @abstractmethod
    def negative(self, p: Tensor) -> Tensor:
        """Contribution of voxels of probability p whose target is 0."""

    @abstractmethod
    def __call__(self, positive: Tensor, negative: Tensor, n_positive: Tensor, n_negative: Tensor) -> Tensor:
        """Loss of regions from their sums; all arguments broadcast.

        Args:
            positive: sum of :meth:`positive` over the voxels whose target is 1.
            negative: sum of :meth:`negative` over the voxels whose target is 0.
            n_positive: number of voxels whose target is 1.
            n_negative: number of voxels whose target is 0.
        """


class OverlapCriterion(Criterion):
    """A ratio of true positive, false positive and false negative probability mass."""

    def positive(self, p: Tensor) -> Tensor:
        return p

    def negative(self, p: Tensor) -> Tensor:
        return p

    def __call__(self, positive: Tensor, negative: Tensor, n_positive: Tensor, n_negative: Tensor) -> Tensor:
        return 1 - self.ratio(tp=positive, fp=negative, fn=n_positive - positive, tn=n_negative - negative)

    @abstractmethod
    def ratio(self, *, tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
        """The quality in [0, 1] whose complement is the loss."""


class PointwiseCriterion(Criterion):
    """The mean of a per-voxel loss over the region."""

    def __call__(self, positive: Tensor, negative: Tensor, n_positive: Tensor, n_negative: Tensor) -> Tensor:
        return (positive + negative) / (n_positive + n_negative).clamp(min=1)
