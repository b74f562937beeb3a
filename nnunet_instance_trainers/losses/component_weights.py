"""CATMIL: a Tversky loss in which small instances weigh more, and the brightest voxel of every instance."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.named_criteria import Tversky
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities

__all__ = ["component_tversky", "instance_mil", "mil_average", "tversky_average"]

_LEAST = 1e-6


@in_full_precision
def component_tversky(
    probabilities: Tensor,
    instances: Tensor,
    *,
    gamma: float = 1.0,
    size_offset: float = 5.0,
    background_weight: float = 0.01,
    without_instance: str = "skip",
    valid: Tensor | None = None,
) -> Tensor:
    r"""Tversky loss in which the voxels of small instances weigh more and the background little.

    The component-adaptive Tversky loss (CAT) of CATMIL, arXiv 2604.08015. Per sample, with w = (|C| + offset)^-gamma in
    instance C and w = ``background_weight`` elsewhere,

    .. math:: L = 1 - \frac{\sum w p t + s}{\sum w p t + 0.3 \sum w p (1 - t) + 0.7 \sum w (1 - p) t + s}

    Limits: with gamma = 0 and a background weight of 1 it is the Tversky loss of the sample; with gamma = 1 and offset
    0 every instance weighs the same.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        instances: (B, *S) integer target ids, 0 is background.
        gamma: power of the size by which weights fall.
        size_offset: voxels added to every size; keeps single voxels from weighing most of all.
        background_weight: weight of voxels outside instances.
        without_instance: ``"skip"`` leaves samples without an instance out of the mean, ``"whole"`` counts them.
        valid: (B, *S) bool, False where voxels are ignored.

    Returns:
        A scalar, the mean over samples; 0 with a zero gradient where no sample has an instance.

    Raises:
        ValueError: shapes differ, or an unknown option.

    Example:
        >>> p, t = torch.tensor([[0.5, 0.0, 0.2, 0.0]]), torch.tensor([[1, 0, 0, 0]])
        >>> round(component_tversky(p, t).item(), 3)  # 1 - (.5/6) / (.5/6 + .3 * .01 * .2 + .7 * .5/6)
        0.414
    """
    comparison = Comparison(Probabilities(probabilities), instances, valid=valid)
    average = tversky_average(
        comparison,
        gamma=gamma,
        size_offset=size_offset,
        background_weight=background_weight,
        without_instance=without_instance,
    )
    return average.mean() * (average.occurs > 0).reshape(())


def tversky_average(
    c: Comparison,
    *,
    gamma: float = 1.0,
    size_offset: float = 5.0,
    background_weight: float = 0.01,
    without_instance: str = "skip",
) -> Average:
    """:func:`component_tversky` before its division by the number of samples."""
    if without_instance not in ("skip", "whole"):
        raise ValueError(f"without_instance must be 'skip' or 'whole', got {without_instance!r}")
    objects = c.instances
    inside, everywhere = c.gather_with_totals(c.probabilities)
    mass = objects.sum_gathered(inside)
    weights = (objects.size.to(mass.dtype) + size_offset) ** -gamma
    positive, n_positive = objects.per_sample(weights * mass), objects.per_sample(weights * objects.size)
    negative = background_weight * objects.background_sums(everywhere, inside)
    losses = Tversky()(positive, negative, n_positive, background_weight * objects.background_size).to(c.dtype)
    has_some = objects.number > 0
    if without_instance == "whole":
        return c.average_samples(losses, has_some.long())
    occurs = c.per_problem(has_some.long())
    return Average(c.per_problem(torch.where(has_some, losses, losses * 0)), occurs, occurs)


@in_full_precision
def instance_mil(
    probabilities: Tensor, instances: Tensor, *, logits: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    r"""Multiple-instance loss: minus the log of the largest probability in each instance.

    The MIL term of CATMIL, arXiv 2604.08015: :math:`L = \frac{1}{N} \sum_n -\log \max_{P_n} p`, over all instances of
    the batch.

    Limits: an instance of one voxel gives its cross-entropy. One voxel of each instance gets all of the gradient, so it
    lifts specks rather than instances; where several voxels are equal they share it.

    Deviates from the published code, which cuts p at 10^-6 and there has no gradient: with ``logits`` the loss goes on
    rising and pulls the voxel with -1 at its logit. Without them p is cut.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        instances: (B, *S) integer target ids, 0 is background.
        logits: (B, *S) with probabilities = sigmoid(logits).
        valid: (B, *S) bool, False where voxels are ignored.

    Returns:
        A scalar; 0 with a zero gradient where there is no instance.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> p, t = torch.tensor([[0.5, 0.1, 0.9, 0.25]]), torch.tensor([[1, 1, 0, 2]])
        >>> round(instance_mil(p, t).item(), 3)  # (log 2 + log 4) / 2
        1.04
    """
    return mil_average(Comparison(Probabilities(probabilities, logits=logits), instances, valid=valid)).mean()


def mil_average(c: Comparison) -> Average:
    """:func:`instance_mil` before its division by the number of instances."""
    objects = c.instances
    ((p, odds),) = c.prediction.at(objects)
    values = p if odds is None else odds
    lowest = values.new_full((len(objects),), float("-inf"))
    largest = lowest.scatter_reduce(0, objects.member.long(), values, "amax", include_self=False)
    losses = -(largest.clamp(min=_LEAST).log() if odds is None else torch.nn.functional.logsigmoid(largest))
    count = c.per_problem(objects.number)
    return Average(c.per_problem(objects.per_sample(losses.to(c.dtype))), count, count)
