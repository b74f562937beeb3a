"""Some voxels of a batch of images of one or several sizes, listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.voxels import fill, integers, numbers_before, positions

__all__ = ["Geometry", "VoxelList", "geometry", "joined"]


@dataclass(frozen=True)
class VoxelList:
    """Voxels of the images of one or several scales.

    Deep supervision compares a batch at several sizes; its images are numbered scale after scale, and so one list
    holds voxels of all of them.

    Attributes:
        shapes: (n, *S) of each scale: n images of size S.
        places: for each scale (K_s,) ascending flat positions in its images.

    Example:
        >>> voxels = VoxelList.where([torch.tensor([[True, False]]), torch.tensor([[True], [True]])])
        >>> voxels.flat.tolist(), voxels.image.tolist()
        ([0, 2, 3], [0, 1, 2])
    """

    shapes: tuple[torch.Size, ...]
    places: tuple[Tensor, ...]

    @classmethod
    def where(cls, masks: Sequence[Tensor]) -> VoxelList:
        """The voxels where masks are true or not 0, (n, *S) for each scale. A GPU is waited for once."""
        shapes = tuple(torch.Size(mask.shape) for mask in masks)
        if masks[0].device.type == "cpu":
            return cls(shapes, tuple(positions(mask if mask.dtype == torch.bool else mask != 0) for mask in masks))
        numbers = torch.stack([torch.count_nonzero(mask) for mask in masks]).cpu().tolist()
        return cls(shapes, tuple(map(positions, masks, numbers)))

    def __len__(self) -> int:
        return sum(map(len, self.places))

    @property
    def n_images(self) -> int:
        return sum(shape[0] for shape in self.shapes)

    @property
    def flat(self) -> Tensor:
        """(K,) positions in the images of all scales, one after another."""
        if len(self.shapes) == 1:
            return self.places[0]
        starts = list(accumulate(map(prod, self.shapes), initial=0))
        dtype = integers(starts[-1])
        return torch.cat([place.to(dtype) + start for place, start in zip(self.places, starts)])

    @cached_property
    def numbers(self) -> Tensor:
        """(n_images,) listed voxels of each image."""
        flat = self.flat
        return numbers_before(flat, geometry(self.shapes, flat.device).ends.to(flat.dtype))

    @cached_property
    def coordinates(self) -> list[Tensor]:
        """For each axis (K,) the positions along it. On a CPU it is slow to divide so often."""
        rest = joined(self.places)
        found: list[Tensor] = []
        lengths = self.spread(geometry(self.shapes, rest.device).lengths.to(rest.dtype))
        for length in reversed(lengths.unbind(1)):
            before = rest.div(length, rounding_mode="trunc")
            found.insert(0, rest - before * length)
            rest = before
        return found

    @property
    def image(self) -> Tensor:
        """(K,) the image that each voxel lies in."""
        return self.spread(torch.arange(self.n_images, dtype=torch.int32, device=self.places[0].device))

    def spread(self, of_images: Tensor) -> Tensor:
        """(K,) for each voxel the number (n_images,) of its image, or (K, ...) its row."""
        return fill(of_images, self.numbers, len(self))

    def split(self, of_voxels: Tensor) -> tuple[Tensor, ...]:
        """A vector (K,) cut into its scales."""
        return of_voxels.split([len(place) for place in self.places])

    def read(self, images: Sequence[Tensor]) -> Tensor:
        """(K,) what images (n, *S) have at the voxels; not differentiable."""
        return joined([image.reshape(-1).index_select(0, place) for image, place in zip(images, self.places)])


def joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Geometry(NamedTuple):
    """Where images are in flat lists of the images of all scales.

    Attributes:
        starts, ends: (n,) of each image.
        strides, lengths: (n, d) of its axes.
    """

    starts: Tensor
    ends: Tensor
    strides: Tensor
    lengths: Tensor


def geometry(shapes: Sequence[Sequence[int]], device: torch.device) -> Geometry:
    """Of images (n, *S) of each scale. Kept, since what the host makes has to be copied to a GPU."""
    return _geometry(tuple(map(tuple, shapes)), device)


@lru_cache(maxsize=32)
def _geometry(shapes: tuple[tuple[int, ...], ...], device: torch.device) -> Geometry:
    lengths = [size for n, *size in shapes for _ in range(n)]
    strides = [[prod(size[axis + 1 :]) for axis in range(len(size))] for size in lengths]
    borders = list(accumulate(map(prod, lengths), initial=0))
    rows = [torch.tensor(rows, dtype=torch.int64, device=device) for rows in (borders, strides, lengths)]
    dim = len(shapes[0]) - 1
    return Geometry(rows[0][:-1], rows[0][1:], rows[1].view(-1, dim), rows[2].view(-1, dim))
