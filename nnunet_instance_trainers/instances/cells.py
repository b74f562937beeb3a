"""Cells: each voxel belongs to the object that is nearest to it (a Voronoi diagram of objects, not of points)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nnunet_instance_trainers.instances.nearest_places import nearest_places
from nnunet_instance_trainers.instances.objects import Objects
from nnunet_instance_trainers.instances.voxel_lists import joined
from nnunet_instance_trainers.instances.voxels import blocks, sum_over, tally

__all__ = ["GRIDS", "Cells", "cell_map"]

GRIDS = ("full", "half")
"""The grids on which distances are computed."""


class Cells:
    """The cells of a batch's objects, and sums over them. Every voxel belongs to one cell; nothing is left over.

    The cell of an object holds the voxels that are nearer to it than to any other object of the sample, itself
    included. Distances are Euclidean and exact; of objects equally near the first of the list, that is the one of
    the lowest id, gets the voxel. A sample without objects is one cell, listed behind those of all objects. Nothing is
    computed for a sample of one object or none.

    Args:
        objects: the N objects of B samples, one cell each.
        valid: (n, *S) bool for each scale, False where a voxel counts in no sum, with as many samples in a row for each
            image; distances may cross such voxels.
        spacing: of the voxels at the first scale, one number per axis in any unit; None is 1 along each. At other
            scales voxels are as much larger as images have fewer.
        grid: ``"full"``, or ``"half"``: distances between blocks of two voxels along each axis, of which each belongs
            to its object of the lowest id. Takes an eighth of the work in 3D, and on a CPU less, for scipy computes
            them; voxels near the border of two cells may change sides, and ties fall as they do there.
        cells: for each scale the ids of the nearest objects where they are known, as :func:`cell_map` gives them;
            spacing and grid are then not used.

    Attributes:
        places: for each scale (samples, *S) int32, for each voxel the place of its object in the list, N + b in a
            sample b without objects.

    Raises:
        ValueError: a spacing that does not fit, an unknown grid.

    Example:
        >>> cells = Cells(Objects(torch.tensor([[0, 1, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0]])))
        >>> cells.places[0].tolist()
        [[0, 0, 0, 0, 1, 1], [3, 3, 3, 3, 3, 3]]
        >>> cells.size.tolist(), cells.sums([torch.ones(2, 6)]).tolist()
        ([4, 2, 0, 6], [4.0, 2.0, 0.0, 6.0])
    """

    def __init__(
        self,
        objects: Objects,
        *,
        valid: Sequence[Tensor] | None = None,
        spacing: Sequence[float] | None = None,
        grid: str = "full",
        cells: Sequence[Tensor] | None = None,
    ) -> None:
        if grid not in GRIDS:
            raise ValueError(f"grid must be 'full' or 'half', got {grid!r}")
        dim = len(objects.voxels.shapes[0]) - 1
        spacing = [1.0] * dim if spacing is None else list(spacing)
        if len(spacing) != dim or min(spacing) <= 0:
            raise ValueError(f"spacing must be {dim} numbers above 0, got {spacing}")
        self.objects, self._valid = objects, valid
        self.places = _nearest(objects, spacing, grid) if cells is None else _named(objects, cells)

    def __len__(self) -> int:
        return len(self.objects) + self.objects.n_samples

    @cached_property
    def size(self) -> Tensor:
        """(N + B,) voxels of each cell that are not ignored."""
        if self._valid is None:
            return self.sums([torch.ones_like(place, dtype=torch.float32) for place in self.places]).long()
        counted = [
            valid.float().repeat_interleave(len(place) // len(valid), 0)
            for place, valid in zip(self.places, self._valid)
        ]
        return self.sums(counted).long()

    def at(self, objects: Objects) -> Tensor:
        """(K,) the cell in which each voxel of other objects of the same samples lies."""
        here = zip(self.places, _positions(objects))
        return joined([place.reshape(-1).index_select(0, position) for place, position in here])

    def sums(self, values: Sequence[Tensor]) -> Tensor:
        """(N + B,) sums over each cell, differentiable, of the values of all voxels, 0 where ignored.

        They are vectors or images for each scale, or one vector of all scales.
        """
        if values[0].device.type == "cpu":
            of_scales = [
                _SumOverRuns.apply(part, *runs, len(self)) for part, runs in zip(values, self._runs, strict=True)
            ]
            return torch.stack(of_scales).sum(0)
        return sum_over(joined([part.reshape(-1) for part in values]), self._flat, len(self))

    @cached_property
    def _flat(self) -> Tensor:
        return joined([place.reshape(-1) for place in self.places])

    @cached_property
    def _runs(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each scale where in the flattened images the cell changes, for how long not, and which it is."""
        runs = []
        for image in self.places:
            place = image.reshape(-1).numpy()
            start = np.flatnonzero(np.concatenate(([True], place[1:] != place[:-1])))
            length = np.diff(start, append=len(place))
            runs.append((torch.from_numpy(start), torch.from_numpy(length), torch.from_numpy(place.take(start)).long()))
        return runs


class _SumOverRuns(Function):
    """Sums over groups of runs of neighbouring values, on a CPU in a third of the time of sums voxel by voxel.

    NumPy adds up a run pairwise, so single precision is enough within it; runs are added up in double precision.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, start: Tensor, length: Tensor, place: Tensor, number: int) -> Tensor:
        ctx.save_for_backward(length, place)
        ctx.like = values.shape, values.dtype
        of_runs = np.add.reduceat(values.detach().numpy().reshape(-1), start.numpy())
        return torch.bincount(place, torch.from_numpy(of_runs).double(), number)

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
    (place,) = Cells(objects, spacing=spacing, grid=grid).places
    names = torch.cat((objects.id.to(ids.dtype), ids.new_zeros(len(ids))))
    return names.index_select(0, place.reshape(-1)).view(ids.shape)


def _positions(objects: Objects) -> list[Tensor]:
    """For each scale (K_s,) the flat positions of the voxels of objects in images of the samples (samples, *S)."""
    voxels, n_kinds = objects.voxels, objects.n_kinds
    if n_kinds == 1:
        return list(voxels.places)
    found, first = [], 0
    for shape, place, member in zip(voxels.shapes, voxels.places, voxels.split(objects.member)):
        n_voxels = prod(shape[1:])
        sample = objects.sample.index_select(0, member) - first
        found.append(place + (sample - blocks(place, shape[0], n_voxels)) * n_voxels)
        first += shape[0] * n_kinds
    return found


def _named(objects: Objects, cells: Sequence[Tensor]) -> list[Tensor]:
    """Places for ids of one scale or several; an id without an object belongs to none."""
    ids = objects.id
    n_ids = 1 + max(int(t.max()) if t.numel() else 0 for t in (*cells, ids))
    place = torch.arange(objects.n_samples, device=ids.device).add_(len(objects)).repeat_interleave(n_ids).int()
    place[objects.sample * n_ids + ids] = torch.arange(len(objects), device=ids.device, dtype=torch.int32)
    of_samples = iter(place.view(objects.n_samples, n_ids))
    return [
        torch.stack([next(of_samples).index_select(0, own.reshape(-1).int()) for own in image]).view(image.shape)
        for image in cells
    ]


def _nearest(objects: Objects, spacing: Sequence[float], grid: str) -> list[Tensor]:
    """For each scale the place of the nearest object of each voxel."""
    number = tally(objects.sample, objects.n_samples)
    numbers = number.cpu().tolist()  # for these a GPU is waited for
    # Within each sample objects are numbered from 1 on: small numbers leave room for distances.
    order, first = objects.sample.argsort(stable=True), number.cumsum(0) - number
    in_sample = torch.arange(1, len(order) + 1, device=order.device) - first.index_select(0, objects.sample[order])
    rank = torch.empty_like(order).scatter_(0, order, in_sample).int()
    beyond = torch.arange(objects.n_samples, device=order.device) + len(order)
    alone = torch.where(number > 0, torch.cat((order, beyond[:1])).index_select(0, first), beyond).int()

    places, end, shapes = [], 0, objects.voxels.shapes
    of_scales = zip(shapes, _positions(objects), objects.voxels.split(objects.member))
    for (n_images, *size), position, member in of_scales:
        begin, end = end, end + n_images * objects.n_kinds
        here, largest = numbers[begin:end], max(numbers[begin:end])
        place = alone[begin:end].view(-1, *[1] * len(size)).expand(-1, *size)
        if largest > 1:
            own = [edge * most / length for edge, most, length in zip(spacing, shapes[0][1:], size)]
            paint = _painted if grid == "full" else _painted_in_blocks
            image = paint(position, rank.index_select(0, member), end - begin, size, largest)
            # On a CPU samples of one object or none are passed over.
            is_cpu = image.device.type == "cpu"
            some = torch.tensor(here) > 1 if is_cpu and min(here) < 2 else slice(None)
            found = nearest_places(image[some], largest, own, by_scipy=grid == "half")
            found = found if grid == "full" else _doubled(found, size)
            found = found + (first[begin:end] - 1)[some].int().view(-1, *[1] * len(size))
            if objects.n_kinds > 1:
                found = order.int().index_select(0, found.reshape(-1).clamp_(0, len(order) - 1)).view(found.shape)
            if min(here) > 1:
                place = found
            else:
                several = (number > 1)[begin:end][some].view(-1, *[1] * len(size))
                place = place.clone(memory_format=torch.contiguous_format)
                place[some] = torch.where(several, found, place[some])
        place = place.contiguous()
        if grid == "half":  # a block holds one object only
            place.view(-1).index_copy_(0, position.long(), member.int())
        places.append(place)
    return places


def _painted(position: Tensor, numbers: Tensor, n_samples: int, size: Sequence[int], largest: int) -> Tensor:
    """Numbers (K,) int32, none above the largest, at flat positions of images (n_samples, *size), 0 elsewhere."""
    image = torch.zeros((n_samples, *size), dtype=torch.int32, device=numbers.device)
    image.view(-1).index_copy_(0, position.long(), numbers)
    return image


def _painted_in_blocks(position: Tensor, numbers: Tensor, n_samples: int, size: Sequence[int], largest: int) -> Tensor:
    """The same in blocks of two voxels along each axis; a block has the lowest of its numbers."""
    coarse = [(length + 1) // 2 for length in size]
    rest, step, at = position.long(), 1, torch.zeros_like(position, dtype=torch.int64)
    for length, n_blocks in zip(reversed(size), reversed(coarse)):
        at += rest % length // 2 * step
        rest, step = rest // length, step * n_blocks
    image = numbers.new_full((n_samples * step,), largest + 1).scatter_reduce_(0, at + rest * step, numbers, "amin")
    return torch.where(image > largest, 0, image).view(n_samples, *coarse)


def _doubled(image: Tensor, size: Sequence[int]) -> Tensor:
    """Each voxel twice along each axis but the first, cut to a size."""
    for axis, length in enumerate(size, start=1):
        pairs = image.unsqueeze(axis + 1).expand(*image.shape[: axis + 1], 2, *image.shape[axis + 1 :])
        image = pairs.flatten(axis, axis + 1).narrow(axis, 0, length)
    return image
