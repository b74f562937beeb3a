"""The overlap table: which target instance meets which predicted component, and what is in there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["OverlapTable", "Pairs"]


def _wide(values: Tensor) -> torch.dtype:
    """The number format in which values are summed."""
    return values.dtype if values.device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Pairs:
    """The pairs (instance, component) that share voxels; all tensors have one entry per pair.

    Attributes:
        sample: index of the batch element.
        instance: id of the target instance, > 0.
        component: id of the predicted component, > 0.
        voxels: number of shared voxels, > 0.
    """

    sample: Tensor
    instance: Tensor
    component: Tensor
    voxels: Tensor


class OverlapTable:
    """Sparse contingency table of target instances and predicted components.

    Rows are target instances, columns predicted components; row 0 and column 0 are the background. The
    table lists the voxels that carry an id, a few per cent of an image, and sums any per-voxel value over
    each row. All its costs are one pass over those voxels, whatever the number of objects. Sums are
    differentiable with respect to the values.

    The background is never summed voxel by voxel into one address (atomic additions on a GPU would
    serialise): it is the total minus the rest.

    Args:
        instances: (B, *S) integer ids of target instances, 0 is background. Ids are local to a sample and
            need not be consecutive; with consecutive ids nothing is sorted.
        components: (B, *S) integer ids of predicted components, or None where only rows are wanted.
        valid: (B, *S) bool, False where a voxel belongs to nothing (nnU-Net's ignore label); None means
            everywhere.

    Attributes:
        n_ids: columns of every per-instance result: ids 0..n_ids-1 of each sample.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> table = OverlapTable(torch.tensor([[1, 1, 0, 2]]), torch.tensor([[0, 1, 1, 0]]))
        >>> table.instance_voxels.tolist(), table.background_voxels.tolist()
        ([[0, 2, 1]], [1])
        >>> table.instance_sums(torch.tensor([[0.5, 0.25, 1.0, 0.125]])).tolist()
        [[0.0, 0.75, 0.125]]
        >>> table.pairs().voxels.tolist()
        [1]
    """

    def __init__(self, instances: Tensor, components: Tensor | None = None, *, valid: Tensor | None = None) -> None:
        for name, other in (("components", components), ("valid", valid)):
            if other is not None and other.shape != instances.shape:
                raise ValueError(
                    f"{name} must have the shape of instances, {tuple(instances.shape)}, got {tuple(other.shape)}"
                )
        self.batch_size = instances.shape[0]
        self._components = components
        self._valid = valid
        occupied = instances > 0
        if valid is not None:
            occupied &= valid
        self._voxel = occupied.reshape(-1).nonzero().squeeze(1)
        ids = instances.reshape(-1)[self._voxel].long()
        self._voxels_per_sample = instances[0].numel() if self.batch_size else 0
        sample = self._voxel.div(max(self._voxels_per_sample, 1), rounding_mode="floor")
        ids = self._compact(ids)
        self._row = sample * self.n_ids + ids

    def _compact(self, ids: Tensor) -> Tensor:
        """Ids as column numbers; renumbers them only where they are too sparse for a dense vector per sample."""
        self._original_ids: Tensor | None = None
        highest = int(ids.max()) if len(ids) else 0
        if highest > len(ids):
            self._original_ids, ids = torch.unique(ids, return_inverse=True)
            self.n_ids = len(self._original_ids) + 1
            return ids + 1
        self.n_ids = highest + 1
        return ids

    def gather(self, values: Tensor) -> Tensor:
        """Values (B, *S) at the voxels that carry an instance id, as a vector."""
        return values.reshape(-1)[self._voxel]

    def sum_gathered(self, gathered: Tensor) -> Tensor:
        """Sums (B, n_ids) over each instance of a vector made by :meth:`gather`; column 0 is empty.

        Sums are float64 (float32 on MPS, which has no more): a voxel added to a sum of 10^6 in float32 is
        rounded away by per cents, and backgrounds are small differences of large sums.
        """
        sums = gathered.new_zeros(self.batch_size * self.n_ids, dtype=_wide(gathered))
        return sums.index_add(0, self._row, gathered.to(sums.dtype)).view(self.batch_size, self.n_ids)

    def instance_sums(self, values: Tensor) -> Tensor:
        """Sums (B, n_ids) of values (B, *S) over each target instance; column 0 is empty."""
        return self.sum_gathered(self.gather(values))

    def background_sums(self, values: Tensor, gathered: Tensor) -> Tensor:
        """Sums (B,) of values (B, *S) over the voxels without an instance id, given the gathered values.

        Values must be 0 where voxels are not valid.
        """
        total = values.flatten(1).sum(1, dtype=_wide(values))
        return total - self.sum_gathered(gathered).sum(1)

    @property
    def instance_voxels(self) -> Tensor:
        """(B, n_ids) int64 size of each instance in voxels; column 0 is empty and absent ids have 0."""
        counts = torch.bincount(self._row, minlength=self.batch_size * self.n_ids)
        return counts.view(self.batch_size, self.n_ids)

    @property
    def background_voxels(self) -> Tensor:
        """(B,) int64 number of voxels that are valid and carry no instance id."""
        if self._valid is None:
            annotated = torch.full((self.batch_size,), self._voxels_per_sample, device=self._row.device)
        else:
            annotated = self._valid.reshape(self.batch_size, -1).sum(1)
        return annotated - self.instance_voxels.sum(1)

    def pairs(self) -> Pairs:
        """The pairs that occur, sorted by sample, instance and component.

        Raises:
            ValueError: the table was made without components.
        """
        if self._components is None:
            raise ValueError("pairs need a table that was made with components")
        component = self._components.reshape(-1)[self._voxel].long()
        met = component > 0
        component, row = component[met], self._row[met]
        n_columns = int(component.max()) + 1 if len(component) else 1
        keys, voxels = torch.unique(row * n_columns + component, return_counts=True)
        row, component = keys.div(n_columns, rounding_mode="floor"), keys % n_columns
        sample, instance = row.div(self.n_ids, rounding_mode="floor"), row % self.n_ids
        if self._original_ids is not None:
            instance = self._original_ids[instance - 1]
        return Pairs(sample=sample, instance=instance, component=component, voxels=voxels)
