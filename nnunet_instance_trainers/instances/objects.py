"""The objects of a batch of id images: which voxels belong to which, and sums over each."""

from __future__ import annotations

from functools import cached_property
from math import prod

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.voxels import (
    blocks,
    count,
    gather,
    integers,
    positions,
    sum_over,
    sums_between,
    total,
)

__all__ = ["Objects"]


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
        voxel = positions(ids > 0 if valid is None else (ids > 0) & valid)
        self._list(ids.shape, valid, voxel, None, ids.reshape(-1).index_select(0, voxel))

    @classmethod
    def among(cls, shape: torch.Size, valid: Tensor | None, voxel: Tensor, ids: Tensor) -> tuple[Objects, Tensor]:
        """The objects of images of which only some voxels are listed, and where in that list theirs are.

        Args:
            shape: (B, *S) of the images.
            valid: (B, *S) bool or None.
            voxel: (K,) ascending flat positions of valid voxels.
            ids: (K,) the ids there, 0 is background.
        """
        place = positions(ids > 0)
        objects = cls.__new__(cls)
        objects._list(shape, valid, voxel, place, ids.index_select(0, place))
        return objects, place

    def _list(self, shape: torch.Size, valid: Tensor | None, listed: Tensor, place: Tensor | None, ids: Tensor) -> None:
        """From ids (K,) of their own, which are overwritten, at listed positions or at some places in that list."""
        self.shape, self._valid, self._listed, self._place = shape, valid, listed, place
        n_ids = int(ids.max()) + 1 if len(ids) else 1
        key = ids.to(integers(shape[0] * n_ids))  # MONAI loads label maps as floats
        key += blocks(self.voxel, shape[0], prod(shape[1:])).to(key.dtype).mul_(n_ids)
        if n_ids > len(key) + 1:  # too sparse for a dense vector per sample
            key, self.member, self.size = torch.unique(key, return_inverse=True, return_counts=True)
        else:
            counts = torch.bincount(key, minlength=shape[0] * n_ids)
            self.member = (counts > 0).cumsum(0).sub_(1).to(integers(len(key))).index_select(0, key)
            key = positions(counts > 0)
            self.size = counts[key]
        self.sample, self.id = key.div(n_ids, rounding_mode="trunc"), key % n_ids

    @property
    def voxel(self) -> Tensor:
        # Not kept, since noise has objects nearly everywhere and this list is long.
        return self._listed if self._place is None else self._listed.index_select(0, self._place)

    def __len__(self) -> int:
        return len(self.size)

    def gather(self, values: Tensor) -> Tensor:
        """Values (B, *S) at the voxels of objects, as a vector (K,)."""
        return gather(values.unsqueeze(1), self.voxel)[0]

    def sum_gathered(self, gathered: Tensor) -> Tensor:
        """Sums (N,) over each object of a vector made by :meth:`gather`."""
        return sum_over(gathered, self.member, len(self))

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

    @cached_property
    def valid_size(self) -> Tensor:
        """(B,) voxels of each sample that are not ignored."""
        if self._valid is None:
            return torch.full((self.shape[0],), self.shape[1:].numel(), device=self._listed.device)
        return count(self._valid)

    @property
    def background_size(self) -> Tensor:
        """(B,) voxels of each sample that are not ignored and belong to no object."""
        return self.valid_size - self.per_sample(self.size)

    def background_sums(self, values: Tensor, gathered: Tensor) -> Tensor:
        """Sums (B,) of values (B, *S) over the voxels of no object, given the gathered values.

        Values must be 0 where voxels are not valid.
        """
        return total(values) - self.per_sample(self.sum_gathered(gathered))

    @cached_property
    def _runs(self) -> _Runs:
        return _Runs(self.shape, self.voxel, self.member)

    def centres(self) -> Tensor:
        """(N, d) int64 unweighted mean position, rounded half up (torch.round goes to even)."""
        runs = self._runs
        weights = [*(axis * runs.size for axis in runs.line), runs.sum]
        sums = torch.stack([torch.bincount(runs.member, weight, len(self)) for weight in weights], 1).long()
        size = self.size[:, None]
        return (2 * sums + size).div(2 * size, rounding_mode="floor")

    def boxes(self) -> tuple[Tensor, Tensor]:
        """Tight boxes as two (N, d) integer tensors: lowest position, and highest position plus one."""
        runs, member = self._runs, self._runs.member.long()
        nowhere = runs.first.new_full((len(self),), torch.iinfo(runs.first.dtype).max)
        low = [nowhere.scatter_reduce(0, member, axis, "amin") for axis in (*runs.line, runs.first)]
        high = [(-nowhere).scatter_reduce(0, member, axis, "amax") for axis in (*runs.line, runs.last)]
        return torch.stack(low, 1), torch.stack(high, 1) + 1


class _Runs:
    """The voxels of objects, joined where one object's follow each other in one line along the last axis.

    Centres and boxes are sums and extremes over runs, of which a large object has far fewer than voxels.

    Attributes:
        member: (R,) the object of each run.
        line: (R,) for each axis but the last, the position of its line.
        size: (R,) its voxels; they need not touch.
        sum, first, last: (R,) sum, lowest and highest of their positions along the last axis.
    """

    def __init__(self, shape: torch.Size, voxel: Tensor, member: Tensor) -> None:
        n_lines, length = prod(shape[:-1]), shape[-1]
        line = blocks(voxel, n_lines, length)
        position = torch.sub(voxel, line, alpha=length)
        ends = torch.ones_like(voxel, dtype=torch.bool)
        ends[:-1] = (line[1:] != line[:-1]).logical_or_(member[1:] != member[:-1])
        end = positions(ends)
        self.size = end.diff(prepend=end.new_full((1,), -1))
        self.member = member.index_select(0, end)
        self.first, self.last = position.index_select(0, end - self.size + 1), position.index_select(0, end)
        self.sum = sums_between(position, end, length**2)
        of_run = line.index_select(0, end)
        self.line: list[Tensor] = []
        for size in reversed(shape[1:-1]):
            rest = of_run.div(size, rounding_mode="trunc")
            self.line.insert(0, of_run - rest * size)
            of_run = rest
