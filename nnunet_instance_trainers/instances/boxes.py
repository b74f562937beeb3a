"""Boxes and cubes: distances between boxes, cubes around centres, sums of a mask inside boxes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = ["count_around", "draw_cubes", "nearest_boxes", "voxels", "widen"]


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
    return counts[(sample, *centres.T)].long()


def voxels(mask: Tensor) -> Tensor:
    """(B,) number of voxels of a mask (B, *S); torch's own sum of booleans is ten times slower."""
    return mask.view(torch.uint8).flatten(1).sum(1, dtype=torch.int32)


Boxes = tuple[Tensor, Tensor]
"""Lowest and highest corners (N, d) of N boxes."""

_FEW_PAIRS = 2_000_000


def nearest_boxes(a: Boxes, b: Boxes) -> tuple[Tensor, Tensor]:
    """The smallest DIoU loss of each box of one list to any of the other, both ways.

    DIoU loss = 1 - IoU + rho^2 / diagonal^2: rho is the distance of the centres, the diagonal that of the
    smallest box around both (Zheng et al. 2020). Exact. Few pairs are all computed; of many, only those that a
    search tree of centres cannot rule out.

    Args:
        a: lowest and highest corners of N > 0 boxes, (N, d) each.
        b: the same of M > 0 boxes.

    Returns:
        (N,) for ``a`` and (M,) for ``b``, in [0, 2).
    """
    if len(a[0]) * len(b[0]) <= _FEW_PAIRS:
        diou = _diou(_axes(a, 1), _axes(b, 0))
        return diou.amin(1), diou.amin(0)
    return _nearest(a, b), _nearest(b, a)


def _nearest(a: Boxes, b: Boxes) -> Tensor:
    """(N,) the smallest DIoU loss of each box of ``a`` to any of ``b``."""
    radius_a, radius_b = ((high - low).norm(dim=1) / 2 for low, high in (a, b))
    centres_a, centres_b = (((low + high) / 2).cpu().numpy() for low, high in (a, b))
    best = radius_a.new_full((len(radius_a),), torch.inf)
    # By powers of two of their size, so that a few large boxes do not spoil the bound for all the small ones.
    classes = radius_b.clamp(min=1).log2().floor()
    for size_class in classes.unique():
        group = (classes == size_class).nonzero().squeeze(1)
        tree = cKDTree(centres_b[group.cpu().numpy()])
        reach = radius_a + radius_b[group].max()
        k, open_ = 4, torch.arange(len(best), device=best.device)
        while len(open_):
            k = min(k, len(group))
            distance, neighbour = tree.query(centres_a[open_.cpu().numpy()], k=range(1, k + 1))
            neighbour = group[torch.from_numpy(neighbour).to(best.device)]
            for rows in torch.arange(len(open_), device=best.device).split(max(_FEW_PAIRS // k, 1)):
                own = [(low[open_[rows], None], high[open_[rows], None]) for low, high in zip(a[0].T, a[1].T)]
                other = [(low[neighbour[rows]], high[neighbour[rows]]) for low, high in zip(b[0].T, b[1].T)]
                best[open_[rows]] = torch.minimum(best[open_[rows]], _diou(own, other).amin(1))
            if k == len(group):
                break
            # All others are at least as far as the k-th. Where no box can reach that far they share nothing with
            # this one, and the box around both has a diagonal of at most rho plus both half diagonals.
            far = torch.from_numpy(distance[:, -1]).to(best)
            bound = torch.where(far > reach[open_], 1 + (far / (far + reach[open_])).square(), 0)
            open_ = open_[best[open_] > bound]
            k *= 4
    return best


def _axes(boxes: Boxes, new: int) -> list[tuple[Tensor, Tensor]]:
    """The corners along each axis, with a new axis to broadcast along."""
    return [(low.unsqueeze(new), high.unsqueeze(new)) for low, high in zip(boxes[0].T, boxes[1].T)]


def _diou(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> Tensor:
    """DIoU losses of broadcast boxes, given as (low, high) per axis; axis by axis to keep temporaries small."""
    shared = size_a = size_b = torch.ones((), device=a[0][0].device)
    distance = diagonal = torch.zeros((), device=a[0][0].device)
    for (low_a, high_a), (low_b, high_b) in zip(a, b):
        shared = shared * (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0)
        size_a, size_b = size_a * (high_a - low_a), size_b * (high_b - low_b)
        distance = distance + ((low_a + high_a - low_b - high_b) / 2).square()
        diagonal = diagonal + (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).square()
    return 1 - shared / (size_a + size_b - shared) + distance / diagonal
