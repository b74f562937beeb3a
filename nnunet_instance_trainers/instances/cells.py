"""Cells: each voxel belongs to the object that is nearest to it (a Voronoi diagram of objects, not of points)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nnunet_instance_trainers.instances.nearest_places import nearest_places
from nnunet_instance_trainers.instances.objects import Objects
from nnunet_instance_trainers.instances.voxels import sum_over

__all__ = ["GRIDS", "Cells", "cell_map"]

GRIDS = ("full", "half")
"""The grids on which distances are computed."""


class Cells:
    """The cells of a batch's objects, and sums over them. Every voxel belongs to one cell; nothing is left over.

    The cell of an object holds the voxels that are nearer to it than to any other object of the sample, itself
    included. Distances are Euclidean and exact; of objects equally near the first of the list, that is the one of
    the lowest id, gets the voxel. A sample without objects is one cell, listed behind those of all objects.

    Args:
        objects: the objects, one cell each.
        valid: (B, *S) bool, False where a voxel counts in no sum; distances may cross such voxels.
        spacing: of the voxels, one number per axis in any unit; None is 1 along each.
        grid: ``"full"``, or ``"half"``: distances between blocks of two voxels along each axis, of which each belongs
            to its object of the lowest id. Takes an eighth of the work in 3D, and on a CPU less, for scipy computes
            them; voxels near the border of two cells may change sides, and ties fall as they do there.
        cells: (B, *S) the ids of the nearest objects where they are known, as :func:`cell_map` gives them; spacing
            and grid are then not used.

    Attributes:
        place: (B, *S) int32, for each voxel the place of its object in the list, ``len(objects)`` + b in a sample b
            without objects.

    Example:
        >>> cells = Cells(Objects(torch.tensor([[0, 1, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0]])))
        >>> cells.place.tolist()
        [[0, 0, 0, 0, 1, 1], [3, 3, 3, 3, 3, 3]]
        >>> cells.size.tolist(), cells.sums(torch.ones(2, 6)).tolist()
        ([4, 2, 0, 6], [4.0, 2.0, 0.0, 6.0])
    """

    def __init__(
        self,
        objects: Objects,
        *,
        valid: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        grid: str = "full",
        cells: Tensor | None = None,
    ) -> None:
        if grid not in GRIDS:
            raise ValueError(f"grid must be 'full' or 'half', got {grid!r}")
        self.objects, self._valid = objects, valid
        if cells is not None:
            self.place = _places_of(objects, cells)
        elif grid == "full":
            self.place = _nearest(objects, _painted(objects), spacing)
        else:
            self.place = _on_half_grid(objects, spacing)

    def __len__(self) -> int:
        return len(self.objects) + self.place.shape[0]

    @cached_property
    def size(self) -> Tensor:
        """(N + B,) voxels of each cell that are not ignored."""
        valid = torch.ones_like(self.place) if self._valid is None else self._valid
        return self.sums(valid.float()).long()

    def at(self, voxel: Tensor) -> Tensor:
        """(K,) the cell in which each flat position lies."""
        return self.place.reshape(-1).index_select(0, voxel)

    def sums(self, values: Tensor) -> Tensor:
        """(N + B,) sums of values (B, *S) over each cell, differentiable. They must be 0 where voxels are ignored."""
        if values.device.type == "cpu":
            return _SumOverRuns.apply(values, *self._runs, len(self))
        return sum_over(values.reshape(-1), self.place.reshape(-1), len(self))

    @cached_property
    def _runs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where in the flattened images the cell changes, how long it stays the same, and which it is."""
        place = self.place.reshape(-1).numpy()
        start = np.flatnonzero(np.concatenate(([True], place[1:] != place[:-1])))
        length = np.diff(start, append=len(place))
        return torch.from_numpy(start), torch.from_numpy(length), torch.from_numpy(place.take(start)).long()


class _SumOverRuns(Function):
    """Sums over groups of runs of neighbouring values, a third of the time of sums voxel by voxel on a CPU."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, start: Tensor, length: Tensor, place: Tensor, number: int) -> Tensor:
        ctx.save_for_backward(length, place)
        ctx.like = values.shape, values.dtype
        of_runs = np.add.reduceat(values.detach().numpy().reshape(-1), start.numpy(), dtype=np.float64)
        return torch.bincount(place, torch.from_numpy(of_runs), number)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (length, place), (shape, dtype) = ctx.saved_tensors, ctx.like
        of_runs = gradient.to(dtype).index_select(0, place)
        return torch.from_numpy(np.repeat(of_runs.numpy(), length.numpy())).view(shape), None, None, None, None


def cell_map(
    ids: Tensor, *, spacing: Sequence[float] | None = None, valid: Tensor | None = None, grid: str = "full"
) -> Tensor:
    """The id of the nearest object of each voxel: see :class:`Cells`.

    Args:
        ids: (B, *S) integer ids, 0 is background.
        spacing, grid: those of :class:`Cells`.
        valid: (B, *S) bool, False where an id does not count; such voxels get a cell as any other.

    Returns:
        (B, *S) ids in the type of ``ids``; 0 in a sample without objects.

    Raises:
        ValueError: shapes differ, a spacing that does not fit, an unknown grid.

    Example:
        >>> cell_map(torch.tensor([[[7, 0, 0], [0, 0, 0], [0, 0, 3]]])).tolist()  # on the diagonal the lower id wins
        [[[7, 7, 3], [7, 3, 3], [3, 3, 3]]]
        >>> cell_map(torch.tensor([[[7, 0, 0], [0, 0, 0], [0, 0, 3]]]), spacing=(2, 1)).tolist()
        [[[7, 7, 7], [7, 3, 3], [3, 3, 3]]]
    """
    objects = Objects(ids, valid=valid)
    place = Cells(objects, spacing=spacing, grid=grid).place
    return (
        torch.cat((objects.id.to(ids.dtype), ids.new_zeros(len(ids))))
        .index_select(0, place.reshape(-1))
        .view(ids.shape)
    )


def _painted(objects: Objects) -> Tensor:
    """(B, *S) int32: the place of each voxel's object in the list plus one, 0 in the background."""
    image = torch.zeros(objects.shape, dtype=torch.int32, device=objects.member.device)
    image.view(-1).index_copy_(0, objects.voxel.long(), objects.member.int() + 1)
    return image


def _places_of(objects: Objects, cells: Tensor) -> Tensor:
    """Places for ids; an id without an object belongs to none."""
    n_samples, n_ids = cells.shape[0], 1 + max(int(t.max()) if t.numel() else 0 for t in (cells, objects.id))
    place = torch.arange(n_samples, device=cells.device).add_(len(objects)).repeat_interleave(n_ids).int()
    place[objects.sample * n_ids + objects.id] = torch.arange(len(objects), device=cells.device, dtype=torch.int32)
    of_samples = zip(cells.reshape(n_samples, -1).int(), place.view(n_samples, n_ids))
    return torch.stack([names.index_select(0, own) for own, names in of_samples]).view(cells.shape)


def _on_half_grid(objects: Objects, spacing: Sequence[float] | None) -> Tensor:
    image = _painted(objects)
    coarse = torch.where(image > 0, image, len(objects) + 1)
    for axis, length in enumerate(image.shape[1:], start=1):
        if length > 1:
            first, last = (torch.arange(at, length + length % 2, 2, device=image.device) for at in (0, 1))
            coarse = torch.minimum(
                coarse.index_select(axis, first), coarse.index_select(axis, last.clamp(max=length - 1))
            )
    place = _nearest(objects, torch.where(coarse > len(objects), 0, coarse), spacing, by_scipy=True)
    for axis, length in enumerate(image.shape[1:], start=1):
        place = place.index_select(axis, torch.arange(length, device=image.device) // (2 if length > 1 else 1))
    return torch.where(image > 0, image - 1, place)


def _nearest(objects: Objects, image: Tensor, spacing: Sequence[float] | None, *, by_scipy: bool = False) -> Tensor:
    """Places of the nearest objects in an image of places plus one; computed where a sample has two or more."""
    numbers = objects.number.tolist()
    ends = list(accumulate(numbers))
    alone = [end - 1 if number else len(objects) + b for b, (end, number) in enumerate(zip(ends, numbers))]
    place = torch.tensor(alone, dtype=torch.int32, device=image.device)
    place = place.view(-1, *[1] * (image.ndim - 1)).repeat(1, *image.shape[1:])
    for b, (end, number) in enumerate(zip(ends, numbers)):
        if number > 1:  # numbered from 1 on in the sample: small numbers leave room for distances
            own = torch.where(image[b] > 0, image[b] - (end - number), 0)
            place[b] = nearest_places(own, number, spacing, by_scipy=by_scipy) + (end - number - 1)
    return place
