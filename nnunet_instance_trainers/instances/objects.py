"""The objects of a batch of id images: which voxels belong to which, and sums over each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.runs import Runs
from nnunet_instance_trainers.instances.voxel_lists import VoxelList, joined
from nnunet_instance_trainers.instances.voxels import count, fill, integers, positions, read, sum_over, tally

__all__ = ["Objects"]


class Objects:
    """The objects of a batch of id images, as one list over all samples.

    Lists the voxels that carry an id, a few per cent of an image, and sums any per-voxel value over each
    object in one pass over them, whatever the number of objects. Sums are differentiable with respect to the
    values. They are float64 (float32 on MPS, which has no more): a voxel added to a sum of 10^6 in float32 is
    rounded away by per cents, and backgrounds are small differences of large sums.

    The background is never summed voxel by voxel into one address (atomic additions on a GPU would
    serialise): it is the total minus the rest.

    Images of several sizes, and objects of several kinds in one image, are one list too (:meth:`of_ids`,
    :meth:`of_members`). A sample is then one kind in one image, number image * n_kinds + kind: B below is the number
    of samples.

    Args:
        ids: (B, *S) integer ids, 0 is background. Ids are local to a sample and need not be consecutive; on a CPU
            nothing is sorted where they are.
        valid: (B, *S) bool, False where a voxel belongs to nothing (nnU-Net's ignore label); None means
            everywhere.

    Attributes:
        voxels: the voxels of objects.
        member: (K,) for each of them the object, an index into the lists of length N.
        sample: (N,) the sample of each object.
        size: (N,) its number of voxels, > 0.
        n_kinds: kinds of objects in one image.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> objects = Objects(torch.tensor([[1, 1, 0, 5]]))
        >>> objects.id.tolist(), objects.size.tolist(), objects.background_size.tolist()
        ([1, 5], [2, 1], [1])
        >>> objects.sums(torch.tensor([[0.5, 0.25, 1.0, 0.125]])).tolist()
        [0.75, 0.125]
    """

    sample: Tensor
    size: Tensor
    member: Tensor
    _number_of_key: Tensor | None

    def __init__(self, ids: Tensor, *, valid: Tensor | None = None) -> None:
        if valid is not None and valid.shape != ids.shape:
            raise ValueError(f"valid must have the shape of ids, {tuple(ids.shape)}, got {tuple(valid.shape)}")
        voxels = VoxelList.where([ids > 0 if valid is None else (ids > 0) & valid])
        self._begin(voxels, 1, None if valid is None else [valid])
        self._number(voxels.read([ids]), None)

    def _begin(self, voxels: VoxelList, n_kinds: int, valid: Sequence[Tensor] | None) -> None:
        self.voxels, self.n_kinds, self._valid = voxels, n_kinds, valid
        self.n_samples = voxels.n_images * n_kinds

    @classmethod
    def of_ids(
        cls,
        voxels: VoxelList,
        ids: Tensor,
        kind: Tensor | None = None,
        *,
        n_kinds: int = 1,
        valid: Sequence[Tensor] | None = None,
    ) -> Objects:
        """From listed voxels of objects, the ids (K,) > 0 there, and where there are several the kinds (K,).

        An id that occurs in several kinds is an object of each. ``valid`` is (n, *S) for each scale, with as many
        samples in a row for each of its images.
        """
        objects = cls.__new__(cls)
        objects._begin(voxels, n_kinds, valid)
        objects._number(ids, kind)
        return objects

    @classmethod
    def of_members(
        cls,
        voxels: VoxelList,
        member: Tensor,
        numbers: Tensor,
        n_objects: int,
        kind: Tensor | None = None,
        *,
        n_kinds: int = 1,
        valid: Sequence[Tensor] | None = None,
    ) -> Objects:
        """From listed voxels and the object (K,) of each; objects are numbered 0 to n - 1 through images in a row, of
        which each has a number (n_images,), and each is of one kind throughout."""
        objects = cls.__new__(cls)
        objects._begin(voxels, n_kinds, valid)
        objects.member, objects.size = member, tally(member, n_objects)
        image = torch.arange(len(numbers), device=member.device)
        objects.sample = fill(image, numbers, n_objects) * n_kinds
        if kind is not None:
            objects.sample += torch.zeros_like(objects.sample).scatter_(0, member.long(), kind.long())
        return objects

    def _number(self, ids: Tensor, kind: Tensor | None) -> None:
        """Members, sizes and samples from ids (K,)."""
        self._n_ids = _more_than(ids)
        key = ids.to(integers(self.n_samples * self._n_ids))  # MONAI loads label maps as floats
        key = key.add_(self._samples(kind).to(key.dtype), alpha=self._n_ids)
        if ids.device.type != "cpu" or self._n_ids > len(key) + 1:  # the latter is too sparse for a vector per sample
            self._keys, self.member, self.size = torch.unique(key, return_inverse=True, return_counts=True)
            self._number_of_key = None
        else:
            counts = torch.bincount(key, minlength=self.n_samples * self._n_ids)
            self._number_of_key = (counts > 0).cumsum(0).sub_(1).to(integers(len(key)))
            self.member = self._number_of_key.index_select(0, key)
            self._keys = positions(counts > 0)
            self.size = counts[self._keys]
        self.sample = self._keys.div(self._n_ids, rounding_mode="trunc")

    def _samples(self, kind: Tensor | None) -> Tensor:
        """(K,) the sample of each voxel."""
        image = self.voxels.image
        return image if kind is None else kind + image * self.n_kinds

    def find(self, sample: Tensor, ids: Tensor) -> Tensor:
        """(Q,) which objects have these ids in these samples; each must occur. Only of objects made of ids."""
        key = ids.to(self._keys.dtype).add_(sample.to(self._keys.dtype), alpha=self._n_ids)
        if self._number_of_key is None:
            return torch.searchsorted(self._keys, key)
        return self._number_of_key.index_select(0, key)

    @property
    def id(self) -> Tensor:
        """(N,) the id of each object, ascending within a sample. Only of objects made of ids."""
        return self._keys % self._n_ids

    def __len__(self) -> int:
        return len(self.size)

    @property
    def voxel(self) -> Tensor:
        """(K,) ascending flat positions of the voxels of objects."""
        return self.voxels.flat

    def gather(self, values: Tensor) -> Tensor:
        """Values (B, *S) at the voxels of objects, as a vector (K,)."""
        return read([values.unsqueeze(1)], self.voxels.places)[0][0]

    def sum_gathered(self, gathered: Tensor) -> Tensor:
        """Sums (N,) over each object of a vector (K,) of values at :attr:`voxels`."""
        return sum_over(gathered, self.member, len(self))

    def sums(self, values: Tensor) -> Tensor:
        """Sums (N,) of values (B, *S) over each object."""
        return self.sum_gathered(self.gather(values))

    def spread(self, of_samples: Tensor) -> Tensor:
        """(K,) for each voxel the number (B,) of its object's sample."""
        if self.n_kinds == 1:
            return self.voxels.spread(of_samples)
        return of_samples.index_select(0, self.sample).index_select(0, self.member)

    def per_sample(self, of_objects: Tensor) -> Tensor:
        """Sums (B,) over the objects of each sample of a number (N,) per object."""
        return of_objects.new_zeros(self.n_samples).index_add(0, self.sample, of_objects)

    @cached_property
    def number(self) -> Tensor:
        """(B,) objects in each sample."""
        return tally(self.sample, self.n_samples)

    @cached_property
    def valid_size(self) -> Tensor:
        """(B,) voxels of each sample that are not ignored."""
        if self._valid is None:
            shapes = self.voxels.shapes
            numbers = [self.sample.new_full((n * self.n_kinds,), prod(size), dtype=torch.int64) for n, *size in shapes]
            return joined(numbers)
        of_images = joined([count(valid) for valid in self._valid])
        return of_images.unsqueeze(1).expand(-1, self.n_samples // len(of_images)).reshape(-1)

    @cached_property
    def background_size(self) -> Tensor:
        """(B,) voxels of each sample that are not ignored and belong to no object."""
        return self.valid_size - self.per_sample(self.size)

    def background_sums(self, everywhere: Tensor, gathered: Tensor) -> Tensor:
        """Sums (B,) over the voxels of no object, given those over all voxels and the values at :attr:`voxels`.

        Values must be 0 where voxels are not valid.
        """
        return everywhere - self.per_sample(self.sum_gathered(gathered))

    @cached_property
    def _runs(self) -> Runs:
        return Runs(self.voxels, self.member)

    @cached_property
    def centres(self) -> Tensor:
        """(N, d) int64 unweighted mean position, rounded half up (torch.round goes to even)."""
        runs = self._runs
        weights = torch.stack([*(axis * runs.size for axis in runs.line), runs.sum], 1).long()
        sums = weights.new_zeros(len(self), weights.shape[1]).index_add_(0, runs.member, weights)
        size = self.size[:, None]
        return (2 * sums + size).div(2 * size, rounding_mode="floor")

    @cached_property
    def boxes(self) -> tuple[Tensor, Tensor]:
        """Tight boxes as two (N, d) integer tensors: lowest position, and highest position plus one."""
        runs, member = self._runs, self._runs.member.long()
        nowhere = runs.first.new_full((len(self),), torch.iinfo(runs.first.dtype).max)
        low = [nowhere.scatter_reduce(0, member, axis, "amin") for axis in (*runs.line, runs.first)]
        high = [(-nowhere).scatter_reduce(0, member, axis, "amax") for axis in (*runs.line, runs.last)]
        return torch.stack(low, 1), torch.stack(high, 1) + 1


def _more_than(ids: Tensor) -> int:
    """A number above all ids. No GPU is waited for where their format has few."""
    if ids.device.type == "cpu" or ids.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32):
        return int(ids.max()) + 1 if len(ids) else 1
    return torch.iinfo(ids.dtype).max + 1
