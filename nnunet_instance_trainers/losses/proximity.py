"""Proximity loss (Rachmadi et al. 2024, Eq. 7 to 10)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.nearest import nearest_boxes
from nnunet_instance_trainers.instances.voxels import on_device, positions
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.instance import prediction_losses, target_losses
from nnunet_instance_trainers.losses.named_criteria import CriterionSpec, Dice
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
    sides = c.instances, c.components
    losses = (
        target_losses(c, criterion, exclude_other_targets, missed, surrogate_weight),
        prediction_losses(c, criterion, surrogate_weight),
    )
    near = _nearest(c)
    sums = [objects.per_sample(weight * loss) for objects, weight, loss in zip(sides, near.weights, losses)]
    if near.scales:
        tp, size = (c.instances.per_sample(of) for of in (c.instance_mass, c.instances.size))
        whole_image = Dice()(tp, c.mass_at(near.scales) - tp, size, size)
        sums = [of_side + weight * whole_image for of_side, weight in zip(sums, near.of_stand_ins)]
    target, prediction = (of_side / number for of_side, number in zip(sums, near.numbers))
    of_samples = target + prediction if form == "mean" else (sums[0] - sums[1]) ** 2
    whole = c.instances.per_sample(c.whole_instances.long()) + c.components.per_sample(c.whole_components.long())
    return c.average_samples(of_samples.to(c.dtype), whole)


class _Nearest(NamedTuple):
    """How far the nearest object of the other side is, for the target's side and the prediction's.

    Attributes:
        weights: (N,) and (M,) smallest DIoU losses, 0 for objects that are left out.
        of_stand_ins: (E,) each, those of the boxes that stand in for a side without objects, 0 where there is none.
        numbers: (E,) each, objects and stand-ins of each sample, at least 1.
        scales: those that have stand-ins.
    """

    weights: tuple[Tensor, Tensor]
    of_stand_ins: tuple[Tensor, Tensor]
    numbers: tuple[Tensor, Tensor]
    scales: frozenset[int]


_Boxes = tuple[Tensor, Tensor, Tensor]  # (N,) samples, (N, d) lowest and highest corners


def _nearest(c: Comparison) -> _Nearest:
    """Searched on the host: boxes go there in one copy and what is found comes back in one."""
    rows = [
        torch.cat((objects.sample[:, None], whole[:, None], *objects.boxes), 1)
        for objects, whole in ((c.instances, c.whole_instances), (c.components, c.whole_components))
    ]
    sides = torch.cat(rows).long().cpu().split(list(map(len, rows)))
    kept = [positions(side[:, 1] > 0).long() for side in sides]
    of_instances, of_components = (_boxes(side[of_side]) for side, of_side in zip(sides, kept))
    stand_ins = _stand_ins(c, of_instances, of_components), _stand_ins(c, of_components, of_instances)
    all_boxes = _joined(of_instances, stand_ins[0]), _joined(of_components, stand_ins[1])
    found = []
    for side, of_side, boxes, alone, near in zip(sides, kept, all_boxes, stand_ins, _by_scales(c, *all_boxes)):
        weights, of_stand_ins = near.new_zeros(len(side)), near.new_zeros(c.n_samples)
        weights[of_side], of_stand_ins[alone[0]] = near.split([len(of_side), len(alone[0])])
        number = torch.bincount(boxes[0], minlength=c.n_samples).clamp(min=1)
        found += [weights, of_stand_ins, number.to(near.dtype)]
    there = on_device(torch.cat(found), c.instances.size.device).split(list(map(len, found)))
    ends = torch.tensor([n * c.n_classes for n, *_ in c.shapes]).cumsum(0)
    standing = torch.cat((stand_ins[0][0], stand_ins[1][0]))
    scales = frozenset(torch.bucketize(standing, ends, right=True).tolist())
    return _Nearest(there[0::3], there[1::3], there[2::3], scales)


def _boxes(rows: Tensor) -> _Boxes:
    dim = (rows.shape[1] - 2) // 2
    return rows[:, 0], rows[:, 2 : 2 + dim], rows[:, 2 + dim :]


def _joined(a: _Boxes, b: _Boxes) -> _Boxes:
    return torch.cat((a[0], b[0])), torch.cat((a[1], b[1])), torch.cat((a[2], b[2]))


def _stand_ins(c: Comparison, own: _Boxes, other: _Boxes) -> _Boxes:
    """Where only the other side has objects: a box 3 wide in the middle of the image."""
    here, there = (torch.bincount(sample, minlength=c.n_samples) > 0 for sample, *_ in (own, other))
    alone = positions(there & ~here).long()
    middles = [[length // 2 for length in size] for n, *size in c.shapes for _ in range(n * c.n_classes)]
    middle = torch.tensor(middles)[alone]
    return alone, middle - 1, middle + 2


def _by_scales(c: Comparison, a: _Boxes, b: _Boxes) -> tuple[Tensor, Tensor]:
    """The smallest DIoU losses of either side, searched scale by scale, for sizes differ."""
    found = torch.zeros(len(a[0])), torch.zeros(len(b[0]))
    first = 0
    for shape in c.shapes:
        last = first + shape[0] * c.n_classes
        of_a, of_b = ((first <= sample) & (sample < last) for sample in (a[0], b[0]))
        pair = nearest_boxes((a[0][of_a], a[1][of_a], a[2][of_a]), (b[0][of_b], b[1][of_b], b[2][of_b]))
        found[0][of_a], found[1][of_b] = pair
        first = last
    return found
