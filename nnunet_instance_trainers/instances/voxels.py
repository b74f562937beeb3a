"""Single voxels of a batch: where a mask is true, the values there, and totals over all.

Each value image gets its gradient in one buffer: where voxels are read by plain indexing, every read fills a
zero image of its own in the backward pass, and those fills cost more than the losses that read.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = [
    "blocks",
    "count",
    "gather",
    "gather_with_total",
    "integers",
    "positions",
    "sum_over",
    "sum_type",
    "sums_between",
    "total",
]

_BLOCK = 1 << 17  # voxels at a time on a CPU, so that what is made of them stays in the cache


def sum_type(values: Tensor) -> torch.dtype:
    """The number format in which values are summed: float64, on MPS float32."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def integers(largest: int) -> torch.dtype:
    """The shorter format for integers up to a largest: lists of voxels are bound by memory."""
    return torch.int32 if largest <= torch.iinfo(torch.int32).max else torch.int64


def positions(mask: Tensor) -> Tensor:
    """(K,) flat positions where a mask is true, ascending."""
    mask = mask.reshape(-1)
    if mask.device.type != "cpu":
        return mask.nonzero().squeeze(1).to(integers(len(mask)))
    # NumPy is three to ten times faster here than torch 2.15.
    found = torch.empty(int(np.count_nonzero(mask.numpy())), dtype=integers(len(mask)))
    filled = 0
    for start, block in zip(range(0, len(mask), _BLOCK), mask.split(_BLOCK)):
        here = np.flatnonzero(block.numpy())
        np.add(here, start, out=found.numpy()[filled : filled + len(here)], casting="same_kind")
        filled += len(here)
    return found


def blocks(voxel: Tensor, n_blocks: int, length: int) -> Tensor:
    """(K,) for ascending positions in an image cut into blocks of a length: the block that each lies in."""
    # By bisection, since dividing millions of integers is slow.
    block = torch.arange(n_blocks, dtype=voxel.dtype, device=voxel.device)
    numbers = torch.searchsorted(voxel, block * length + length).diff(prepend=block.new_zeros(1, dtype=torch.int64))
    return torch.repeat_interleave(block, numbers, output_size=len(voxel))


def count(mask: Tensor) -> Tensor:
    """(B,) number of true voxels of a mask (B, *S)."""
    if mask.device.type == "cpu":
        return torch.tensor([np.count_nonzero(sample) for sample in mask.numpy()], dtype=torch.int64)
    return mask.flatten(1).sum(1)


def gather(values: Tensor, voxel: Tensor, channels: Sequence[int] = (0,)) -> Tensor:
    """Values at voxels, differentiable.

    Args:
        values: (B, C, *S).
        voxel: (K,) ascending positions in a flattened image (B, *S), none twice.
        channels: which of the C channels to read.

    Returns:
        (number of channels, K)

    Example:
        >>> gather(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([1]), channels=(0, 1)).tolist()
        [[2.0], [4.0]]
    """
    return _Read.apply(values, voxel, tuple(channels), False)[0]


def gather_with_total(values: Tensor, voxel: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B, *S) at ascending voxels, (K,), and totals (B,) over all voxels in :func:`sum_type`."""
    gathered, total_ = _Read.apply(values.unsqueeze(1), voxel, (0,), True)
    return gathered[0], total_


def total(values: Tensor) -> Tensor:
    """Totals (B,) of values (B, *S), in :func:`sum_type`, differentiable."""
    return gather_with_total(values, torch.empty(0, dtype=torch.int64, device=values.device))[1]


class _Read(Function):
    """Values (B, C, *S) of some channels at voxels, and where it is wanted the total over all channels."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, voxel: Tensor, channels: tuple[int, ...], with_total: bool) -> Any:
        ctx.save_for_backward(voxel)
        ctx.like, ctx.channels = (values.shape, values.dtype, values.device), channels
        ctx.set_materialize_grads(False)
        place, n_voxels = _place(voxel, values.shape), prod(values.shape[2:])
        flat, gathered = values.reshape(-1), values.new_empty((len(channels), len(voxel)))
        for channel, of_channel in zip(channels, gathered):
            torch.index_select(flat[channel * n_voxels :], 0, place, out=of_channel)
        return gathered, _sum(values) if with_total else None

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_gathered: Tensor | None, of_total: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        (voxel,), (shape, dtype, device) = ctx.saved_tensors, ctx.like
        if of_total is None:
            gradient = torch.zeros(shape, dtype=dtype, device=device)
        else:
            gradient = of_total.to(dtype).view(-1, *[1] * (len(shape) - 1)).expand(shape).contiguous()
        if of_gathered is not None:
            place, n_voxels = _place(voxel, shape), prod(shape[2:])
            for channel, values in zip(ctx.channels, of_gathered):
                gradient.view(-1)[channel * n_voxels :].index_add_(0, place, values)
        return gradient, None, None, None


def _place(voxel: Tensor, shape: torch.Size) -> Tensor:
    """(K,) flat positions in images (B, C, *S), in the first channel."""
    n_samples, n_channels, n_voxels = shape[0], shape[1], prod(shape[2:])
    if n_channels == 1:
        return voxel
    before = blocks(voxel, n_samples, n_voxels).to(integers(prod(shape)))
    return before.mul_((n_channels - 1) * n_voxels).add_(voxel)


def sums_between(values: Tensor, end: Tensor, largest: int) -> Tensor:
    """(R,) int64 sums, up to a largest, of integers (K,) over runs that end at the places (R,)."""
    if values.device.type != "cpu" or not len(end):
        return values.cumsum(0).index_select(0, end).diff(prepend=end.new_zeros(1, dtype=torch.int64))
    values = values.to(integers(largest))  # where that is the format they have, NumPy makes no copy of them
    start = np.concatenate(([0], end.numpy()[:-1] + 1))
    return torch.from_numpy(np.add.reduceat(values.numpy(), start, dtype=values.numpy().dtype)).long()


def sum_over(values: Tensor, groups: Tensor, number: int) -> Tensor:
    """Sums (number,) of values (K,) over groups (K,), in :func:`sum_type`, differentiable."""
    return _SumOver.apply(values, groups, number)


class _SumOver(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, groups: Tensor, number: int) -> Tensor:
        ctx.save_for_backward(groups)
        ctx.dtype = values.dtype
        sums = values.new_zeros(number, dtype=sum_type(values))
        # Block by block on a CPU, where all values in the wider format would be the largest tensor of a loss.
        size = _BLOCK if values.device.type == "cpu" else max(len(values), 1)
        for group, block in zip(groups.split(size), values.split(size)):
            sums.index_add_(0, group, block.to(sums.dtype))
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (groups,) = ctx.saved_tensors
        return gradient.to(ctx.dtype).index_select(0, groups), None, None


def _sum(values: Tensor) -> Tensor:
    dtype = sum_type(values)
    if values.device.type != "cpu":
        return values.flatten(1).sum(1, dtype=dtype)
    # torch would first copy the whole image into the wider format.
    blocks = [[block.to(dtype).sum() for block in sample.reshape(-1).split(_BLOCK)] for sample in values]
    return torch.stack([torch.stack(sample).sum() for sample in blocks])
