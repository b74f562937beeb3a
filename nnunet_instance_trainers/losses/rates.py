"""Missed and false rates (Rachmadi et al. 2024, Eq. 5 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities
from nnunet_instance_trainers.losses.surrogates import is_target, straight_through

__all__ = ["false_instance_loss", "rate_average"]


@in_full_precision
def false_instance_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    side: str = "target",
    surrogate_weight: float = 0.1,
    threshold: float = 0.5,
    components: Tensor | None = None,
    logits: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Missed rate (target side) or false rate (prediction side).

    Rachmadi et al. 2024, Eq. 5 and 6: the share of target instances that no component meets, or of components
    that meet no instance; mean over samples.

    Limits: 0 where every object meets one of the other side, or where there is nothing to miss; 1 where none
    does. Deviates from the published code, whose gradient is zero always: the surrogate raises the probability
    inside a missed instance and lowers it in a false component.

    Args:
        probabilities, instances, threshold, components, logits: as for
            :func:`~nnunet_instance_trainers.losses.instance.instance_segmentation_loss`.
        side: ``"target"`` or ``"prediction"``.
        surrogate_weight: scales the gradient; at full strength (1) training was seen to swing.
        valid: (B, *S) bool; objects that touch an ignored voxel are left out.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: shapes differ, or an unknown side.

    Example:
        >>> p, t = torch.tensor([[[0.9, 0.0, 0.0, 0.1]]]), torch.tensor([[[1, 0, 0, 2]]])
        >>> false_instance_loss(p, t).item(), false_instance_loss(p, t, side="prediction").item()
        (0.5, 0.0)
    """
    prediction = Probabilities(probabilities, threshold=threshold, logits=logits)
    comparison = Comparison(prediction, instances, components=components, valid=valid)
    return rate_average(comparison, side=side, surrogate_weight=surrogate_weight).mean()


def rate_average(c: Comparison, *, side: str, surrogate_weight: float = 0.1) -> Average:
    """:func:`false_instance_loss` before its division by the number of samples."""
    if is_target(side):
        objects, counted, bad, log_chance = c.instances, c.whole_instances, c.missed, c.log_instance_mean
    else:
        objects, counted, bad, log_chance = c.components, c.whole_components, c.false, c.log_component_complement
    bad = (bad & counted).to(log_chance.dtype)
    presence = bad * straight_through(torch.ones_like(log_chance), -log_chance, surrogate_weight)
    number = objects.per_sample(counted.long())
    return c.average_samples((objects.per_sample(presence) / number.clamp(min=1)).to(c.dtype), number)
