"""Proximity loss (Rachmadi et al. 2024, Eq. 7 to 10)."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.nearest import nearest_boxes
from nnunet_instance_trainers.instances.voxels import total
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.criteria import CriterionSpec, Dice
from nnunet_instance_trainers.losses.instance import prediction_losses, target_losses
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities

__all__ = ["instance_proximity_loss", "proximity_average"]


@in_full_precision
def instance_proximity_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    form: str = "mean",
    exclude_other_targets: bool = True,
    missed: str = "constant",
    surrogate_weight: float = 0.1,
    criterion: CriterionSpec = "dice",
    threshold: float = 0.5,
    components: Tensor | None = None,
    logits: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Proximity loss: the losses of objects, weighed by how far the nearest object of the other side is.

    Rachmadi et al. 2024, Eq. 7 to 10, with tight boxes and the DIoU loss of Zheng et al. 2020:

    .. math:: A = \sum_n \min_m DIoU(n, m)\, L_{target}(n), \quad B = \sum_m \min_n DIoU(n, m)\, L_{prediction}(m)

    ``form="mse"`` is (A - B)^2 as published. ``form="mean"`` is A/N + B/M and the default: where many false
    components make B > A, descent on (A - B)^2 raises A, so it pushes true positives down. Where one side is
    empty a box 3 voxels wide in the middle of the image stands in for it, weighed by the whole image's Dice
    loss; both empty gives 0. Mean over samples. No gradient flows through boxes.

    Limits: 0 where every instance has a component with the same box and p = 1 in it.

    Args:
        form: ``"mean"`` or ``"mse"``.
        probabilities, instances, exclude_other_targets, missed, surrogate_weight, criterion, threshold,
            components, logits: as for
            :func:`~nnunet_instance_trainers.losses.instance.instance_segmentation_loss`.
        valid: (B, *S) bool; objects that touch an ignored voxel are left out.

    Returns:
        A scalar; below 4 in the "mean" form with Dice.

    Raises:
        ValueError: shapes differ; an unknown form, ``missed`` or criterion; a pointwise criterion.

    Example:
        >>> p, t = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(instance_proximity_loss(p, t).item(), 6)
        0.0
    """
    prediction = Probabilities(probabilities, threshold=threshold, logits=logits)
    comparison = Comparison(prediction, instances, components=components, valid=valid)
    return proximity_average(
        comparison,
        form=form,
        exclude_other_targets=exclude_other_targets,
        missed=missed,
        surrogate_weight=surrogate_weight,
        criterion=criterion,
    ).mean()


def proximity_average(
    c: Comparison,
    *,
    form: str = "mean",
    exclude_other_targets: bool = True,
    missed: str = "constant",
    surrogate_weight: float = 0.1,
    criterion: CriterionSpec = "dice",
) -> Average:
    """:func:`instance_proximity_loss` before its division by the number of samples."""
    if form not in ("mean", "mse"):
        raise ValueError(f"form must be 'mean' or 'mse', got {form!r}")
    target = target_losses(c, criterion, exclude_other_targets, missed, surrogate_weight)
    prediction = prediction_losses(c, criterion, surrogate_weight)
    sides = [_side(c.instances, c.whole_instances, target), _side(c.components, c.whole_components, prediction)]
    sides = [_with_stand_ins(c, *pair) for pair in (sides, sides[::-1])]
    sums, numbers = [], []
    for distances, (losses, sample, *_) in zip(nearest_boxes(sides[0][1:], sides[1][1:]), sides):
        weighed = distances * losses
        sums.append(weighed.new_zeros(c.shape[0]).index_add(0, sample, weighed))
        numbers.append(torch.bincount(sample, minlength=c.shape[0]).clamp(min=1))
    of_samples = sums[0] / numbers[0] + sums[1] / numbers[1] if form == "mean" else (sums[0] - sums[1]) ** 2
    return Average.over(of_samples.to(c.dtype), c.whole_instances.sum() + c.whole_components.sum())


_Side = tuple[Tensor, Tensor, Tensor, Tensor]  # (N,) losses and samples, (N, d) lowest and highest corners


def _side(objects: Objects, whole: Tensor, losses: Tensor) -> _Side:
    chosen = whole.nonzero().squeeze(1)
    low, high = objects.boxes()
    return losses[chosen], objects.sample[chosen], low[chosen], high[chosen]


def _with_stand_ins(c: Comparison, side: _Side, other: _Side) -> _Side:
    """Where only the other side has objects: the whole image's Dice loss, in a box 3 wide in the middle."""
    here, there = (torch.bincount(sample, minlength=c.shape[0]) > 0 for _, sample, _, _ in (side, other))
    alone = (there & ~here).nonzero().squeeze(1)
    if not len(alone):
        return side
    tp, size = (c.instances.per_sample(of)[alone] for of in (c.instance_mass, c.instances.size))
    losses = Dice()(tp, total(c.probabilities[alone]) - tp, size, size)
    middle = torch.tensor([length // 2 for length in c.shape[1:]], device=tp.device).expand(len(alone), -1)
    losses, sample, low, high = map(torch.cat, zip(side, (losses, alone, middle - 1, middle + 2)))
    return losses, sample, low, high
