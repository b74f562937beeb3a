"""TopK Dice loss (Hosseini 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities

__all__ = ["topk_average", "topk_dice_loss"]

_SMOOTH = 1e-5


@in_full_precision
def topk_dice_loss(
    probabilities: Tensor, target: Tensor, *, k_percent: float = 50, valid: Tensor | None = None
) -> Tensor:
    r"""TopK Dice: Dice that looks at the worst-predicted part of the foreground only.

    Hosseini, 2023, Eq. 2 to 7. Per sample, the floor((1 - K/100) |F|) best-predicted voxels of the foreground F
    are dropped from target and prediction; the rest R and the whole background stay:

    .. math:: L = 1 - \frac{2 \sum_R p + s}{\sum_R p^2 + |R| + \sum_{background} p^2 + s}

    Limits: K = 100 is the Dice loss with squares in its denominator; a lower K costs more. Samples without
    foreground count like others. Ties are broken by position, the first of equal voxels counting as worst.

    Deviates from the paper, which breaks ties by a fixed tiny perturbation of the probabilities: position does
    the same without touching them.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        target: (B, *S) foreground mask or ids; whatever is > 0 is foreground.
        k_percent: the share K of the foreground that stays, above 0 and up to 100.
        valid: (B, *S) bool, False where voxels are ignored.

    Returns:
        A scalar, the mean over samples.

    Raises:
        ValueError: shapes differ, or K is out of range.

    Example:
        >>> p, t = torch.tensor([[0.9, 0.5, 0.0]]), torch.tensor([[1, 1, 0]])
        >>> round(topk_dice_loss(p, t).item(), 3)  # 0.9 is dropped: 1 - 2 * 0.5 / (0.25 + 1)
        0.2
    """
    return topk_average(Comparison(Probabilities(probabilities), target > 0, valid=valid), k_percent=k_percent).mean()


def topk_average(c: Comparison, *, k_percent: float = 50) -> Average:
    """:func:`topk_dice_loss` before its division by the number of samples."""
    if not 0 < k_percent <= 100:
        raise ValueError(f"k_percent must be above 0 and up to 100, got {k_percent}")
    foreground, p = c.instances, c.probabilities
    inside = c.gather(p)
    sample = foreground.sample[foreground.member]
    size = foreground.per_sample(foreground.size)
    # Sorted by sample, then by probability: the first of each sample are its worst.
    order = inside.detach().sort(stable=True).indices
    order = order[sample[order].sort(stable=True).indices]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (size.cumsum(0) - size)[sample[order]]
    kept = size - (size * (1 - k_percent / 100)).floor().long()
    stays = (rank < kept[sample]).to(inside.dtype)
    hits = foreground.per_sample(foreground.sum_gathered(inside * stays))
    squares = foreground.per_sample(foreground.sum_gathered(inside.square() * stays))
    background = foreground.background_sums(c.totals([image.square() for image in p]), inside.square())
    losses = 1 - (2 * hits + _SMOOTH) / (squares + kept + background + _SMOOTH)
    return c.average_samples(losses.to(c.dtype))
