"""Cubes around centres: their picture, and how much of a mask lies in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.voxel_lists import geometry, joined

__all__ = ["count_around", "cube_sizes", "draw_cubes", "widen", "with_neighbours"]


def widen(mask: Tensor, axis: int, reach: int) -> Tensor:
    """A mask (B, *S) grown by ``reach`` voxels to both sides along one axis."""
    length, grown = mask.shape[axis], 0
    while grown < min(reach, length - 1):
        # By one more than so far, so that nothing that a shift pushes over the border is missed inside.
        step = min(grown + 1, reach - grown, length - 1)
        wider = mask.clone()
        wider.narrow(axis, step, length - step).logical_or_(mask.narrow(axis, 0, length - step))
        wider.narrow(axis, 0, length - step).logical_or_(mask.narrow(axis, step, length - step))
        mask, grown = wider, grown + step
    return mask


def with_neighbours(mask: Tensor) -> Tensor:
    """A mask (B, *S) and the voxels that touch it by face, edge or corner."""
    for axis in range(1, mask.ndim):
        mask = widen(mask, axis, 1)
    return mask


def draw_cubes(
    shapes: Sequence[Sequence[int]], sides: Sequence[tuple[Tensor, Tensor]], reach: Sequence[int]
) -> list[list[Tensor]]:
    """Cubes around centres, merged where they overlap and clipped at the border; a picture of each of several sides.

    Args:
        shapes: (B, *S) of the pictures of each scale; samples are numbered through the scales.
        sides: for each side (N,) the samples of its cubes and (N, d) integer positions of their centres.
        reach: voxels to either side of the centre, per axis.

    Returns:
        For each side (B, *S) bool of each scale. Drawn by widening the mask of centres axis by axis, so the cost does
        not depend on N.
    """
    sizes = [prod(shape) for shape in shapes]
    flat = torch.zeros((len(sides), sum(sizes)), dtype=torch.bool, device=sides[0][0].device)
    for of_side, (sample, centres) in zip(flat, sides):
        of_side.index_fill_(0, _places(shapes, sample, centres), True)

    def drawn(pictures: Tensor) -> Tensor:
        for axis, r in enumerate(reach, start=1):
            pictures = widen(pictures, axis, r)
        return pictures

    n_sides = len(sides)
    scales = [
        _by_samples(drawn, part.reshape(n_sides * shape[0], *shape[1:])).view(n_sides, *shape)
        for part, shape in zip(flat.split(sizes, 1), shapes)
    ]
    return [[scale[side] for scale in scales] for side in range(n_sides)]


def count_around(masks: Sequence[Tensor], sample: Tensor, centres: Tensor, reach: Sequence[int]) -> Tensor:
    """(N,) int64 number of voxels of masks (B, *S) inside cubes around centres; outside the image there are none.

    A sliding sum along each axis, so the cost does not depend on N. Arguments as of :func:`draw_cubes`.
    """
    dtype = torch.int32 if prod(2 * r + 1 for r in reach) > torch.iinfo(torch.int16).max else torch.int16

    def counted(mask: Tensor) -> Tensor:
        counts = mask.to(dtype)
        for axis, r in enumerate(reach, start=1):
            single, length = counts, mask.shape[axis]
            counts = single.clone()
            for step in range(1, min(r, length - 1) + 1):
                counts.narrow(axis, step, length - step).add_(single.narrow(axis, 0, length - step))
                counts.narrow(axis, 0, length - step).add_(single.narrow(axis, step, length - step))
        return counts

    flat = joined([_by_samples(counted, mask).view(-1) for mask in masks])
    return flat.index_select(0, _places([mask.shape for mask in masks], sample, centres)).long()


def cube_sizes(shapes: Sequence[Sequence[int]], sample: Tensor, centres: Tensor, reach: Sequence[int]) -> Tensor:
    """(N,) voxels of each cube inside its image. Arguments as of :func:`draw_cubes`."""
    ends = geometry(shapes, centres.device).lengths[sample]
    size = torch.ones_like(ends[:, 0])
    for at, end, r in zip(centres.unbind(1), ends.unbind(1), reach):
        size = size * (torch.minimum(at + (r + 1), end) - (at - r).clamp(min=0))
    return size


def _by_samples(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A function of images (B, *S), on a CPU one by one: what is made in between then stays in the cache."""
    if images.device.type != "cpu" or not len(images):
        return function(images)
    return torch.cat([function(image) for image in images.split(1)])


def _places(shapes: Sequence[Sequence[int]], sample: Tensor, centres: Tensor) -> Tensor:
    """(N,) flat positions of centres in the images of all scales."""
    images = geometry(shapes, centres.device)
    return (centres * images.strides[sample]).sum(1) + images.starts[sample]
