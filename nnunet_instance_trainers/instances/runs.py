"""Voxels of objects joined to runs along the last axis, for centres and boxes."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.voxel_lists import VoxelList, joined
from nnunet_instance_trainers.instances.voxels import blocks, positions, sums_between

__all__ = ["Runs"]


class Runs:
    """The voxels of objects, joined where one object's follow each other in one line along the last axis.

    Centres and boxes are sums and extremes over runs, of which a large object has far fewer than voxels. On a GPU
    each voxel is a run: the number of runs would have to be waited for.

    Args:
        voxels: the voxels of objects.
        member: (K,) the object of each.

    Attributes:
        member: (R,) the object of each run.
        line: (R,) for each axis but the last, the position of its line.
        size: (R,) its voxels; they need not touch.
        sum, first, last: (R,) sum, lowest and highest of their positions along the last axis.
    """

    def __init__(self, voxels: VoxelList, member: Tensor) -> None:
        if member.device.type == "cpu":
            scales = [_of_scale(*scale) for scale in zip(voxels.shapes, voxels.places, voxels.split(member))]
            self.member, self.size, self.sum, self.first, self.last, *self.line = map(joined, zip(*scales))
        else:
            *self.line, self.sum = voxels.coordinates
            self.member, self.first, self.last, self.size = member, self.sum, self.sum, torch.ones_like(member)


def _of_scale(shape: torch.Size, voxel: Tensor, member: Tensor) -> tuple[Tensor, ...]:
    """Member, size, sum, first, last and lines at one scale."""
    n_lines, length = prod(shape[:-1]), shape[-1]
    line = blocks(voxel, n_lines, length)
    position = torch.sub(voxel, line, alpha=length)
    ends = torch.ones_like(voxel, dtype=torch.bool)
    ends[:-1] = (line[1:] != line[:-1]).logical_or_(member[1:] != member[:-1])
    end = positions(ends)
    size = end.diff(prepend=end.new_full((1,), -1))
    first, last = position.index_select(0, end - size + 1), position.index_select(0, end)
    total = sums_between(position, end, length**2)
    return member.index_select(0, end), size, total, first, last, *_lines(line.index_select(0, end), shape)


def _lines(of_run: Tensor, shape: torch.Size) -> list[Tensor]:
    """For each axis but the last, the position of lines by their number."""
    positions_: list[Tensor] = []
    for size in reversed(shape[1:-1]):
        rest = of_run.div(size, rounding_mode="trunc")
        positions_.insert(0, of_run - rest * size)
        of_run = rest
    return positions_
