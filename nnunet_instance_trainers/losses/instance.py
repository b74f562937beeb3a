"""Instance segmentation loss (Rachmadi et al. 2023 and 2024): each object against what it meets on the other side."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.named_criteria import CriterionSpec, OverlapCriterion, resolve
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities
from nnunet_instance_trainers.losses.surrogates import is_target, where_bad

__all__ = ["instance_average", "instance_segmentation_loss", "prediction_losses", "target_losses"]


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
        >>> p = torch.tensor([[[0.9, 0.6, 0.0, 0.1]]])
        >>> t = torch.tensor([[[1, 0, 0, 2]]])  # instance 1 meets a component of 0.9 + 0.6, instance 2 is missed
        >>> round(instance_segmentation_loss(p, t).item(), 3)  # (1 - 2 * 0.9 / (1 + 1.5) + 1) / 2
        0.64
    """
    prediction = Probabilities(probabilities, threshold=threshold, logits=logits)
    comparison = Comparison(prediction, instances, components=components, valid=valid)
    return instance_average(
        comparison,
        side=side,
        exclude_other_targets=exclude_other_targets,
        missed=missed,
        surrogate_weight=surrogate_weight,
        criterion=criterion,
    ).mean()


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
    if is_target(side):
        objects, number = c.instances, c.instances.number
        losses = target_losses(c, criterion, exclude_other_targets, missed, surrogate_weight)
    else:
        objects, whole = c.components, c.whole_components
        number = objects.per_sample(whole.long())
        losses = prediction_losses(c, criterion, surrogate_weight).where(whole, 0)
    count = c.per_problem(number)
    return Average(c.per_problem(objects.per_sample(losses)).to(c.dtype), count, count)


def target_losses(
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
        losses = where_bad(c.missed, losses, -c.log_instance_mean, surrogate_weight)
    return losses


def prediction_losses(c: Comparison, criterion: CriterionSpec, surrogate_weight: float) -> Tensor:
    """(M,) the loss of each component, Eq. 3."""
    table, components = c.table, c.components
    tp = table.over_components(c.pair_mass)
    n_positive = table.over_components(c.instances.size[table.instance])
    n_negative = c.instances.valid_size[components.sample] - n_positive
    losses = _added(criterion, tp, c.component_mass - tp, n_positive, n_negative)
    if surrogate_weight:
        losses = where_bad(c.false, losses, -c.log_component_complement, surrogate_weight)
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
