"""The overlap table: which target instance meets which predicted component, and what is in there."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.objects import Objects, sum_type

__all__ = ["OverlapTable"]


class OverlapTable:
    """Sparse contingency table of target instances (rows) and predicted components (columns).

    Only pairs that share voxels are listed. What lies in no row or no column follows from the sums over
    instances and components, so nothing walks over the background.

    Args:
        instances: the target's objects.
        components: the prediction's objects.
        component_ids: the id image (B, *S) that ``components`` was made of.

    Attributes:
        instances, components: as given.
        instance, component: (P,) indices into their lists, sorted by instance, then component.
        size: (P,) number of shared voxels, > 0.

    Example:
        >>> target, prediction = torch.tensor([[1, 1, 0, 2]]), torch.tensor([[0, 3, 3, 0]])
        >>> table = OverlapTable.of(target, prediction)
        >>> table.instance.tolist(), table.component.tolist(), table.size.tolist()
        ([0], [0], [1])
        >>> table.sums(torch.tensor([[0.5, 0.25, 1.0, 0.125]])).tolist()
        [0.25]
    """

    def __init__(self, instances: Objects, components: Objects, component_ids: Tensor) -> None:
        self.instances, self.components = instances, components
        met = component_ids.reshape(-1)[instances.voxel] > 0
        self._voxel = instances.voxel[met]
        # Voxels of components are sorted by position, so a shared voxel is found by bisection.
        column = components.member[torch.searchsorted(components.voxel, self._voxel)]
        n_columns = max(len(components), 1)
        key = instances.member[met] * n_columns + column
        key, self._member, self.size = torch.unique(key, return_inverse=True, return_counts=True)
        self.instance, self.component = key.div(n_columns, rounding_mode="floor"), key % n_columns

    @classmethod
    def of(cls, instances: Tensor, components: Tensor, *, valid: Tensor | None = None) -> OverlapTable:
        """The table of two id images (B, *S).

        Raises:
            ValueError: shapes differ.
        """
        if instances.shape != components.shape:
            raise ValueError(
                f"components must have the shape of instances, {tuple(instances.shape)}, got {tuple(components.shape)}"
            )
        rows = Objects(instances, valid=valid)  # which checks the shape of valid
        if valid is not None:
            components = torch.where(valid, components, 0)
        return cls(rows, Objects(components), components)

    def sums(self, values: Tensor) -> Tensor:
        """Sums (P,) of values (B, *S) over the voxels that each pair shares."""
        shared = values.reshape(-1)[self._voxel]
        sums = shared.new_zeros(len(self.size), dtype=sum_type(values))
        return sums.index_add(0, self._member, shared.to(sums.dtype))

    def over_instances(self, of_pairs: Tensor) -> Tensor:
        """Sums (N,) over the pairs of each instance of a number (P,) per pair."""
        return of_pairs.new_zeros(len(self.instances)).index_add(0, self.instance, of_pairs)

    def over_components(self, of_pairs: Tensor) -> Tensor:
        """Sums (M,) over the pairs of each component of a number (P,) per pair."""
        return of_pairs.new_zeros(len(self.components)).index_add(0, self.component, of_pairs)
