"""Criteria of single voxels: cross-entropy and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nnunet_instance_trainers.losses.criterion import PointwiseCriterion

__all__ = ["BalancedCrossEntropy", "BinaryCrossEntropy", "Focal"]


@dataclass(frozen=True)
class BinaryCrossEntropy(PointwiseCriterion):
    """Binary cross-entropy, the mean of -log p where the target is 1 and of -log(1 - p) where it is 0.

    Logarithms are cut at -100 as torch does, so p = 0 and p = 1 stay finite. Where a sigmoid has reached
    exactly 0 or 1 (in float32 beyond logits of about 17) the gradient at the logit is 0.
    """

    def positive(self, p: Tensor) -> Tensor:
        return _CrossEntropy.apply(p, True)

    def negative(self, p: Tensor) -> Tensor:
        return _CrossEntropy.apply(p, False)


@dataclass(frozen=True)
class BalancedCrossEntropy(BinaryCrossEntropy):
    """Cross-entropy in which the voxels of either target have one half: (P / (n + s) + N / (m + s)) / (2 + s).

    P is the sum of -log p over the n voxels whose target is 1, N that of -log(1 - p) over the m others; but for s it is
    half the sum of two means. It is inverse weighting with the region as image and one object (Shirokikh et al. 2020).

    With as many voxels of either target it is :class:`BinaryCrossEntropy`. Its pull on an object does not depend on how
    large the region is, nor does it fade where p is small: the gradients at the logits of an object that is missed
    sum to -1/2.
    """

    smooth: float = 1e-5

    def __call__(self, positive: Tensor, negative: Tensor, n_positive: Tensor, n_negative: Tensor) -> Tensor:
        # In the format of the sums: whole numbers would become float32.
        of_positive = positive / (n_positive.to(positive.dtype) + self.smooth).clamp(min=1)
        of_negative = negative / (n_negative.to(negative.dtype) + self.smooth).clamp(min=1)
        return (of_positive + of_negative) / (2 + self.smooth)


class _CrossEntropy(torch.autograd.Function):
    """-log p, or -log(1 - p), with torch's limits: values up to 100, gradients up to 10^12.

    ``torch.nn.functional.binary_cross_entropy`` stops at a NaN, on a GPU for good; this passes it on to the loss, as
    nnU-Net's own losses do.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, positive: bool) -> Tensor:
        ctx.save_for_backward(p)
        ctx.positive = positive
        return (p.log() if positive else (-p).log1p_()).clamp_(min=-100).neg_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        slope = gradient / (p if ctx.positive else 1 - p).clamp(min=1e-12)
        return -slope if ctx.positive else slope, None


@dataclass(frozen=True)
class Focal(PointwiseCriterion):
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - q)^gamma, q the probability of the true class.

    ``alpha`` weighs the voxels whose target is 1, 1 - alpha the others (0.75 as in the inverse-weighting
    paper); None weighs both by 1. With gamma = 0 and alpha = None it is :class:`BinaryCrossEntropy`.

    Raises:
        ValueError: gamma is negative or between 0 and 1, where the gradient at q = 1 is infinite.
    """

    gamma: float = 2.0
    alpha: float | None = 0.75

    def __post_init__(self) -> None:
        if self.gamma < 0 or 0 < self.gamma < 1:
            raise ValueError(f"gamma of the focal loss must be 0 or at least 1, got {self.gamma}")

    def positive(self, p: Tensor) -> Tensor:
        weight = 1.0 if self.alpha is None else self.alpha
        return weight * (1 - p) ** self.gamma * BinaryCrossEntropy().positive(p)

    def negative(self, p: Tensor) -> Tensor:
        weight = 1.0 if self.alpha is None else 1 - self.alpha
        return weight * p**self.gamma * BinaryCrossEntropy().negative(p)
