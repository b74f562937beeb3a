"""Cubes around centres: their picture, and how much of a mask lies in each."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

__all__ = ["count_around", "draw_cubes", "widen", "with_neighbours"]


def widen(mask: Tensor, axis: int, reach: int) -> Tensor:
    """A mask (B, *S) grown by ``reach`` voxels to both sides along one axis."""
    grown, length = mask.clone(), mask.shape[axis]
    for step in range(1, min(reach, length - 1) + 1):
        grown.narrow(axis, step, length - step).logical_or_(mask.narrow(axis, 0, length - step))
        grown.narrow(axis, 0, length - step).logical_or_(mask.narrow(axis, step, length - step))
    return grown


def with_neighbours(mask: Tensor) -> Tensor:
    """A mask (B, *S) and the voxels that touch it by face, edge or corner."""
    for axis in range(1, mask.ndim):
        mask = widen(mask, axis, 1)
    return mask


def draw_cubes(shape: Sequence[int], sample: Tensor, centres: Tensor, reach: Sequence[int]) -> Tensor:
    """Cubes around centres, merged where they overlap and clipped at the border.

    Args:
        shape: (B, *S) of the picture.
        sample: (N,) batch element of each cube.
        centres: (N, d) integer positions.
        reach: voxels to either side of the centre, per axis.

    Returns:
        (B, *S) bool. Drawn by widening the mask of centres axis by axis, so the cost does not depend on N.
    """
    picture = torch.zeros(tuple(shape), dtype=torch.bool, device=centres.device)
    occupied = (sample, *centres.T)  # a name of its own: mypy on Python 3.10 takes it for newer syntax inside []
    picture[occupied] = True
    for axis, r in enumerate(reach, start=1):
        picture = widen(picture, axis, r)
    return picture


def count_around(mask: Tensor, sample: Tensor, centres: Tensor, reach: Sequence[int]) -> Tensor:
    """(N,) int64 number of voxels of a mask (B, *S) inside cubes around centres; outside the image there are none.

    A sliding sum along each axis, so the cost does not depend on N.
    """
    counts = mask.to(torch.int32 if prod(2 * r + 1 for r in reach) > torch.iinfo(torch.int16).max else torch.int16)
    for axis, r in enumerate(reach, start=1):
        single, length = counts, mask.shape[axis]
        counts = single.clone()
        for step in range(1, min(r, length - 1) + 1):
            counts.narrow(axis, step, length - step).add_(single.narrow(axis, 0, length - step))
            counts.narrow(axis, 0, length - step).add_(single.narrow(axis, step, length - step))
    middle = (sample, *centres.T)
    return counts[middle].long()
