"""Cells: each voxel belongs to the object that is nearest to it (a Voronoi diagram of objects, not of points)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import floor, log2

import numpy as np
import torch
from torch import Tensor

from nnunet_instance_trainers.instances.objects import Objects
from nnunet_instance_trainers.instances.voxels import integers, sum_over

__all__ = ["GRIDS", "Cells", "cell_map"]

GRIDS = ("full", "half")
"""The grids on which distances are computed."""

_FAR = 2.0**52  # larger than all keys; up to here float64 holds every whole number
_PAIRS = 1 << 25  # of voxels compared at once on a GPU


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
            to its object of the lowest id. Takes an eighth of the work in 3D; voxels near the border of two cells may
            change sides.
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
        place = self.place if self._valid is None else self.place[self._valid]
        return torch.bincount(place.reshape(-1), minlength=len(self))

    def at(self, voxel: Tensor) -> Tensor:
        """(K,) the cell in which each flat position lies."""
        return self.place.reshape(-1).index_select(0, voxel)

    def sums(self, values: Tensor) -> Tensor:
        """(N + B,) sums of values (B, *S) over each cell, differentiable. They must be 0 where voxels are ignored."""
        return sum_over(values.reshape(-1), self.place.reshape(-1), len(self))


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
    """Places for ids; what is no object of the sample belongs to none."""
    n_samples, n_ids = cells.shape[0], 1 + max(int(t.max()) if t.numel() else 0 for t in (cells, objects.id))
    place = torch.arange(n_samples, device=cells.device).add_(len(objects)).repeat_interleave(n_ids)
    place[objects.sample * n_ids + objects.id] = torch.arange(len(objects), device=cells.device)
    first = torch.arange(n_samples, device=cells.device).mul_(n_ids).view(-1, *[1] * (cells.ndim - 1))
    return place.int()[cells + first]


def _on_half_grid(objects: Objects, spacing: Sequence[float] | None) -> Tensor:
    image = _painted(objects)
    coarse = torch.where(image > 0, image, len(objects) + 1)
    for axis, length in enumerate(image.shape[1:], start=1):
        if length > 1:
            first, last = (torch.arange(at, length + length % 2, 2, device=image.device) for at in (0, 1))
            coarse = torch.minimum(
                coarse.index_select(axis, first), coarse.index_select(axis, last.clamp(max=length - 1))
            )
    place = _nearest(objects, torch.where(coarse > len(objects), 0, coarse), spacing)
    for axis, length in enumerate(image.shape[1:], start=1):
        place = place.index_select(axis, torch.arange(length, device=image.device) // (2 if length > 1 else 1))
    return torch.where(image > 0, image - 1, place)


def _nearest(objects: Objects, image: Tensor, spacing: Sequence[float] | None) -> Tensor:
    """Places of the nearest objects in an image of places plus one; computed where a sample has two or more."""
    numbers = objects.number.tolist()
    first = np.cumsum([0, *numbers[:-1]])
    without = torch.tensor(
        [int(at) if number else len(objects) + b for b, (at, number) in enumerate(zip(first, numbers))],
        dtype=torch.int32,
        device=image.device,
    )
    place = without.view(-1, *[1] * (image.ndim - 1)).expand(image.shape).contiguous()
    several = [b for b, number in enumerate(numbers) if number > 1]
    if several:
        chosen = image[several] if len(several) < len(image) else image
        factor = len(objects) + 1
        steps = _whole_steps(image.shape[1:], spacing, factor)
        nearest = _in_numpy if image.device.type == "cpu" else _in_torch
        place[several] = nearest(chosen, factor, steps).sub_(1)
    return place


def _whole_steps(shape: Sequence[int], spacing: Sequence[float] | None, factor: int) -> list[int]:
    """Squared spacings as whole numbers, so that equal distances are equal.

    They are taken relative to the smallest and rounded as finely as keys, squared distance times ``factor`` plus place,
    stay below 2^51.
    """
    spacing = [1.0] * len(shape) if spacing is None else [float(edge) for edge in spacing]
    if len(spacing) != len(shape) or min(spacing) <= 0:
        raise ValueError(f"spacing must be {len(shape)} numbers above 0, got {spacing}")
    squares = [(edge / min(spacing)) ** 2 for edge in spacing]
    largest = factor * (1 + sum(square * length**2 for square, length in zip(squares, shape)))
    scale = 2 ** max(floor(51 - log2(largest)) - 1, 0)
    return [round(scale * square) for square in squares]


# A key is a squared distance times a factor plus a place below that factor. The smallest key is the nearest object and,
# of several, the first; as minima of sums over axes keys are found axis by axis.


def _in_torch(image: Tensor, factor: int, steps: Sequence[int]) -> Tensor:
    """The nearest of each voxel, with every pair of voxels of a line compared: many operations at once."""
    keys = torch.where(image > 0, image.long(), int(_FAR))
    for axis, step in enumerate(steps, start=1):
        lines = keys.movedim(axis, -1)
        shape, length = lines.shape, lines.shape[-1]
        position = torch.arange(length, device=image.device)
        cost = (position[:, None] - position).square_().mul_(step * factor)
        parts = lines.reshape(-1, 1, length).split(max(_PAIRS // length**2, 1))
        keys = torch.cat([(part + cost).amin(-1) for part in parts]).view(shape).movedim(-1, axis)
    return keys.remainder_(factor).to(integers(factor))


def _in_numpy(image: Tensor, factor: int, steps: Sequence[int]) -> Tensor:
    """The same by lower envelopes of parabolas: fewer operations, one after the other."""
    keys = np.where(image.numpy() > 0, image.numpy(), _FAR)
    for axis, step in reversed(list(enumerate(steps, start=1))):
        rows = np.moveaxis(keys, axis, 0)
        lines = rows.reshape(len(rows), -1)
        some = np.flatnonzero((lines < _FAR).any(0))
        found = np.full(lines.shape, _FAR)
        found[:, some] = _envelope(lines[:, some], float(step * factor))
        keys = np.moveaxis(found.reshape(rows.shape), 0, axis)
    return torch.from_numpy(np.ascontiguousarray(np.remainder(keys, factor), dtype=np.int32))


def _envelope(keys: np.ndarray, cost: float) -> np.ndarray:
    """(n, L) for each place x of L lines the smallest of keys[q] + cost (x - q)^2 over q.

    Felzenszwalb and Huttenlocher 2012, all lines at once: of each a stack of the parabolas that are lowest somewhere,
    with the first whole place at which each is. All numbers are whole, so quotients of float64 are exact once rounded
    down. Each line has a key below _FAR.
    """
    n, n_lines = keys.shape
    # Stacks in rows: a parabola's vertex, its key there, and where it begins to be lowest. The top of each also apart.
    stack_q, stack_key, stack_start = (np.empty((n + 1) * n_lines) for _ in range(3))
    top, top_q, top_key, top_start = (np.full(n_lines, value) for value in (-1.0, -1.0, _FAR, 0.0))
    lines = np.arange(n_lines)
    top = lines - n_lines
    for q, own in enumerate(keys):
        start = _lower_from(q, own, top_q, top_key, cost)
        hidden = np.flatnonzero((start <= top_start) & (own < _FAR) & (top >= 0))
        while len(hidden):  # tops that are nowhere lowest any more
            top[hidden] = below = top[hidden] - n_lines
            hidden, below = hidden[below >= 0], below[below >= 0]
            top_q[hidden], top_key[hidden], top_start[hidden] = stack_q[below], stack_key[below], stack_start[below]
            start[hidden] = _lower_from(q, own[hidden], top_q[hidden], top_key[hidden], cost)
            hidden = hidden[start[hidden] <= top_start[hidden]]
        start[top < 0] = 0
        new = np.flatnonzero((start < n) & (own < _FAR))
        top[new] = at = top[new] + n_lines
        stack_q[at] = top_q[new] = q
        stack_key[at] = top_key[new] = own[new]
        stack_start[at] = top_start[new] = start[new]
    stack_start[top + n_lines] = n
    at, lowest = lines, np.empty_like(keys)
    now_q, now_key, ends = stack_q[at], stack_key[at], stack_start[at + n_lines]
    at = at.copy()
    for x, row in enumerate(lowest):
        moves = np.flatnonzero(ends <= x)
        at[moves] = to = at[moves] + n_lines
        now_q[moves], now_key[moves], ends[moves] = stack_q[to], stack_key[to], stack_start[to + n_lines]
        np.square(np.subtract(x, now_q, out=row), out=row)
        row *= cost
        row += now_key
    return lowest


def _lower_from(q: float, key: np.ndarray, other_q: np.ndarray, other_key: np.ndarray, cost: float) -> np.ndarray:
    """The first whole place at which the parabola of q is below that of a vertex to its left."""
    twice_apart = 2 * cost * (q - other_q)
    return np.floor((key - other_key + cost * (q - other_q) * (q + other_q)) / twice_apart) + 1
