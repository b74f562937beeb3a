"""Criteria of a region's overlap: Dice and its relatives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nnunet_instance_trainers.losses.criterion import OverlapCriterion

__all__ = ["ASL", "AdaptiveTversky", "Dice", "GeneralizedDice", "Tversky"]

_LEAST = 1e-8
"""What a denominator is at least: without smoothing, nothing predicted where nothing is costs 1."""


@dataclass(frozen=True)
class Dice(OverlapCriterion):
    """Soft Dice loss, 1 - (2 TP + s) / (2 TP + FP + FN + s).

    Equals :class:`Tversky` at alpha = beta = 0.5 with half the smoothing, and :class:`ASL` at beta = 1.
    """

    smooth: float = 1e-5

    def ratio(self, *, tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
        return (2 * tp + self.smooth) / (2 * tp + fp + fn + self.smooth).clamp(min=_LEAST)


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
        return (tp + self.smooth) / (tp + self.alpha * fp + self.beta * fn + self.smooth).clamp(min=_LEAST)


@dataclass(frozen=True)
class AdaptiveTversky(OverlapCriterion):
    """Tversky loss whose weights follow the errors: the side with more of them weighs more.

    1 - (TP + s) / (TP + a (FP + FN) + b (FP^2 + FN^2) / (FP + FN) + s) with a = ``base`` and b = ``adaptive``: the
    weight of false positives is a + b FP / (FP + FN), that of false negatives a + b FN / (FP + FN).

    At adaptive = 0 it is :class:`Tversky` with alpha = beta = ``base``. Where FP = FN both weights are a + b / 2, by
    default those of :class:`Dice` at twice the smoothing, in value and gradient.
    """

    base: float = 0.3
    adaptive: float = 0.4
    smooth: float = 1e-5

    def ratio(self, *, tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
        both = fp + fn
        uneven = (fp.square() + fn.square()) / both.clamp(min=_LEAST)
        return (tp + self.smooth) / (tp + self.base * both + self.adaptive * uneven + self.smooth).clamp(min=_LEAST)


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
        return hits / (hits + squared * fn + fp).clamp(min=_LEAST)


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
