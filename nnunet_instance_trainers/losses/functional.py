"""Losses of one class as functions of probabilities and ids: short reductions of the overlap table.

Every function takes a batch of one binary problem, probabilities (B, *S) and target ids (B, *S). Classes and
regions are many binary problems; :mod:`nnunet_instance_trainers.losses.modules` averages over them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.instances import OverlapTable
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.criteria import CriterionSpec, resolve
from nnunet_instance_trainers.losses.precision import in_full_precision

__all__ = ["blob_loss", "blob_terms", "pixel_loss", "pixel_terms"]


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
        criterion: see :func:`~nnunet_instance_trainers.losses.criteria.resolve`; any kind.
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
    if reduction == "mean":
        return blob_terms(probabilities, instances, criterion=criterion, valid=valid).mean()
    if reduction == "none":
        return _blob_losses(probabilities, instances, criterion, valid)[0]
    raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")


@in_full_precision
def blob_terms(
    probabilities: Tensor, instances: Tensor, *, criterion: CriterionSpec = "dice", valid: Tensor | None = None
) -> Average:
    """:func:`blob_loss` as sum over samples and number of samples that have an instance."""
    losses, sample = _blob_losses(probabilities, instances, criterion, valid)
    n_instances = torch.bincount(sample, minlength=len(instances))
    per_sample = losses.new_zeros(len(instances)).index_add(0, sample, losses) / n_instances.clamp(min=1)
    return Average(per_sample.sum(), (n_instances > 0).sum())


def _blob_losses(
    probabilities: Tensor, instances: Tensor, criterion: CriterionSpec, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The loss of each instance on its own domain, and the sample that it belongs to."""
    probabilities = _checked(probabilities, instances, valid)
    table = OverlapTable(instances, valid=valid)
    sample, instance = (table.instance_voxels > 0).nonzero(as_tuple=True)
    return _region_losses(probabilities, table, criterion, sample, instance), sample


def _region_losses(
    probabilities: Tensor, table: OverlapTable, criterion: CriterionSpec, sample: Tensor, instance: Tensor
) -> Tensor:
    """The criterion on the domains {background, instance}, for a list of (sample, instance)."""
    inside = table.gather(probabilities)
    n_positive, n_negative = table.instance_voxels[sample, instance], table.background_voxels[sample]
    losses = []
    for part in resolve(criterion):
        positive = table.sum_gathered(part.positive(inside))[sample, instance]
        negative = table.background_sums(part.negative(probabilities), part.negative(inside))[sample]
        losses.append(part(positive, negative, n_positive, n_negative))
    return torch.stack(losses).sum(0).to(probabilities.dtype)


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
        criterion: see :func:`~nnunet_instance_trainers.losses.criteria.resolve`.
        valid: (B, *S) bool, False where voxels are ignored.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes differ, or an unknown criterion.

    Example:
        >>> pixel_loss(torch.tensor([[0.5, 0.0]]), torch.tensor([[1, 0]])).item()  # 1 - 2 * 0.5 / (0.5 + 1)
        0.33333...
    """
    return pixel_terms(probabilities, target, criterion=criterion, valid=valid).mean()


@in_full_precision
def pixel_terms(
    probabilities: Tensor, target: Tensor, *, criterion: CriterionSpec = "dice", valid: Tensor | None = None
) -> Average:
    """:func:`pixel_loss` as sum over samples and number of samples."""
    probabilities = _checked(probabilities, target, valid)
    # The image is one region, so all its foreground is one instance, and an image without any is a region too.
    table = OverlapTable((target > 0).to(torch.int32), valid=valid)
    sample = torch.arange(len(target), device=target.device)
    losses = _region_losses(probabilities, table, criterion, sample, torch.full_like(sample, table.n_ids - 1))
    return Average(losses.sum(), torch.tensor(len(target), device=target.device))


def _checked(probabilities: Tensor, ids: Tensor, valid: Tensor | None) -> Tensor:
    """The probabilities, 0 where voxels are ignored, once all shapes are found to agree."""
    for name, other in (("ids", ids), ("valid", valid)):
        if other is not None and other.shape != probabilities.shape:
            raise ValueError(
                f"probabilities and {name} must have one shape (B, *S), "
                f"got {tuple(probabilities.shape)} and {tuple(other.shape)}"
            )
    return probabilities if valid is None else probabilities.masked_fill(~valid, 0)
