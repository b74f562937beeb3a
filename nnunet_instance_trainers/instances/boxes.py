"""Boxes and cubes: distances between boxes, cubes around centres, sums of a mask inside boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["box_sums", "draw_cubes", "nearest_boxes", "widen"]


def widen(mask: Tensor, axis: int, reach: int) -> Tensor:
    """A mask (B, *S) grown by ``reach`` voxels to both sides along one axis."""
    grown, length = mask.clone(), mask.shape[axis]
    for step in range(1, min(reach, length - 1) + 1):
        grown.narrow(axis, step, length - step).logical_or_(mask.narrow(axis, 0, length - step))
        grown.narrow(axis, 0, length - step).logical_or_(mask.narrow(axis, step, length - step))
    return grown


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
    picture[(sample, *centres.T)] = True
    for axis, r in enumerate(reach, start=1):
        picture = widen(picture, axis, r)
    return picture


def box_sums(mask: Tensor, sample: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(N,) number of voxels of a mask (B, *S) inside the boxes [low, high), from its summed-area table."""
    dim = mask.ndim - 1
    table = torch.nn.functional.pad(mask.to(torch.int32), (1, 0) * dim)
    for axis in range(1, dim + 1):
        table = table.cumsum(axis, dtype=torch.int32)
    total = torch.zeros(len(sample), dtype=torch.int64, device=mask.device)
    for corner in range(2**dim):  # inclusion and exclusion
        upper = [corner >> axis & 1 for axis in range(dim)]
        at = [high[:, axis] if up else low[:, axis] for axis, up in enumerate(upper)]
        total += (-1) ** (dim - sum(upper)) * table[(sample, *at)]
    return total


def nearest_boxes(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], *, rows: int = 256) -> tuple[Tensor, Tensor]:
    """The smallest DIoU loss of each box of one list to any of the other, both ways.

    DIoU loss = 1 - IoU + rho^2 / diagonal^2: rho is the distance of the centres, the diagonal that of the
    smallest box around both (Zheng et al. 2020).

    Args:
        a: lowest and highest corners of N boxes, (N, d) each.
        b: the same of M boxes.
        rows: boxes of ``a`` at a time; memory is that of ``rows`` x M x d numbers.

    Returns:
        (N,) for ``a`` and (M,) for ``b``, in [0, 2).
    """
    of_a, of_b = [], a[0].new_full((len(b[0]),), torch.inf)
    for low, high in zip(a[0].split(rows), a[1].split(rows)):
        diou = _diou(low[:, None], high[:, None], *b)
        of_a.append(diou.amin(1))
        of_b = torch.minimum(of_b, diou.amin(0))
    return torch.cat(of_a), of_b


def _diou(low_a: Tensor, high_a: Tensor, low_b: Tensor, high_b: Tensor) -> Tensor:
    shared = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    union = (high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - shared
    distance = ((low_a + high_a - low_b - high_b) / 2).square().sum(-1)
    diagonal = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).square().sum(-1)
    return 1 - shared / union + distance / diagonal
