"""The objects of a batch of id images: which voxels belong to which, and sums over each."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Objects", "sum_type"]


def sum_type(values: Tensor) -> torch.dtype:
    """The number format in which values are summed: float64, on MPS float32."""
    return torch.float32 if values.device.type == "mps" else torch.float64


class Objects:
    """The objects of a batch of id images, as one list over all samples.

    Lists the voxels that carry an id, a few per cent of an image, and sums any per-voxel value over each
    object in one pass over them, whatever the number of objects. Sums are differentiable with respect to the
    values. They are float64 (float32 on MPS, which has no more): a voxel added to a sum of 10^6 in float32 is
    rounded away by per cents, and backgrounds are small differences of large sums.

    The background is never summed voxel by voxel into one address (atomic additions on a GPU would
    serialise): it is the total minus the rest.

    Args:
        ids: (B, *S) integer ids, 0 is background. Ids are local to a sample and need not be consecutive; with
            consecutive ids nothing is sorted.
        valid: (B, *S) bool, False where a voxel belongs to nothing (nnU-Net's ignore label); None means
            everywhere.

    Attributes:
        sample: (N,) the batch element of each object, ascending.
        id: (N,) its id, ascending within a sample.
        size: (N,) its number of voxels, > 0.
        voxel: (K,) flat positions of all voxels of objects.
        member: (K,) for each of them the object, an index into the lists of length N.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> objects = Objects(torch.tensor([[1, 1, 0, 5]]))
        >>> objects.id.tolist(), objects.size.tolist(), objects.background_size.tolist()
        ([1, 5], [2, 1], [1])
        >>> objects.sums(torch.tensor([[0.5, 0.25, 1.0, 0.125]])).tolist()
        [0.75, 0.125]
    """

    def __init__(self, ids: Tensor, *, valid: Tensor | None = None) -> None:
        if valid is not None and valid.shape != ids.shape:
            raise ValueError(f"valid must have the shape of ids, {tuple(ids.shape)}, got {tuple(valid.shape)}")
        self.shape = ids.shape
        self._valid = valid
        occupied = ids > 0 if valid is None else (ids > 0) & valid
        self.voxel = occupied.reshape(-1).nonzero().squeeze(1)
        per_sample = max(ids[0].numel(), 1) if len(ids) else 1
        sample = self.voxel.div(per_sample, rounding_mode="floor")
        local = ids.reshape(-1)[self.voxel].long()
        n_ids = int(local.max()) + 1 if len(local) else 1
        key = sample * n_ids + local
        if n_ids > len(local) + 1:  # too sparse for a dense vector per sample
            key, self.member, self.size = torch.unique(key, return_inverse=True, return_counts=True)
        else:
            counts = torch.bincount(key, minlength=len(ids) * n_ids)
            self.member = (counts > 0).cumsum(0)[key] - 1
            key = counts.nonzero().squeeze(1)
            self.size = counts[key]
        self.sample, self.id = key.div(n_ids, rounding_mode="floor"), key % n_ids

    def __len__(self) -> int:
        return len(self.size)

    def gather(self, values: Tensor) -> Tensor:
        """Values (B, *S) at the voxels of objects, as a vector (K,)."""
        return values.reshape(-1)[self.voxel]

    def sum_gathered(self, gathered: Tensor) -> Tensor:
        """Sums (N,) over each object of a vector made by :meth:`gather`."""
        sums = gathered.new_zeros(len(self), dtype=sum_type(gathered))
        return sums.index_add(0, self.member, gathered.to(sums.dtype))

    def sums(self, values: Tensor) -> Tensor:
        """Sums (N,) of values (B, *S) over each object."""
        return self.sum_gathered(self.gather(values))

    def per_sample(self, of_objects: Tensor) -> Tensor:
        """Sums (B,) over the objects of each sample of a number (N,) per object."""
        return of_objects.new_zeros(self.shape[0]).index_add(0, self.sample, of_objects)

    @property
    def number(self) -> Tensor:
        """(B,) objects in each sample."""
        return torch.bincount(self.sample, minlength=self.shape[0])

    @property
    def valid_size(self) -> Tensor:
        """(B,) voxels of each sample that are not ignored."""
        if self._valid is None:
            return torch.full((self.shape[0],), self.shape[1:].numel(), device=self.voxel.device)
        return self._valid.flatten(1).sum(1)

    @property
    def background_size(self) -> Tensor:
        """(B,) voxels of each sample that are not ignored and belong to no object."""
        return self.valid_size - self.per_sample(self.size)

    def background_sums(self, values: Tensor, gathered: Tensor) -> Tensor:
        """Sums (B,) of values (B, *S) over the voxels of no object, given the gathered values.

        Values must be 0 where voxels are not valid.
        """
        total = values.flatten(1).sum(1, dtype=sum_type(values))
        return total - self.per_sample(self.sum_gathered(gathered))

    @cached_property
    def coordinates(self) -> Tensor:
        """(d, K) int32 position of every voxel along each axis."""
        # Twice as fast in int32, and a batch of more voxels does not fit any memory.
        position, axes = self.voxel.to(torch.int32), []
        for size in reversed(self.shape[1:]):
            rest = position.div(size, rounding_mode="floor")
            axes.append(position - rest * size)
            position = rest
        return torch.stack(axes[::-1])

    def centres(self) -> Tensor:
        """(N, d) int64 unweighted mean position, rounded half up (torch.round goes to even)."""
        sums = torch.stack([torch.bincount(self.member, axis, len(self)) for axis in self.coordinates], 1).long()
        size = self.size[:, None]
        return (2 * sums + size).div(2 * size, rounding_mode="floor")

    def boxes(self) -> tuple[Tensor, Tensor]:
        """Tight boxes as two (N, d) int32 tensors: lowest position, and highest position plus one."""
        empty = self.coordinates.new_zeros(len(self))
        low, high = (
            torch.stack(
                [empty.scatter_reduce(0, self.member, axis, how, include_self=False) for axis in self.coordinates], 1
            )
            for how in ("amin", "amax")
        )
        return low, high + 1
