"""The overlap table: which target instance meets which predicted component, and what is in there."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.objects import Objects
from nnunet_instance_trainers.instances.voxels import integers, positions, sum_over

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
        of_pairs: (Q,) where in the list of the components' voxels those that also belong to an instance are.
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
        columns = Objects(components, valid=valid)
        self._meet(Objects(instances, valid=valid), columns, columns.voxels.read([instances]))

    @classmethod
    def between(cls, instances: Objects, components: Objects, ids: Tensor) -> OverlapTable:
        """Of objects that are listed, with the target's ids (K,) at the components' voxels.

        Samples of both sides must be the same; an id must be 0 where it belongs to another kind than the component.
        """
        table = cls.__new__(cls)
        table._meet(instances, components, ids)
        return table

    def _meet(self, instances: Objects, components: Objects, ids: Tensor) -> None:
        self.instances, self.components = instances, components
        self.of_pairs = positions(ids > 0)
        column = components.member.index_select(0, self.of_pairs)
        row = instances.find(components.sample.index_select(0, column), ids.index_select(0, self.of_pairs))
        n_columns = max(len(components), 1)
        key = row.to(integers(len(instances) * n_columns)) * n_columns + column
        key, self._pair, self.size = torch.unique(key, return_inverse=True, return_counts=True)
        self.instance, self.component = key.div(n_columns, rounding_mode="trunc"), key % n_columns

    def sums(self, values: Tensor) -> Tensor:
        """Sums (P,) of values (B, *S) over the voxels that each pair shares."""
        return self.sum_gathered(self.components.gather(values))

    def sum_gathered(self, gathered: Tensor) -> Tensor:
        """The same of values (K,) at the components' voxels."""
        return sum_over(gathered.index_select(0, self.of_pairs), self._pair, len(self.size))

    def over_instances(self, of_pairs: Tensor) -> Tensor:
        """Sums (N,) over the pairs of each instance of a number (P,) per pair."""
        return of_pairs.new_zeros(len(self.instances)).index_add(0, self.instance, of_pairs)

    def over_components(self, of_pairs: Tensor) -> Tensor:
        """Sums (M,) over the pairs of each component of a number (P,) per pair."""
        return of_pairs.new_zeros(len(self.components)).index_add(0, self.component, of_pairs)
