"""Proximity loss (Rachmadi et al. 2024, Eq. 7 to 10)."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.nearest import nearest_boxes
from nnunet_instance_trainers.instances.voxels import total
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.comparison import Comparison
from nnunet_instance_trainers.losses.criteria import CriterionSpec, Dice
from nnunet_instance_trainers.losses.instance import prediction_losses, target_losses
from nnunet_instance_trainers.losses.precision import in_full_precision
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

    Limits: 0 where every instance has a component with the same box and p = 1 in it. Beyond two million pairs of
    boxes in a sample, which noise has, the nearest are searched among the nearest centres of each size: see
    :func:`~nnunet_instance_trainers.instances.nearest.nearest_boxes`.

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
    boxes = [[corner.float() for corner in objects.boxes()] for objects in (c.instances, c.components)]
    losses = []
    for sample in range(c.shape[0]):
        sides = []
        for objects, whole, of_objects, (low, high) in (
            (c.instances, c.whole_instances, target, boxes[0]),
            (c.components, c.whole_components, prediction, boxes[1]),
        ):
            chosen = ((objects.sample == sample) & whole).nonzero().squeeze(1)
            sides.append((of_objects[chosen], low[chosen], high[chosen]))
        losses.append(_proximity(c, sample, sides, form))
    return Average.over(torch.stack(losses).to(c.dtype), c.whole_instances.sum() + c.whole_components.sum())


def _proximity(c: Comparison, sample: int, sides: list[tuple[Tensor, Tensor, Tensor]], form: str) -> Tensor:
    """The loss of one sample, from (losses, lowest and highest corners) of both sides."""
    if not any(len(losses) for losses, _, _ in sides):
        return c.instance_mass.sum() * 0
    sides = [side if len(side[0]) else _stand_in(c, sample) for side in sides]
    (target, *a), (prediction, *b) = sides
    nearest_target, nearest_prediction = nearest_boxes((a[0], a[1]), (b[0], b[1]))
    weighed_target, weighed_prediction = (nearest_target * target).sum(), (nearest_prediction * prediction).sum()
    if form == "mean":
        return weighed_target / len(target) + weighed_prediction / len(prediction)
    return (weighed_target - weighed_prediction) ** 2


def _stand_in(c: Comparison, sample: int) -> tuple[Tensor, Tensor, Tensor]:
    """For a side without objects: the whole image's Dice loss, in a box 3 wide in the middle of the image."""
    chosen = c.instances.sample == sample
    tp, size = c.instance_mass[chosen].sum(), c.instances.size[chosen].sum()
    everywhere = total(c.probabilities[sample, None])[0]
    middle = torch.tensor([length // 2 for length in c.shape[1:]], device=tp.device).float()[None]
    return Dice()(tp, everywhere - tp, size, size)[None], middle - 1, middle + 2
