"""Some voxels of a batch of images of one or several sizes, listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from nnunet_instance_trainers.instances.voxels import fill, numbers_in_blocks, positions

__all__ = ["VoxelList"]


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
        starts = [sum(map(prod, self.shapes[:scale])) for scale in range(len(self.shapes))]
        return joined([place + start if start else place for place, start in zip(self.places, starts)])

    @cached_property
    def numbers(self) -> Tensor:
        """(n_images,) listed voxels of each image."""
        return joined(
            [numbers_in_blocks(place, shape[0], prod(shape[1:])) for place, shape in zip(self.places, self.shapes)]
        )

    @property
    def image(self) -> Tensor:
        """(K,) the image that each voxel lies in."""
        return self.spread(torch.arange(self.n_images, dtype=torch.int32, device=self.places[0].device))

    def spread(self, of_images: Tensor) -> Tensor:
        """(K,) for each voxel the number (n_images,) of its image."""
        return fill(of_images, self.numbers, len(self))

    def split(self, of_voxels: Tensor) -> tuple[Tensor, ...]:
        """A vector (K,) cut into its scales."""
        return of_voxels.split([len(place) for place in self.places])

    def read(self, images: Sequence[Tensor]) -> Tensor:
        """(K,) what images (n, *S) have at the voxels; not differentiable."""
        return joined([image.reshape(-1).index_select(0, place) for image, place in zip(images, self.places)])


def joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
