"""The instance family (Rachmadi et al. 2023 and 2024): segmentation, centre, missed and false, proximity.

The published code of several of these terms has zero gradient. Here the values are the published ones, and
where a formula holds the mere presence of an object (missed, false, the value of a cube) a surrogate carries
the gradient, straight through: -log(mean p) in a missed instance, -log(1 - mean p) in a false component. Its
gradient at the logits sums to at most 1 per object, so huge objects are harmless and the tiniest pull
hardest per voxel. Surrogates need a leash: ``surrogate_weight`` scales their gradient, not the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.boxes import count_around, draw_cubes, nearest_boxes, voxels
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.blob import pixel_average
from nnunet_instance_trainers.losses.comparison import Comparison
from nnunet_instance_trainers.losses.criteria import CriterionSpec, Dice, OverlapCriterion, resolve
from nnunet_instance_trainers.losses.precision import in_full_precision

__all__ = [
    "center_average",
    "false_instance_loss",
    "instance_average",
    "instance_center_loss",
    "instance_proximity_loss",
    "instance_segmentation_loss",
    "instance_terms",
    "proximity_average",
    "rate_average",
]


@in_full_precision
def instance_segmentation_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    side: str = "target",
    exclude_other_targets: bool = True,
    missed: str = "constant",
    surrogate_weight: float = 0.1,
    criterion: CriterionSpec = "dice",
    threshold: float = 0.5,
    components: Tensor | None = None,
    logits: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Instance segmentation loss: each object is compared with what it meets on the other side.

    Rachmadi et al., ICI loss (2023) and instance loss (2024), Eq. 2 and 3.

    .. math:: L_{target} = \frac{1}{N} \sum_n \ell(p\ \text{in}\ \bigcup_{m \in M(n)} m,\ P_n), \quad
              L_{prediction} = \frac{1}{M} \sum_m \ell(p\ \text{in}\ m,\ \bigcup_{n \in N(m)} P_n)

    M(n) are the components that meet instance n, N(m) the instances that meet component m; means are over all
    instances, or all components, of the batch.

    Limits: where one component covers one instance exactly it is the criterion between both. A missed instance
    costs the criterion at p = 0, which for Dice is 1, and so does a false component.

    Deviates from the published code, which examines the first 50 components, squares p in false positives and
    has no gradient for missed instances and next to none for false components: ``missed="soft"`` gives the
    former a surrogate; the latter always have one, scaled by ``surrogate_weight``.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        instances: (B, *S) integer target ids, 0 is background.
        side: ``"target"`` or ``"prediction"``.
        exclude_other_targets: target side: leave out the voxels of other instances (False counts them as false
            positives).
        missed: target side: ``"constant"``, the published behaviour, or ``"soft"``. Soft over-segments unless
            it is paired with the false rate.
        surrogate_weight: scales the gradient of surrogates; 0 switches them off.
        criterion: an overlap criterion or a sum of such.
        threshold: a voxel counts as predicted from this probability on.
        components: (B, *S) ids of predicted components; None labels ``probabilities >= threshold``.
        logits: (B, *S) with probabilities = sigmoid(logits), for surrogates in log space.
        valid: (B, *S) bool, False where voxels are ignored. On the prediction side, components that touch an
            ignored voxel are left out.

    Returns:
        A scalar; 0 with a zero gradient where there is nothing to average.

    Raises:
        ValueError: shapes differ; an unknown side, ``missed`` or criterion; a pointwise criterion.

    Example:
        >>> p = torch.tensor([[0.9, 0.6, 0.0, 0.1]])
        >>> t = torch.tensor([[1, 0, 0, 2]])  # instance 1 meets a component of 0.9 + 0.6, instance 2 is missed
        >>> round(instance_segmentation_loss(p, t).item(), 3)  # (1 - 2 * 0.9 / (1 + 1.5) + 1) / 2
        0.64
    """
    comparison = Comparison(
        probabilities, instances, components=components, threshold=threshold, logits=logits, valid=valid
    )
    return instance_average(
        comparison,
        side=side,
        exclude_other_targets=exclude_other_targets,
        missed=missed,
        surrogate_weight=surrogate_weight,
        criterion=criterion,
    ).mean()


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
        probabilities, instances, threshold, components, logits: as for :func:`instance_segmentation_loss`.
        side: ``"target"`` or ``"prediction"``.
        surrogate_weight: scales the gradient; at full strength (1) training was seen to swing.
        valid: (B, *S) bool; objects that touch an ignored voxel are left out.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: shapes differ, or an unknown side.

    Example:
        >>> p, t = torch.tensor([[0.9, 0.0, 0.0, 0.1]]), torch.tensor([[1, 0, 0, 2]])
        >>> false_instance_loss(p, t).item(), false_instance_loss(p, t, side="prediction").item()
        (0.5, 0.0)
    """
    comparison = Comparison(
        probabilities, instances, components=components, threshold=threshold, logits=logits, valid=valid
    )
    return rate_average(comparison, side=side, surrogate_weight=surrogate_weight).mean()


@in_full_precision
def instance_center_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    width: int | Sequence[int] = 7,
    surrogate_weight: float = 0.1,
    threshold: float = 0.5,
    components: Tensor | None = None,
    logits: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Centre loss: Dice between cubes around the centres of both sides.

    Rachmadi et al. 2023 and 2024, Eq. 4. Every instance and every component becomes a cube around its centre,
    clipped at the border; cubes of one side merge. Mean over samples, 0 where both pictures are empty.

    The centre is the unweighted mean position, rounded half up. Cubes are constants, so the published code has
    zero gradient. Here the cube of a component has the surrogate log(mean p) where it lies on a cube of the
    target and -log(1 - mean p) elsewhere: a component in the right place is confirmed, another one fades.

    Limits: 0 where both sides have the same centres; about 1 where no cubes touch.

    Args:
        probabilities, instances, threshold, components, logits, valid: as for
            :func:`instance_segmentation_loss`.
        width: odd width of the cubes in voxels, one number or one per axis.
        surrogate_weight: scales the gradient.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: shapes differ; a width that is not odd, or of another number of axes.

    Example:
        >>> p, t = torch.zeros(1, 9, 9), torch.zeros(1, 9, 9, dtype=torch.long)
        >>> p[0, 2, 4], t[0, 4, 4] = 0.9, 1
        >>> round(instance_center_loss(p, t, width=5).item(), 3)  # rows 0-4 and 2-6: 1 - 2 * 15 / 50
        0.4
    """
    comparison = Comparison(
        probabilities, instances, components=components, threshold=threshold, logits=logits, valid=valid
    )
    return center_average(comparison, width=width, surrogate_weight=surrogate_weight).mean()


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
            components, logits: as for :func:`instance_segmentation_loss`.
        valid: (B, *S) bool; objects that touch an ignored voxel are left out.

    Returns:
        A scalar; below 4 in the "mean" form with Dice.

    Raises:
        ValueError: shapes differ; an unknown form, ``missed`` or criterion; a pointwise criterion.

    Example:
        >>> p, t = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1, 1, 0, 0]])
        >>> round(instance_proximity_loss(p, t).item(), 6)
        0.0
    """
    comparison = Comparison(
        probabilities, instances, components=components, threshold=threshold, logits=logits, valid=valid
    )
    return proximity_average(
        comparison,
        form=form,
        exclude_other_targets=exclude_other_targets,
        missed=missed,
        surrogate_weight=surrogate_weight,
        criterion=criterion,
    ).mean()


@in_full_precision
def instance_terms(
    probabilities: Tensor,
    instances: Tensor,
    *,
    exclude_other_targets: bool = True,
    missed: str = "constant",
    width: int | Sequence[int] = 7,
    form: str = "mean",
    surrogate_weight: float = 0.1,
    criterion: CriterionSpec = "dice",
    threshold: float = 0.5,
    components: Tensor | None = None,
    logits: Tensor | None = None,
    valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """All terms of the instance loss (Rachmadi et al. 2024, Eq. 11) from one labelling and one table.

    Args:
        As for the single terms.

    Returns:
        ``pixel`` (the criterion over the whole image), ``instance_target``, ``instance_prediction``, ``center``,
        ``missed_rate``, ``false_rate`` and ``proximity``; their weighted sum is Eq. 11.

    Raises:
        ValueError: as the single terms.

    Example:
        >>> p, t = torch.tensor([[0.9, 0.0, 0.0, 0.1]]), torch.tensor([[1, 0, 0, 2]])
        >>> sorted(instance_terms(p, t))[:3]
        ['center', 'false_rate', 'instance_prediction']
    """
    c = Comparison(probabilities, instances, components=components, threshold=threshold, logits=logits, valid=valid)
    target_side: dict[str, Any] = {"exclude_other_targets": exclude_other_targets, "missed": missed}
    common: dict[str, Any] = {"surrogate_weight": surrogate_weight, "criterion": criterion}
    averages = {
        "pixel": pixel_average(c, criterion=criterion),
        "instance_target": instance_average(c, side="target", **target_side, **common),
        "instance_prediction": instance_average(c, side="prediction", **common),
        "center": center_average(c, width=width, surrogate_weight=surrogate_weight),
        "missed_rate": rate_average(c, side="target", surrogate_weight=surrogate_weight),
        "false_rate": rate_average(c, side="prediction", surrogate_weight=surrogate_weight),
        "proximity": proximity_average(c, form=form, **target_side, **common),
    }
    return {name: average.mean() for name, average in averages.items()}


# --- the same on a comparison that several terms share ----------------------------------------------------------


def instance_average(
    c: Comparison,
    *,
    side: str,
    exclude_other_targets: bool = True,
    missed: str = "constant",
    surrogate_weight: float = 0.1,
    criterion: CriterionSpec = "dice",
) -> Average:
    """:func:`instance_segmentation_loss` before its division."""
    if _is_target(side):
        losses = _target_losses(c, criterion, exclude_other_targets, missed, surrogate_weight)
    else:
        losses = _prediction_losses(c, criterion, surrogate_weight)[c.whole_components]
    return Average.over(losses.to(c.probabilities.dtype))


def rate_average(c: Comparison, *, side: str, surrogate_weight: float = 0.1) -> Average:
    """:func:`false_instance_loss` before its division by the number of samples."""
    if _is_target(side):
        objects, counted, bad, log_chance = c.instances, c.whole_instances, c.missed, c.log_instance_mean
    else:
        objects, counted, bad, log_chance = c.components, c.whole_components, c.false, c.log_component_complement
    bad = (bad & counted).to(log_chance.dtype)
    presence = bad * _straight_through(torch.ones_like(log_chance), -log_chance, surrogate_weight)
    number = objects.per_sample(counted.long())
    return Average.over((objects.per_sample(presence) / number.clamp(min=1)).to(c.probabilities.dtype), number.sum())


def center_average(c: Comparison, *, width: int | Sequence[int] = 7, surrogate_weight: float = 0.1) -> Average:
    """:func:`instance_center_loss` before its division by the number of samples."""
    shape, components = c.probabilities.shape, c.components
    reach = _reach(width, len(shape) - 1)
    centres = components.centres()
    target = draw_cubes(shape, c.instances.sample, c.instances.centres(), reach)
    prediction = draw_cubes(shape, components.sample, centres, reach)
    shared, drawn, wanted = (voxels(picture) for picture in (target & prediction, prediction, target))
    margin = torch.tensor(reach, device=centres.device)
    low = (centres - margin).clamp(min=0)
    high = torch.minimum(centres + margin + 1, torch.tensor(shape[1:], device=centres.device))
    on = count_around(target, components.sample, centres, reach)
    off = (high - low).prod(1) - on
    # A component's mean p is at least the threshold: its logarithm needs no logits.
    confirmed = (c.component_mass / components.size).clamp(min=1e-6).log()
    right = _carried(components, on, shared, confirmed, surrogate_weight)
    wrong = _carried(components, off, drawn - shared, -c.log_component_complement, surrogate_weight)
    dice = Dice()(right, wrong, wanted, wanted)
    return Average.over(dice.to(c.probabilities.dtype), c.instances.number.sum() + components.number.sum())


def _carried(objects: Objects, size: Tensor, merged: Tensor, surrogate: Tensor, weight: float) -> Tensor:
    """(B,) voxels of merged cubes, with the surrogate of each object for its share of them."""
    share = size.to(surrogate.dtype) * (merged / objects.per_sample(size).clamp(min=1))[objects.sample]
    return _straight_through(merged.to(surrogate.dtype), objects.per_sample(share * surrogate), weight)


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
    target = _target_losses(c, criterion, exclude_other_targets, missed, surrogate_weight)
    prediction = _prediction_losses(c, criterion, surrogate_weight)
    boxes = [[corner.float() for corner in objects.boxes()] for objects in (c.instances, c.components)]
    losses = []
    for sample in range(len(c)):
        sides = []
        for objects, whole, of_objects, (low, high) in (
            (c.instances, c.whole_instances, target, boxes[0]),
            (c.components, c.whole_components, prediction, boxes[1]),
        ):
            chosen = ((objects.sample == sample) & whole).nonzero().squeeze(1)
            sides.append((of_objects[chosen], low[chosen], high[chosen]))
        losses.append(_proximity(c, sample, sides, form))
    return Average.over(
        torch.stack(losses).to(c.probabilities.dtype), c.whole_instances.sum() + c.whole_components.sum()
    )


def _proximity(c: Comparison, sample: int, sides: list[tuple[Tensor, Tensor, Tensor]], form: str) -> Tensor:
    """The loss of one sample, from (losses, lowest and highest corners) of both sides."""
    if not any(len(losses) for losses, _, _ in sides):
        return c.probabilities[sample].sum().to(c.instance_mass.dtype) * 0
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
    everywhere = c.probabilities[sample].sum(dtype=tp.dtype)
    middle = torch.tensor([length // 2 for length in c.probabilities.shape[1:]], device=tp.device).float()[None]
    return Dice()(tp, everywhere - tp, size, size)[None], middle - 1, middle + 2


def _target_losses(
    c: Comparison, criterion: CriterionSpec, exclude_other_targets: bool, missed: str, surrogate_weight: float
) -> Tensor:
    """(N,) the loss of each instance, Eq. 2."""
    if missed not in ("constant", "soft"):
        raise ValueError(f"missed must be 'constant' or 'soft', got {missed!r}")
    table, instances = c.table, c.instances
    tp = table.over_instances(c.pair_mass)
    if exclude_other_targets:
        in_background = c.component_mass - table.over_components(c.pair_mass)
        fp = table.over_instances(in_background[table.component])
        n_negative = instances.background_size[instances.sample]
    else:
        fp = table.over_instances(c.component_mass[table.component] - c.pair_mass)
        n_negative = instances.valid_size[instances.sample] - instances.size
    losses = _added(criterion, tp, fp, instances.size, n_negative)
    if missed == "soft":
        losses = _where_bad(c.missed, losses, -c.log_instance_mean, surrogate_weight)
    return losses


def _prediction_losses(c: Comparison, criterion: CriterionSpec, surrogate_weight: float) -> Tensor:
    """(M,) the loss of each component, Eq. 3."""
    table, components = c.table, c.components
    tp = table.over_components(c.pair_mass)
    n_positive = table.over_components(c.instances.size[table.instance])
    n_negative = c.instances.valid_size[components.sample] - n_positive
    losses = _added(criterion, tp, c.component_mass - tp, n_positive, n_negative)
    if surrogate_weight:
        losses = _where_bad(c.false, losses, -c.log_component_complement, surrogate_weight)
    return losses


def _added(criterion: CriterionSpec, tp: Tensor, fp: Tensor, n_positive: Tensor, n_negative: Tensor) -> Tensor:
    """The criteria's losses added up; pointwise ones are refused."""
    losses = []
    for part in resolve(criterion):
        if not isinstance(part, OverlapCriterion):
            # Voxels outside every component would count as p = 0 and give -log 0.
            raise ValueError(
                f"the instance terms take overlap criteria (dice, tversky, asl, generalized_dice), got {part}"
            )
        losses.append(part(tp, fp, n_positive, n_negative))
    return torch.stack(losses).sum(0)


def _straight_through(value: Tensor, surrogate: Tensor, weight: float) -> Tensor:
    """The value in the forward pass, the gradient of ``weight * surrogate`` added to its own in the backward pass."""
    return value + weight * (surrogate - surrogate.detach())


def _where_bad(bad: Tensor, losses: Tensor, surrogate: Tensor, weight: float) -> Tensor:
    """The losses, with the surrogate's gradient added for missed instances or false components."""
    return torch.where(bad, _straight_through(losses, surrogate, weight), losses)


def _is_target(side: str) -> bool:
    if side not in ("target", "prediction"):
        raise ValueError(f"side must be 'target' or 'prediction', got {side!r}")
    return side == "target"


def _reach(width: int | Sequence[int], dim: int) -> list[int]:
    widths = [width] * dim if isinstance(width, int) else list(width)
    if len(widths) != dim or any(w < 1 or w % 2 == 0 for w in widths):
        raise ValueError(f"width must be an odd number of voxels, or {dim} of them, got {width}")
    return [w // 2 for w in widths]
