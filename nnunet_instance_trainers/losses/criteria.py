"""Criteria: how the sums of a region become a loss.

A region has voxels whose target is 1 (``positive``) and voxels whose target is 0 (``negative``). A criterion
says what a voxel contributes to the sum of either kind, and turns the two sums and the two voxel counts into
one number. It never sees an image, so one criterion serves a whole image, one instance or one component.
Several criteria of one region are a tuple; their losses add.

    >>> resolve("dice+bce")
    (Dice(smooth=1e-05), BinaryCrossEntropy())
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "ASL",
    "CRITERIA",
    "BinaryCrossEntropy",
    "Criterion",
    "CriterionSpec",
    "Dice",
    "Focal",
    "GeneralizedDice",
    "OverlapCriterion",
    "PointwiseCriterion",
    "Tversky",
    "resolve",
]


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


@dataclass(frozen=True)
class Dice(OverlapCriterion):
    """Soft Dice loss, 1 - (2 TP + s) / (2 TP + FP + FN + s).

    Equals :class:`Tversky` at alpha = beta = 0.5 with half the smoothing, and :class:`ASL` at beta = 1.
    """

    smooth: float = 1e-5

    def ratio(self, *, tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
        return (2 * tp + self.smooth) / (2 * tp + fp + fn + self.smooth)


@dataclass(frozen=True)
class Tversky(OverlapCriterion):
    """Tversky loss, 1 - (TP + s) / (TP + alpha FP + beta FN + s).

    ``alpha`` weighs false positives, ``beta`` false negatives: with beta > alpha a missed voxel costs more
    than an invented one.
    """

    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 1e-5

    def ratio(self, *, tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
        return (tp + self.smooth) / (tp + self.alpha * fp + self.beta * fn + self.smooth)


@dataclass(frozen=True)
class ASL(OverlapCriterion):
    """Asymmetric similarity loss, one minus F_beta.

    1 - ((1 + b^2) TP + s) / ((1 + b^2) TP + b^2 FN + FP + s) with b = ``beta``: recall counts b times as
    much as precision. At b = 1 it is :class:`Dice`.
    """

    beta: float = 1.5
    smooth: float = 1e-5

    def ratio(self, *, tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
        squared = self.beta**2
        hits = (1 + squared) * tp + self.smooth
        return hits / (hits + squared * fn + fp)


@dataclass(frozen=True)
class GeneralizedDice(OverlapCriterion):
    """Generalised Dice loss of the two classes foreground and background (Sudre et al. 2017).

    1 - (2 sum_c w_c I_c + s) / (sum_c w_c (P_c + T_c) + s), where I, P and T are shared, predicted and true
    mass of class c, and w_c = 1 / T_c^2, normalised to sum 1.

    Deviates from Sudre et al.: the weights are normalised before smoothing, so that s stays relative.
    Otherwise missing an object of a million voxels would cost 0.09 instead of 1. A class without voxels
    counts as one voxel large, which keeps its weight finite.
    """

    smooth: float = 1e-5

    def ratio(self, *, tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
        n_foreground, n_background = (tp + fn).clamp(min=1), (fp + tn).clamp(min=1)
        # The share 1/a^2 / (1/a^2 + 1/b^2), written so that no square overflows.
        w_foreground = 1 / (1 + (n_foreground / n_background) ** 2)
        w_background = 1 / (1 + (n_background / n_foreground) ** 2)
        shared = 2 * (w_foreground * tp + w_background * tn) + self.smooth
        return shared / (shared + (w_foreground + w_background) * (fp + fn))


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


CriterionSpec = str | Criterion | Sequence[Criterion] | Mapping[str, Mapping[str, float | None]]

CRITERIA: dict[str, type[Criterion]] = {
    "dice": Dice,
    "tversky": Tversky,
    "bce": BinaryCrossEntropy,
    "focal": Focal,
    "generalized_dice": GeneralizedDice,
    "asl": ASL,
}

# The pixel loss of the instance-loss and ICI papers weighs both classes of its focal part alike.
_PUBLISHED_SUMS: dict[tuple[str, ...], tuple[Criterion, ...]] = {
    ("focal", "generalized_dice"): (GeneralizedDice(), Focal(alpha=None))
}


def resolve(criterion: CriterionSpec) -> tuple[Criterion, ...]:
    """The criteria that a name, a sum of names, a table of parameters or an object stands for.

    Args:
        criterion: a name of :data:`CRITERIA`; names joined by "+" (in "generalized_dice+focal" focal has no
            alpha, as in the papers that use that sum); a mapping from names to their parameters (the form for
            settings in JSON); a criterion; or a sequence of criteria.

    Returns:
        The criteria whose losses are to be added.

    Raises:
        ValueError: an unknown name or parameter, with the list of what is allowed.

    Example:
        >>> resolve("dice"), resolve({"tversky": {"alpha": 0.2, "beta": 0.8}})
        ((Dice(smooth=1e-05),), (Tversky(alpha=0.2, beta=0.8, smooth=1e-05),))
    """
    if isinstance(criterion, Criterion):
        return (criterion,)
    if isinstance(criterion, str):
        names = [name.strip() for name in criterion.split("+")]
        published = _PUBLISHED_SUMS.get(tuple(sorted(names)))
        return published or tuple(_from_parameters(name, {}) for name in names)
    if isinstance(criterion, Mapping) and criterion:
        return tuple(_from_parameters(name, parameters) for name, parameters in criterion.items())
    if isinstance(criterion, Sequence) and criterion:
        parts = tuple(part for part in criterion if isinstance(part, Criterion))
        if len(parts) == len(criterion):
            return parts
    raise ValueError(
        f"criterion must be one of {', '.join(CRITERIA)}, a sum such as 'dice+bce', or a criterion "
        f"object; got {criterion!r}"
    )


def _from_parameters(name: str, parameters: Mapping[str, float | None]) -> Criterion:
    if name not in CRITERIA:
        raise ValueError(f"unknown criterion {name!r}: allowed are {', '.join(CRITERIA)} and their sums ('dice+bce')")
    known = [field.name for field in fields(CRITERIA[name])]  # type: ignore[arg-type]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(
            f"criterion {name!r} has no parameter {unknown[0]!r}: allowed are {', '.join(known) or 'none'}"
        )
    for parameter, value in parameters.items():
        if not (isinstance(value, (int, float)) and isfinite(value)) and not (name == "focal" and value is None):
            raise ValueError(f"parameter {parameter!r} of criterion {name!r} must be a number, got {value!r}")
    return CRITERIA[name](**parameters)
