"""Blob loss (Kofler et al. 2023), and its limit of one region: the pixel loss."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.named_criteria import CriterionSpec, resolve
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities

__all__ = ["blob_average", "blob_loss", "pixel_average", "pixel_loss"]


@in_full_precision
def blob_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    criterion: CriterionSpec = "dice",
    valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Blob loss: every instance is compared with the prediction as if it were the only one.

    Kofler et al., "blob loss: instance imbalance aware loss functions for semantic segmentation", IPMI 2023,
    Eq. 1 and 2.

    .. math:: L = \frac{1}{B'} \sum_b \frac{1}{N_b} \sum_{n=1}^{N_b} \ell(p, [t = n])\ \text{on}\ \{t \in \{0, n\}\}

    The domain of instance n is the background and n itself; other instances are left out. False positives
    in the background count for every instance, as the paper means it.

    Limits: with one instance in every sample it equals the pixel loss of the same criterion (with
    ``"dice"``: the Dice loss per sample). It does not depend on how instances are numbered. A sample without
    instances is left out of the mean; where no sample has any, the loss is 0 with a zero gradient.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        instances: (B, *S) integer target ids, 0 is background.
        criterion: see :func:`~nnunet_instance_trainers.losses.named_criteria.resolve`; any kind.
        valid: (B, *S) bool, False where voxels are ignored; None means that all count.
        reduction: ``"mean"`` (over the instances of a sample, then over the samples that have any) or
            ``"none"`` (one value per instance, in the order of samples and ids).

    Returns:
        A scalar, or (number of instances,) for ``"none"``.

    Raises:
        ValueError: shapes differ, or an unknown criterion or reduction.

    Example:
        >>> p = torch.tensor([[0.9, 0.8, 0.1, 0.2]])
        >>> t = torch.tensor([[1, 1, 0, 2]])
        >>> [round(x, 3) for x in blob_loss(p, t, reduction="none").tolist()]  # 2*1.7/(1.8+2), 2*0.2/(0.3+1)
        [0.105, 0.692]
    """
    comparison = Comparison(Probabilities(probabilities), instances, valid=valid)
    if reduction == "mean":
        return blob_average(comparison, criterion=criterion).mean()
    if reduction == "none":
        return _region_losses(comparison, criterion)
    raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")


def blob_average(comparison: Comparison, *, criterion: CriterionSpec) -> Average:
    """:func:`blob_loss` before its division by the number of samples that have an instance."""
    instances = comparison.instances
    of_samples = instances.per_sample(_region_losses(comparison, criterion)) / instances.number.clamp(min=1)
    occurring = comparison.per_problem((instances.number > 0).long())
    return Average(comparison.per_problem(of_samples), occurring, occurring)


def _region_losses(c: Comparison, criterion: CriterionSpec, *, joined: bool = False) -> Tensor:
    """(N,) the criterion on the domain {background, object} of each instance, or (E,) of all in a sample joined."""
    objects, p = c.instances, c.probabilities
    inside, everything = c.gather_with_totals(p)
    n_positive, n_negative = objects.size, objects.background_size
    if joined:
        n_positive = objects.per_sample(n_positive)
    else:
        n_negative = n_negative[objects.sample]
    losses = []
    for part in resolve(criterion):
        positive = objects.sum_gathered(part.positive(inside))
        of_voxels = [part.negative(image) for image in p]
        everywhere = everything if of_voxels[0] is p[0] else c.totals(of_voxels)
        negative = objects.background_sums(everywhere, part.negative(inside))
        if joined:
            positive = objects.per_sample(positive)
        else:
            negative = negative[objects.sample]
        losses.append(part(positive, negative, n_positive, n_negative))
    return torch.stack(losses).sum(0).to(c.dtype)


@in_full_precision
def pixel_loss(
    probabilities: Tensor, target: Tensor, *, criterion: CriterionSpec = "dice", valid: Tensor | None = None
) -> Tensor:
    """The criterion over one region, the whole image: the classical voxel loss, mean over samples.

    Limits: ``"dice"`` is the soft Dice loss per sample, ``"bce"`` the mean binary cross-entropy. A sample
    without foreground counts like any other.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        target: (B, *S) foreground mask or ids; whatever is > 0 is foreground.
        criterion: see :func:`~nnunet_instance_trainers.losses.named_criteria.resolve`.
        valid: (B, *S) bool, False where voxels are ignored.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes differ, or an unknown criterion.

    Example:
        >>> pixel_loss(torch.tensor([[0.5, 0.0]]), torch.tensor([[1, 0]])).item()  # 1 - 2 * 0.5 / (0.5 + 1)
        0.33333...
    """
    return pixel_average(Comparison(Probabilities(probabilities), target > 0, valid=valid), criterion=criterion).mean()


def pixel_average(comparison: Comparison, *, criterion: CriterionSpec) -> Average:
    """:func:`pixel_loss` before its division by the number of samples; the target's objects are one region."""
    return comparison.average_samples(_region_losses(comparison, criterion, joined=True))
