"""The nearest object of each voxel of an image: exact transforms for a CPU and for other devices.

A key is a squared distance times a factor plus a number below that factor. The smallest key of a voxel is its nearest
object and, of several, that of the lowest number; being minima of sums over axes, keys are found axis by axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log2

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

__all__ = ["nearest_places"]

_FAR = 2.0**52  # larger than all keys; up to here float64 holds every whole number
_PAIRS = 1 << 25  # of voxels compared at once on a GPU
_LINES = 1 << 13  # at once on a CPU, so that what is made of them stays in the cache


def nearest_places(image: Tensor, largest: int, spacing: Sequence[float], *, by_scipy: bool = False) -> Tensor:
    """The number of the nearest object of each voxel, of equally near ones the lowest.

    Args:
        image: (B, *S) int32 numbers from 1 on, 0 is background; there must be an object in each sample.
        largest: what no number exceeds.
        spacing: of the voxels, one number per axis in any unit.
        by_scipy: on a CPU, take any of equally near objects, in a third to two thirds of the time.

    Returns:
        (B, *S) int32.

    Example:
        >>> nearest_places(torch.tensor([[2, 0, 0, 0, 1]], dtype=torch.int32), 2, [1.0]).tolist()
        [[2, 2, 1, 1, 1]]
    """
    if image.device.type == "cpu" and by_scipy:
        return torch.stack([_by_scipy(sample, spacing) for sample in image])
    steps = _whole_steps(image.shape[1:], spacing, largest + 1)
    return (_by_envelopes if image.device.type == "cpu" else _by_pairs)(image, largest + 1, steps)


def _by_scipy(image: Tensor, spacing: Sequence[float]) -> Tensor:
    background = image.numpy() == 0
    nearest = ndimage.distance_transform_edt(background, spacing, return_distances=False, return_indices=True)
    return torch.from_numpy(image.numpy()[tuple(nearest)])


def _whole_steps(shape: Sequence[int], spacing: Sequence[float], factor: int) -> list[int]:
    """Squared spacings as whole numbers, so that equal distances are equal.

    They are taken relative to the smallest and rounded as finely as keys stay below 2^51.
    """
    squares = [(edge / min(spacing)) ** 2 for edge in spacing]
    largest = factor * (1 + sum(square * length**2 for square, length in zip(squares, shape)))
    scale = 2 ** max(floor(51 - log2(largest)) - 1, 0)
    return [round(scale * square) for square in squares]


def _by_pairs(image: Tensor, factor: int, steps: Sequence[int]) -> Tensor:
    """Every pair of voxels of a line is compared: many operations at once."""
    keys = torch.where(image > 0, image.long(), int(_FAR))
    for axis, step in enumerate(steps, start=1):
        lines = keys.movedim(axis, -1)
        shape, length = lines.shape, lines.shape[-1]
        position = torch.arange(length, device=image.device)
        cost = (position[:, None] - position).square_().mul_(step * factor)
        parts = lines.reshape(-1, 1, length).split(max(_PAIRS // length**2, 1))
        keys = torch.cat([(part + cost).amin(-1) for part in parts]).view(shape).movedim(-1, axis)
    return keys.remainder_(factor).int()


def _by_envelopes(image: Tensor, factor: int, steps: Sequence[int]) -> Tensor:
    """The same by lower envelopes of parabolas: fewer operations, one after the other."""
    keys = np.where(image.numpy() > 0, image.numpy(), _FAR)
    for axis, step in reversed(list(enumerate(steps, start=1))):
        rows = np.moveaxis(keys, axis, 0)
        lines = rows.reshape(len(rows), -1)
        found = np.full(lines.shape, _FAR)
        some = np.flatnonzero((lines < _FAR).any(0))
        for start in range(0, len(some), _LINES):
            few = some[start : start + _LINES]
            found[:, few] = _envelope(lines[:, few], float(step * factor))
        keys = np.moveaxis(found.reshape(rows.shape), 0, axis)
    return torch.from_numpy(np.ascontiguousarray(np.remainder(keys, factor), dtype=np.int32))


def _envelope(keys: np.ndarray, cost: float) -> np.ndarray:
    """(n, L) for each place x of L lines the smallest of keys[q] + cost (x - q)^2 over q.

    Felzenszwalb and Huttenlocher 2012, all lines at once: of each a stack of the parabolas that are lowest somewhere,
    with the first whole place at which each is. All numbers are whole, so quotients of float64 are exact once rounded
    down. Each line has a key below _FAR.
    """
    n, n_lines = keys.shape
    # Stacks in rows: a parabola's vertex, its key there, and where it begins to be lowest. The top of each also apart.
    stack_q, stack_key, stack_start = (np.empty((n + 1) * n_lines) for _ in range(3))
    top_q, top_key, top_start = (np.full(n_lines, value) for value in (-1.0, _FAR, 0.0))
    lines = np.arange(n_lines)
    top = lines - n_lines
    for q, own in enumerate(keys):
        start = _lower_from(q, own, top_q, top_key, cost)
        hidden = np.flatnonzero((start <= top_start) & (own < _FAR) & (top >= 0))
        while len(hidden):  # tops that are nowhere lowest any more
            top[hidden] = below = top[hidden] - n_lines
            hidden, below = hidden[below >= 0], below[below >= 0]
            top_q[hidden], top_key[hidden], top_start[hidden] = stack_q[below], stack_key[below], stack_start[below]
            start[hidden] = _lower_from(q, own[hidden], top_q[hidden], top_key[hidden], cost)
            hidden = hidden[start[hidden] <= top_start[hidden]]
        start[top < 0] = 0
        new = np.flatnonzero((start < n) & (own < _FAR))
        top[new] = at = top[new] + n_lines
        stack_q[at] = top_q[new] = q
        stack_key[at] = top_key[new] = own[new]
        stack_start[at] = top_start[new] = start[new]
    stack_start[top + n_lines] = n
    at, lowest = lines, np.empty_like(keys)
    now_q, now_key, ends = stack_q[at], stack_key[at], stack_start[at + n_lines]
    for x, row in enumerate(lowest):
        moves = np.flatnonzero(ends <= x)
        at[moves] = to = at[moves] + n_lines
        now_q[moves], now_key[moves], ends[moves] = stack_q[to], stack_key[to], stack_start[to + n_lines]
        np.square(np.subtract(x, now_q, out=row), out=row)
        row *= cost
        row += now_key
    return lowest


def _lower_from(q: float, key: np.ndarray, other_q: np.ndarray, other_key: np.ndarray, cost: float) -> np.ndarray:
    """The first whole place at which the parabola of q is below that of a vertex to its left."""
    twice_apart = 2 * cost * (q - other_q)
    return np.floor((key - other_key + cost * (q - other_q) * (q + other_q)) / twice_apart) + 1
