"""Single voxels of a batch: where a mask is true, the values there, and totals over all.

Each value image gets its gradient in one buffer: where voxels are read by plain indexing, every read fills a
zero image of its own in the backward pass, and those fills cost more than the losses that read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    "fill",
    "integers",
    "numbers_before",
    "numbers_in_blocks",
    "on_device",
    "positions",
    "read",
    "read_with_total",
    "sum_over",
    "sum_type",
    "sums_between",
    "tally",
    "total",
]

_BLOCK = 1 << 17  # voxels at a time on a CPU, so that what is made of them stays in the cache


def sum_type(values: Tensor) -> torch.dtype:
    """The number format in which values are summed: float64, on MPS float32."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def integers(largest: int) -> torch.dtype:
    """The shorter format for integers up to a largest: lists of voxels are bound by memory."""
    return torch.int32 if largest <= torch.iinfo(torch.int32).max else torch.int64


def positions(mask: Tensor, number: int | None = None) -> Tensor:
    """(K,) flat positions where a mask is true, ascending. Where their number is given no GPU is waited for."""
    mask = mask.reshape(-1)
    if mask.device.type != "cpu":
        return _nonzero(mask, number).squeeze(1).to(integers(len(mask)))
    # NumPy is three to ten times faster here than torch 2.15.
    found = torch.empty(int(np.count_nonzero(mask.numpy())), dtype=integers(len(mask)))
    filled = 0
    for start, block in zip(range(0, len(mask), _BLOCK), mask.split(_BLOCK)):
        here = np.flatnonzero(block.numpy())
        np.add(here, start, out=found.numpy()[filled : filled + len(here)], casting="same_kind")
        filled += len(here)
    return found


def _nonzero(mask: Tensor, number: int | None) -> Tensor:
    if number == 0:  # before torch 2.9 CUDA stops at an empty mask
        return mask.new_empty((0, 1), dtype=torch.int64)
    try:
        return mask.nonzero() if number is None else mask.nonzero_static(size=number)
    except NotImplementedError:  # CUDA has the static one from torch 2.6 on, MPS has none
        return mask.nonzero()


def numbers_before(voxel: Tensor, ends: Tensor) -> Tensor:
    """(n,) how many of ascending positions lie before each of ascending ends, and not before the end before it."""
    # By bisection, since dividing millions of integers is slow.
    return torch.searchsorted(voxel, ends).diff(prepend=voxel.new_zeros(1, dtype=torch.int64))


def numbers_in_blocks(voxel: Tensor, n_blocks: int, length: int) -> Tensor:
    """(n_blocks,) how many of ascending positions lie in each block of a length."""
    return numbers_before(voxel, torch.arange(1, n_blocks + 1, dtype=voxel.dtype, device=voxel.device) * length)


def fill(values: Tensor, numbers: Tensor, total_: int) -> Tensor:
    """(total, ...) each value, or each row of values, as often as its number says."""
    return torch.repeat_interleave(values, numbers, dim=0, output_size=total_)


def blocks(voxel: Tensor, n_blocks: int, length: int) -> Tensor:
    """(K,) for ascending positions in an image cut into blocks of a length: the block that each lies in."""
    block = torch.arange(n_blocks, dtype=voxel.dtype, device=voxel.device)
    return fill(block, numbers_in_blocks(voxel, n_blocks, length), len(voxel))


def count(mask: Tensor) -> Tensor:
    """(B,) number of true voxels of a mask (B, *S)."""
    if mask.device.type == "cpu":
        return torch.tensor([np.count_nonzero(sample) for sample in mask.numpy()], dtype=torch.int64)
    return mask.flatten(1).sum(1)


def on_device(made: Tensor, device: torch.device) -> Tensor:
    """What the host made, on a device; CUDA gets it from pinned memory, for which the host does not wait."""
    if device.type != "cuda":
        return made.to(device)
    return made.pin_memory().to(device, non_blocking=True)


def tally(groups: Tensor, number: int) -> Tensor:
    """(number,) int64, how often each of the numbers 0 to number - 1 occurs."""
    if groups.device.type == "cpu":
        return torch.bincount(groups, minlength=number)
    # CUDA's bincount waits for the greatest.
    return groups.new_zeros(number, dtype=torch.int64).index_add_(0, groups, torch.ones_like(groups, dtype=torch.int64))


def read(values: Sequence[Tensor], *places: Sequence[Tensor], channels: Sequence[int] = (0,)) -> tuple[Tensor, ...]:
    """Values at some voxels of one or several scales, differentiable.

    Args:
        values: (B, C, *S) for each scale.
        places: one list or several; each has, for each scale, (K_s,) flat positions in its values, counted from the
            first channel of the voxel's sample.
        channels: which channels to read, counted from there.

    Returns:
        For each list (number of channels, K), scale after scale.

    Example:
        >>> read([torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])], [torch.tensor([1])], channels=(0, 1))[0].tolist()
        [[2.0], [4.0]]
    """
    flat = [place for of_list in places for place in of_list]
    return _Read.apply(len(values), tuple(channels), False, *values, *flat)[:-1]


def read_with_total(values: Sequence[Tensor], places: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Values at one list of places, (K,), and totals over all voxels in :func:`sum_type`.

    The totals are a vector, of each channel of each sample of each scale.
    """
    gathered, total_ = _Read.apply(len(values), (0,), True, *values, *places)
    return gathered[0], total_


def total(values: Sequence[Tensor]) -> Tensor:
    """Totals of values (B, C, *S) over all voxels, in that order of scales, samples and channels; differentiable."""
    return _Read.apply(len(values), (), True, *values)[0]


class _Read(Function):
    """Values (B, C, *S) of each scale at lists of places, and where it is wanted the totals of each channel."""

    @staticmethod
    def forward(ctx: Any, n_scales: int, channels: tuple[int, ...], with_total: bool, *tensors: Tensor) -> Any:
        values, places = tensors[:n_scales], tensors[n_scales:]
        ctx.save_for_backward(*places)
        ctx.like, ctx.channels = [(value.shape, value.dtype, value.device) for value in values], channels
        ctx.set_materialize_grads(False)
        lists = [places[start : start + n_scales] for start in range(0, len(places), n_scales)]
        gathered = [values[0].new_empty((len(channels), sum(map(len, of_list)))) for of_list in lists]
        for of_list, all_scales in zip(lists, gathered):
            for value, place, here in zip(values, of_list, all_scales.split([len(p) for p in of_list], 1)):
                for rows, start, index in _rows(place, channels, prod(value.shape[2:])):
                    flat, row = value.reshape(-1)[start:], here[rows]
                    if row.ndim == 1:
                        torch.index_select(flat, 0, index, out=row)
                    else:
                        row.copy_(flat.index_select(0, index).view(row.shape))
        return (*gathered, _sums(values) if with_total else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        places, (*of_lists, of_total) = ctx.saved_tensors, of_outputs
        n_scales, gradients = len(ctx.like), []
        n_images = [shape[0] * shape[1] for shape, _, _ in ctx.like]
        totals = [None] * n_scales if of_total is None else of_total.split(n_images)
        for (shape, dtype, device), of_images in zip(ctx.like, totals):
            if of_images is None:
                gradients.append(torch.zeros(shape, dtype=dtype, device=device))
            else:
                gradients.append(
                    of_images.to(dtype)
                    .view(*shape[:2], *[1] * (len(shape) - 2))
                    .expand(shape)
                    .clone(memory_format=torch.contiguous_format)
                )
        for number, of_list in enumerate(of_lists):
            if of_list is None:
                continue
            here = places[number * n_scales : (number + 1) * n_scales]
            for gradient, place, part in zip(gradients, here, of_list.split([len(p) for p in here], 1)):
                for rows, start, index in _rows(place, ctx.channels, prod(gradient.shape[2:])):
                    gradient.view(-1)[start:].index_add_(0, index, part[rows].reshape(-1))
        return None, None, None, *gradients, *[None] * len(places)


def _rows(place: Tensor, channels: tuple[int, ...], n_voxels: int) -> Iterator[tuple[int | slice, int, Tensor]]:
    """Which rows of what is read, where in the flat image they start, and their places from there.

    Row by row, with no longer list of places; on a GPU channels in a row are one kernel.
    """
    if place.device.type == "cpu" or len(channels) < 2 or channels != tuple(range(channels[0], channels[-1] + 1)):
        for row, channel in enumerate(channels):
            yield row, channel * n_voxels, place
    else:
        steps = torch.arange(len(channels), device=place.device) * n_voxels
        yield slice(None), channels[0] * n_voxels, (place + steps[:, None]).reshape(-1)


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


def _sums(values: Sequence[Tensor]) -> Tensor:
    """Of each channel of each sample of each scale, in :func:`sum_type`."""
    dtype = sum_type(values[0])
    if values[0].device.type != "cpu":
        return torch.cat([value.flatten(2).sum(2, dtype=dtype).reshape(-1) for value in values])
    # torch would first copy the whole image into the wider format.
    images = [image.reshape(-1) for value in values for image in value.flatten(0, 1)]
    return torch.stack([torch.stack([b.to(dtype).sum() for b in image.split(_BLOCK)]).sum() for image in images])
