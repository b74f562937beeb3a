"""Losses over Voronoi cells, CC-DiceCE and BiCC: every object compared in the part of the image nearest to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_instance_trainers.instances import Cells
from nnunet_instance_trainers.instances.voxels import sum_over, tally
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.named_criteria import CriterionSpec, OverlapCriterion, resolve
from nnunet_instance_trainers.losses.number_formats import in_full_precision
from nnunet_instance_trainers.losses.object_comparison import Comparison
from nnunet_instance_trainers.losses.prediction import Probabilities

__all__ = ["EMPTY_CELLS", "WITHOUT_INSTANCE", "bicc_loss", "voronoi_average", "voronoi_loss"]

EMPTY_CELLS = ("mass", "criterion")
"""What a predicted cell without any target voxel gets in place of an overlap criterion."""

WITHOUT_INSTANCE = ("skip", "whole")
"""What a sample without an object on a side gets there."""

_LEAST = 1e-8


@in_full_precision
def voronoi_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    side: str = "target",
    criterion: CriterionSpec = "dice+bce",
    empty_cell: str = "mass",
    without_instance: str = "skip",
    size_power: float = 0.0,
    cell_grid: str = "full",
    spacing: Sequence[float] | None = None,
    cells: Tensor | None = None,
    threshold: float = 0.5,
    components: Tensor | None = None,
    valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Voronoi loss: every object is compared in its cell, the voxels that are nearer to it than to any other.

    CC-DiceCE (arXiv 2511.17146) on the target side; with the prediction side BiCC (arXiv 2609.30223).

    .. math:: L_{target} = \frac{1}{B'} \sum_b \frac{1}{N_b} \sum_k \ell(p, t\ \text{on}\ V_k), \quad
              L_{prediction} = \frac{1}{B'} \sum_b \frac{1}{M_b} \sum_m \ell(p, t\ \text{on}\ V'_m)

    V_k is the cell of target instance k, V'_m that of predicted component m, t the foreground of the target.

    Limits: with one instance in every sample the target side is the blob loss, and the pixel loss on these samples. It
    does not depend on how objects are numbered, but for voxels equally near to two.

    In a predicted cell without any target voxel Dice is 1 whatever is predicted, and has next to no gradient. With
    ``empty_cell="mass"`` the overlap criteria are replaced there by q, the mean of p weighed by p itself, with the
    gradient p / sum p: it pushes the component, and the rest of the cell as far as that has mass.

    Args:
        probabilities: (B, *S) predicted probabilities in [0, 1].
        instances: (B, *S) integer target ids, 0 is background.
        side: ``"target"``, the cells of instances, or ``"prediction"``, those of components.
        criterion: see :func:`~nnunet_instance_trainers.losses.named_criteria.resolve`; any kind. As published:
            ``{"dice": {"smooth": 0}, "bce": {}}``.
        empty_cell: prediction side: ``"mass"``, or ``"criterion"`` for the criterion there too.
        without_instance: ``"skip"`` leaves samples without an object on this side out of the mean; ``"whole"``, as
            published, takes the criterion over the whole sample, which repeats a pixel loss that stands beside it.
        size_power: cells are weighed within a sample by the size of their object to this power; 0 weighs all alike.
        cell_grid: ``"full"`` for exact cells, or ``"half"`` for approximate ones, in 3D at an eighth of the work: see
            :class:`~nnunet_instance_trainers.instances.Cells`.
        spacing: of the voxels, one number per axis, for the distances.
        cells: (B, *S) for each voxel the id of the nearest object of this side, where that is known.
        threshold: a voxel counts as predicted from this probability on.
        components: (B, *S) ids of predicted components; None labels ``probabilities >= threshold``.
        valid: (B, *S) bool, False where voxels are ignored. They count in no sum, and belong to no object.
        reduction: ``"mean"`` or ``"none"`` (one value per object, in the order of samples and ids).

    Returns:
        A scalar, 0 with a zero gradient where there is nothing to average; (number of objects,) for ``"none"``.

    Raises:
        ValueError: shapes differ, or an unknown option.

    Example:
        >>> p = torch.tensor([[[0.9, 0.2, 0.0, 0.1]]])
        >>> t = torch.tensor([[[1, 0, 0, 2]]])  # cells of two voxels each: 1 - 2*0.9/(1.1+1), 1 - 2*0.1/(0.1+1)
        >>> [round(x, 3) for x in voronoi_loss(p, t, criterion="dice", reduction="none").tolist()]
        [0.143, 0.818]
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    comparison = Comparison(
        Probabilities(probabilities, threshold=threshold),
        instances,
        components=components,
        valid=valid,
        spacing=spacing,
        cells={} if cells is None else {side: cells},
    )
    if reduction == "none":
        of_cells = comparison.cells(side, cell_grid)
        return _cell_losses(comparison, of_cells, criterion, empty_cell)[: len(of_cells.objects)]
    return voronoi_average(
        comparison,
        side=side,
        criterion=criterion,
        empty_cell=empty_cell,
        without_instance=without_instance,
        size_power=size_power,
        cell_grid=cell_grid,
    ).mean()


@in_full_precision
def bicc_loss(
    probabilities: Tensor,
    instances: Tensor,
    *,
    alpha: float = 0.5,
    criterion: CriterionSpec = "dice+bce",
    empty_cell: str = "mass",
    without_instance: str = "skip",
    cell_grid: str = "full",
    spacing: Sequence[float] | None = None,
    threshold: float = 0.5,
    components: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """BiCC: (1 - alpha) of the target side and alpha of the prediction side of :func:`voronoi_loss`.

    arXiv 2609.30223, without the global loss that stands beside it there with weight 1.

    Limits: alpha = 0 is CC-DiceCE, alpha = 1 the prediction side alone. Published: alpha 0.25 has about 90 % of the
    gain of 0.5, and the target side alone loses precision.

    Args:
        alpha: the share of the prediction side, from 0 to 1.
        spacing, threshold, components, valid: as the other arguments, those of :func:`voronoi_loss`.

    Returns:
        A scalar.

    Raises:
        ValueError: an alpha out of range, or as :func:`voronoi_loss`.

    Example:
        >>> p, t = torch.tensor([[[0.9, 0.2, 0.0, 0.1]]]), torch.tensor([[[1, 0, 0, 2]]])
        >>> round(bicc_loss(p, t, criterion="dice").item(), 3)  # the one component has the whole image as its cell
        0.428
    """
    comparison = Comparison(
        Probabilities(probabilities, threshold=threshold),
        instances,
        components=components,
        valid=valid,
        spacing=spacing,
    )
    of_target, of_prediction = (
        voronoi_average(
            comparison,
            side=side,
            criterion=criterion,
            empty_cell=empty_cell,
            without_instance=without_instance,
            cell_grid=cell_grid,
        ).mean()
        for side in ("target", "prediction")
    )
    return mixed(of_target, of_prediction, alpha)


def mixed(of_target: Tensor, of_prediction: Tensor, alpha: float) -> Tensor:
    """Both sides of BiCC in one."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    return (1 - alpha) * of_target + alpha * of_prediction


def voronoi_average(
    c: Comparison,
    *,
    side: str = "target",
    criterion: CriterionSpec = "dice+bce",
    empty_cell: str = "mass",
    without_instance: str = "skip",
    size_power: float = 0.0,
    cell_grid: str = "full",
) -> Average:
    """:func:`voronoi_loss` before its division by the number of samples."""
    if without_instance not in WITHOUT_INSTANCE:
        raise ValueError(f"without_instance must be 'skip' or 'whole', got {without_instance!r}")
    cells = c.cells(side, cell_grid)
    objects, losses = cells.objects, _cell_losses(c, cells, criterion, empty_cell)
    of_objects, of_rest = losses.split((len(objects), objects.n_samples))
    weights = objects.size.to(losses.dtype) ** size_power
    occurs = objects.number > 0
    per_sample = objects.per_sample(weights * of_objects) / torch.where(occurs, objects.per_sample(weights), 1)
    if without_instance == "whole":
        per_sample = torch.where(occurs, per_sample, of_rest)
        occurs = c.instances.valid_size > 0
    count = c.per_problem(occurs.long())
    return Average(c.per_problem(torch.where(occurs, per_sample, per_sample * 0).to(c.dtype)), count, count)


def _cell_losses(c: Comparison, cells: Cells, criterion: CriterionSpec, empty_cell: str) -> Tensor:
    """(N + E,) the criterion in each cell."""
    if empty_cell not in EMPTY_CELLS:
        raise ValueError(f"empty_cell must be 'mass' or 'criterion', got {empty_cell!r}")
    is_target_side = cells.objects is c.instances
    p, number = c.class_probabilities, len(cells)
    place = c.instances.member if is_target_side else cells.at(c.instances)
    n_positive = tally(place, number)
    n_negative = cells.size - n_positive
    mass = cells.sums(p)
    losses: list[Tensor] = []
    overlaps: list[Tensor] = []
    for part in resolve(criterion):
        positive = sum_over(part.positive(c.inside), place, number)
        of_voxels = c.negative(part)
        everywhere = mass if of_voxels[0] is p[0] else cells.sums(of_voxels)
        negative = everywhere - sum_over(part.negative(c.inside), place, number)
        of_kind = overlaps if isinstance(part, OverlapCriterion) else losses
        of_kind.append(part(positive, negative, n_positive, n_negative))
    if overlaps:
        overlap = torch.stack(overlaps).sum(0)
        if empty_cell == "mass" and not is_target_side:
            # sum p^2 / sum p, with the gradient p / sum p.
            by_mass = cells.sums([image.detach() * image for image in p]) / mass.detach().clamp(min=_LEAST)
            is_object = torch.arange(number, device=place.device) < len(cells.objects)
            overlap = torch.where((n_positive == 0).logical_and_(is_object), by_mass, overlap)
        losses.append(overlap)
    return torch.stack(losses).sum(0)
