"""Known geometry for the tests: boxes and discs whose sizes and overlaps are analytic, and small random images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

SHAPES = [(16, 13), (7, 6, 9)]
"""A small image in 2D and one in 3D, no two axes alike."""

DISC_VOXELS = {(2, 0): 1, (2, 1): 5, (2, 2): 13, (2, 3): 29, (2, 5): 81, (3, 0): 1, (3, 1): 7, (3, 2): 33, (3, 3): 123}
"""Lattice points within a radius (Gauss' circle problem), by (number of axes, radius)."""


@dataclass(frozen=True)
class Box:
    """The voxels lo <= x < hi."""

    lo: tuple[int, ...]
    hi: tuple[int, ...]

    @property
    def voxels(self) -> int:
        return prod(max(high - low, 0) for low, high in zip(self.lo, self.hi))

    def overlap(self, other: Box) -> int:
        """The number of voxels that both boxes hold."""
        return Box(tuple(map(max, self.lo, other.lo)), tuple(map(min, self.hi, other.hi))).voxels

    def mask(self, shape: Sequence[int]) -> Tensor:
        mask = torch.zeros(tuple(shape), dtype=torch.bool)
        mask[tuple(slice(low, high) for low, high in zip(self.lo, self.hi))] = True
        return mask


@dataclass(frozen=True)
class Disc:
    """The voxels at most ``radius`` away from ``centre``; a ball in 3D."""

    centre: tuple[int, ...]
    radius: int

    @property
    def voxels(self) -> int:
        return DISC_VOXELS[len(self.centre), self.radius]

    def mask(self, shape: Sequence[int]) -> Tensor:
        axes = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
        return sum((axis - middle) ** 2 for axis, middle in zip(axes, self.centre)) <= self.radius**2


def paint(shape: Sequence[int], objects: Sequence[Box | Disc], ids: Sequence[int] | None = None) -> Tensor:
    """Label image (*S) int64: object k has id k+1, or ``ids[k]``; later objects cover earlier ones."""
    image = torch.zeros(tuple(shape), dtype=torch.int64)
    for i, item in zip(ids or range(1, len(objects) + 1), objects):
        image[item.mask(shape)] = i
    return image


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_labels(shape: Sequence[int], n: int, seed: int, *, batch: int = 2) -> Tensor:
    """(batch, *S) int64 label images of up to n boxes each, ids 1..n; boxes may touch and cover each other."""
    g = generator(seed)
    images = []
    for _ in range(batch):
        lows = [[int(torch.randint(0, extent - 1, (), generator=g)) for extent in shape] for _ in range(n)]
        sizes = torch.randint(1, 5, (n, len(shape)), generator=g).tolist()
        boxes = [Box(tuple(low), tuple(a + b for a, b in zip(low, size))) for low, size in zip(lows, sizes)]
        images.append(paint(shape, boxes))
    return torch.stack(images)


def random_probabilities(shape: Sequence[int], seed: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers in (0.01, 0.99)."""
    return 0.01 + 0.98 * torch.rand(tuple(shape), generator=generator(seed), dtype=dtype)


def random_mask(shape: Sequence[int], seed: int, *, share: float = 0.8) -> Tensor:
    """A mask that is True in about the given share of the voxels."""
    return torch.rand(tuple(shape), generator=generator(seed)) < share
