"""Where the voxels of objects are in images that have a channel for each class and perhaps others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.voxels import integers

__all__ = ["channels_of", "places"]


def places(objects: Objects, n_channels: int, classes: Sequence[int], *, own: bool) -> list[Tensor]:
    """Flat positions, for each scale (K_s,), of the voxels of objects in images (B, n_channels, *S).

    Args:
        objects: of samples that are in the order of scales, batch elements and classes.
        n_channels: of the images.
        classes: the channel of each class.
        own: whether in the channel of the object's class; else in the first channel.
    """
    voxels, shapes = objects.voxels, objects.voxels.shapes
    shifts = _shifts(shapes, objects.n_kinds, n_channels, tuple(classes), own, objects.size.device)
    if shifts is None:
        return list(voxels.places)
    largest = max(shape[0] * objects.n_kinds * n_channels * prod(shape[1:]) for shape in shapes)
    shift = voxels.split(objects.spread(shifts.to(integers(largest))))
    return [place + there for place, there in zip(voxels.places, shift)]


@lru_cache(maxsize=64)
def _shifts(
    shapes: tuple[torch.Size, ...],
    n_kinds: int,
    n_channels: int,
    classes: tuple[int, ...],
    own: bool,
    device: torch.device,
) -> Tensor | None:
    """(n_samples,) from positions in a sample's images to those in its channel; None where they are the same."""
    # Kept from step to step, since what the host makes would have to be copied to a GPU in each.
    shifts = []
    for n_images, *size in shapes:
        for sample in range(n_images * n_kinds):
            element, one = divmod(sample, len(classes))
            channel = element * n_channels + (classes[one] if own else 0)
            shifts.append((channel - sample // n_kinds) * prod(size))
    return torch.tensor(shifts, device=device) if any(shifts) else None


def channels_of(objects: Objects, classes: Sequence[int]) -> Tensor:
    """(K,) the channel of the class of each voxel of objects."""
    return objects.spread(_channels(objects.n_samples, tuple(classes), objects.size.device))


@lru_cache(maxsize=64)
def _channels(n_samples: int, classes: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(classes * (n_samples // len(classes)), device=device)
