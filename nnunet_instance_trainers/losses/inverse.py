"""Inverse weighting (Shirokikh et al. 2020): every object weighs the same, and so does the background."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.voxels import sum_type
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.named_criteria import CRITERIA, PointwiseCriterion
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities

__all__ = ["WEIGHTED_CRITERIA", "inverse_average", "inverse_weighted_loss", "inverse_weights"]

WEIGHTED_CRITERIA = ("bce", "focal", "dice", "asl")
"""The criteria of the paper's Table 1."""

_SMOOTH = 1e-5


def inverse_weights(instances: Tensor, *, max_weight: float | None = None, valid: Tensor | None = None) -> Tensor:
    r"""The weight of every voxel, inverse to the size of the object that it lies in.

    Shirokikh et al., MICCAI 2020, Eq. 1: w = V / ((K + 1) |C|), with V voxels in the image, K objects in it, and C the
    voxel's object or the background. The weights of a sample sum to V.

    Limits: 1 everywhere where there is no object. Deviates from the authors' code, which also raises weights below 1
    to 1; the paper does not, nor do we.

    Args:
        instances: (B, *S) integer ids, 0 is background.
        max_weight: weights above it are cut; the sum is then below V.
        valid: (B, *S) bool; ignored voxels have weight 0 and count for nothing.

    Returns:
        (B, *S) float32.

    Example:
        >>> inverse_weights(torch.tensor([[1, 0, 0, 0]])).tolist()  # 4 / (2 * 1) and 4 / (2 * 3)
        [[2.0, 0.666..., 0.666..., 0.666...]]
    """
    objects = Objects(instances, valid=valid)
    of_objects, of_background = _weights(objects, max_weight)
    weights = of_background.float()[:, None].repeat(1, instances[0].numel())
    weights.view(-1)[objects.voxel] = of_objects.float()[objects.member]
    weights = weights.view(instances.shape)
    return weights if valid is None else weights.masked_fill(~valid, 0)


def _weights(objects: Objects, max_weight: float | None) -> tuple[Tensor, Tensor]:
    """(N,) of the objects and (B,) of the backgrounds."""
    share = objects.valid_size.to(sum_type(objects.size)) / (objects.number + 1)
    of_objects = share[objects.sample] / objects.size
    of_background = share / objects.background_size.clamp(min=1)
    if max_weight is None:
        return of_objects, of_background
    return of_objects.clamp(max=max_weight), of_background.clamp(max=max_weight)


@in_full_precision
def inverse_weighted_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    criterion: str = "bce",
    max_weight: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""A voxel loss in which every object weighs the same, whatever its size.

    Shirokikh et al., MICCAI 2020, Table 1, with w of :func:`inverse_weights` and y the target: ``"bce"`` and
    ``"focal"`` are means of w times the loss of each voxel; ``"dice"`` is
    1 - (2 sum w p y + s) / (sum w p^2 + sum w y + s); ``"asl"`` is F_beta of weighted masses. Mean over samples.

    Limits: without any object, and with objects of the background's size, it is the unweighted loss. Trades precision
    for sensitivity: false positives in the large background weigh little.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        instances: (B, *S) integer target ids, 0 is background.
        criterion: ``"bce"``, ``"focal"``, ``"dice"`` or ``"asl"``.
        max_weight: weights above it are cut.
        valid: (B, *S) bool, False where voxels are ignored.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes differ, or an unknown criterion.

    Example:
        >>> p, t = torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.tensor([[1, 0, 0, 0]])
        >>> round(inverse_weighted_loss(p, t).item(), 4)  # log 2 everywhere, and the weights have mean 1
        0.6931
    """
    comparison = Comparison(Probabilities(probabilities), instances, valid=valid)
    return inverse_average(comparison, criterion=criterion, max_weight=max_weight).mean()


def inverse_average(c: Comparison, *, criterion: str = "bce", max_weight: float | None = None) -> Average:
    """:func:`inverse_weighted_loss` before its division by the number of samples."""
    if criterion not in WEIGHTED_CRITERIA:
        raise ValueError(
            f"the inverse-weighted criterion must be one of {', '.join(WEIGHTED_CRITERIA)}, got {criterion!r}"
        )
    objects, p = c.instances, c.probabilities
    inside = c.gather(p)
    of_objects, of_background = _weights(objects, max_weight)
    part = CRITERIA[criterion]()

    def in_background(negative: Callable[[Tensor], Tensor]) -> Tensor:
        everywhere = c.totals([negative(image) for image in p])
        return of_background * objects.background_sums(everywhere, negative(inside))

    def weighed(per_object: Tensor) -> Tensor:
        return objects.per_sample(of_objects.to(per_object.dtype) * per_object)

    positive = weighed(objects.sum_gathered(part.positive(inside)))
    negative = in_background(part.negative)
    n_positive, n_negative = weighed(objects.size.to(positive.dtype)), of_background * objects.background_size
    if criterion == "dice":  # with squares, unlike the criterion of that name
        squares = weighed(objects.sum_gathered(inside.square()))
        losses = 1 - (2 * positive + _SMOOTH) / (squares + in_background(torch.square) + n_positive + _SMOOTH)
    elif isinstance(part, PointwiseCriterion):
        losses = (positive + negative) / objects.valid_size.clamp(min=1)
    else:
        losses = part(positive, negative, n_positive, n_negative)
    return c.average_samples(losses.to(c.dtype))
