"""The overlap table: which target instance meets which predicted component, and what is in there."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.objects import Objects
from nnunet_instance_trainers.instances.voxels import gather, integers, positions, sum_over

__all__ = ["OverlapTable"]


class OverlapTable:
    """Sparse contingency table of target instances (rows) and predicted components (columns).

    Only voxels of an instance or a component enter it, and only pairs that share voxels are listed. What lies
    in no row or no column follows from the sums over instances and components, so nothing walks over the
    background.

    Args:
        instances: (B, *S) integer ids of the target, 0 is background.
        components: (B, *S) integer ids of the prediction.
        valid: (B, *S) bool, False where a voxel belongs to nothing; None means everywhere.

    Attributes:
        instances, components: the objects of either side.
        voxel: (K,) ascending flat positions of the voxels that belong to an instance or a component.
        of_instances, of_components, of_pairs: the places in that list of the voxels of instances, of components,
            and of both; for the first two in the order of the objects' own lists.
        instance, component: (P,) indices into the lists of objects, sorted by instance, then component.
        size: (P,) number of shared voxels, > 0.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> table = OverlapTable(torch.tensor([[1, 1, 0, 2]]), torch.tensor([[0, 3, 3, 0]]))
        >>> table.instance.tolist(), table.component.tolist(), table.size.tolist()
        ([0], [0], [1])
        >>> table.sums(torch.tensor([[0.5, 0.25, 1.0, 0.125]])).tolist()
        [0.25]
    """

    def __init__(self, instances: Tensor, components: Tensor, *, valid: Tensor | None = None) -> None:
        for name, other in (("components", components), ("valid", valid)):
            if other is not None and other.shape != instances.shape:
                raise ValueError(
                    f"{name} must have the shape of instances, {tuple(instances.shape)}, got {tuple(other.shape)}"
                )
        occupied = (instances > 0).logical_or_(components > 0)
        self.voxel = positions(occupied if valid is None else occupied.logical_and_(valid))
        rows, columns = (ids.reshape(-1).index_select(0, self.voxel) for ids in (instances, components))
        listed = instances.shape, valid, self.voxel
        self.instances, self.of_instances = Objects.among(*listed, rows)
        self.components, self.of_components = Objects.among(*listed, columns)
        shared = (rows > 0).logical_and_(columns > 0)
        self.of_pairs = positions(shared)
        n_columns = max(len(self.components), 1)
        row = self.instances.member[shared.index_select(0, self.of_instances)]
        column = self.components.member[shared.index_select(0, self.of_components)]
        key = row.to(integers(len(self.instances) * n_columns)) * n_columns + column
        key, self._pair, self.size = torch.unique(key, return_inverse=True, return_counts=True)
        self.instance, self.component = key.div(n_columns, rounding_mode="trunc"), key % n_columns

    def sums(self, values: Tensor) -> Tensor:
        """Sums (P,) of values (B, *S) over the voxels that each pair shares."""
        return self.sum_gathered(gather(values.unsqueeze(1), self.voxel)[0])

    def sum_gathered(self, gathered: Tensor) -> Tensor:
        """The same of values (K,) at the table's voxels."""
        return sum_over(gathered.index_select(0, self.of_pairs), self._pair, len(self.size))

    def over_instances(self, of_pairs: Tensor) -> Tensor:
        """Sums (N,) over the pairs of each instance of a number (P,) per pair."""
        return of_pairs.new_zeros(len(self.instances)).index_add(0, self.instance, of_pairs)

    def over_components(self, of_pairs: Tensor) -> Tensor:
        """Sums (M,) over the pairs of each component of a number (P,) per pair."""
        return of_pairs.new_zeros(len(self.components)).index_add(0, self.component, of_pairs)
