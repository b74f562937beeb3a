"""The nearest box of another list, by the DIoU loss."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from torch import Tensor

__all__ = ["nearest_boxes"]

# At once, so that their temporaries stay in the cache and are not handed back to the system each time.
_PAIRS, _LINES = 1 << 14, 1 << 15


def nearest_boxes(a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The smallest DIoU loss of each box of one list to any of the other in its sample, both ways.

    DIoU loss = 1 - IoU + rho^2 / diagonal^2: rho is the distance of the centres, the diagonal that of the
    smallest box around both (Zheng et al. 2020). In float32, on the CPU.

    Exact: each box looks as far around its centre as a nearer one could be. While boxes are small beside the image
    that takes time in proportion to their number; at worst, in proportion to the pairs.

    Args:
        a: sample (N,), lowest and highest corners (N, d) of N boxes, none of which is flat.
        b: the same of M boxes.

    Returns:
        (N,) for ``a`` and (M,) for ``b``, in [0, 2); infinite where the other list has no box in the sample.

    Example:
        >>> a = torch.tensor([0]), torch.tensor([[0, 0]]), torch.tensor([[2, 2]])
        >>> b = torch.tensor([0, 0]), torch.tensor([[0, 0], [2, 2]]), torch.tensor([[2, 2], [4, 4]])
        >>> nearest_boxes(a, b)  # the second is sqrt(8) away, in a box of 4 x 4
        (tensor([0.]), tensor([0.0000, 1.2500]))
    """
    boxes = _centred(*a), _centred(*b)
    of_a, of_b = (torch.from_numpy(_nearest(*pair)).to(a[0].device) for pair in (boxes, boxes[::-1]))
    return of_a, of_b


def _centred(sample: Tensor, low: Tensor, high: Tensor) -> np.ndarray:
    """(1 + 2d, N) sample, centre and half edges, in this module "boxes"; half voxels are exact in float32."""
    low, high = low.T.float(), high.T.float()
    return torch.cat((sample[None], (low + high) / 2, (high - low) / 2)).cpu().numpy()


def _places(boxes: np.ndarray) -> np.ndarray:
    """(1 + d, N) sample and centre."""
    return boxes[: 1 + len(boxes) // 2]


def _halves(boxes: np.ndarray) -> np.ndarray:
    return boxes[1 + len(boxes) // 2 :]


def _nearest(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) the smallest loss of each box to any of the others."""
    best = np.full(boxes.shape[1], np.inf, dtype=np.float32)
    if not boxes.size or not others.size:
        return best
    places = np.concatenate((_places(boxes), _places(others)), axis=1)
    low, high = places.min(1, keepdims=True), places.max(1, keepdims=True)
    size_class = _size_classes(_halves(others))
    classes, numbers = np.unique(size_class, return_counts=True)
    for one in classes[np.argsort(-numbers)]:  # the many first: who found a near one there looks less far for the rest
        _improve(best, boxes, _Grid(others.compress(size_class == one, axis=1), low, high))
    return best


def _size_classes(half: np.ndarray) -> np.ndarray:
    """(N,) numbers of classes of similar size, since beside one large box every box has to look far.

    A class ends where boxes are 16 times as large as its smallest, or where those that are larger are rare.
    """
    octave = (np.log2(np.square(half).sum(0)) // 2).astype(int)
    octave -= octave.min()
    counts = np.bincount(octave)
    first, begins = 0, np.zeros_like(counts)
    for n in range(1, len(counts)):
        if n - first == 4 or counts[n:].sum() < counts[first:n].sum() / 16:
            first, begins[n] = n, 1
    return begins.cumsum().take(octave)


def _improve(best: np.ndarray, boxes: np.ndarray, grid: _Grid) -> None:
    """Lower the losses ``best`` (N,) where a box of the grid is nearer."""
    todo = np.flatnonzero(best)  # nothing is nearer than 0
    width = grid.worthwhile(np.ones(len(todo)), boxes[0, todo])
    while len(todo):
        for cells in np.unique(width):
            chosen = todo[width == cells]
            best[chosen] = np.minimum(best[chosen], grid.smallest(boxes.take(chosen, 1), int(cells)))
        found = best[todo]
        needed = np.ceil(_reach(found, _halves(boxes).take(todo, 1), grid.largest) / grid.edge)
        needed = np.where(np.isinf(found), 2 * width, needed)
        wider = (needed > width) & (width < grid.widest)
        todo, width = todo[wider], grid.worthwhile(needed[wider], boxes[0, todo[wider]])


def _reach(best: np.ndarray, half: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """(N,) how far from a box, along one axis, the centre of one with a smaller loss than ``best`` can be.

    With half edges h here and at most H there, boxes w apart along one axis do not overlap if w is at least each
    h + H. With a distance rho >= w of their centres the diagonal around both is at most |h + H| + sqrt(rho^2 +
    |max(h, H)|^2), and rho over that grows with rho. So this is solved for the w at which w^2 over the square of
    that is best - 1.
    """
    both = half + largest
    sides, longer = np.square(both).sum(0), np.square(np.maximum(half, largest)).sum(0)
    ratio = np.clip(best - 1, 0, 1 - 1e-6)
    root = np.sqrt(ratio * sides + (1 - ratio) * longer)
    apart = np.sqrt(ratio) * (np.sqrt(sides) + root) / (1 - ratio)
    return np.where(best > 0, np.maximum(apart, both.max(0)), 0)


class _Grid:
    """Boxes sorted by the cell in which their centre lies; there are one to two cells for a box, as a rule.

    Attributes:
        edge: of a cell.
        widest: the number of cells to either side that stands for all boxes of the sample.
        largest: (d, 1) the largest half edges.
    """

    def __init__(self, boxes: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Low and high are the lowest and highest sample and centre, (1 + d, 1), of all that look here."""
        n_samples, *extent = (high - low + 1)[:, 0]
        self.edge = 0.8 * (np.prod(extent) * n_samples / boxes.shape[1]) ** (1 / len(extent))
        self._low, self._step = low, np.array([[1.0], *[[self.edge]] * len(extent)], dtype=np.float32)
        self._shape = ((high - low) / self._step).astype(np.int32)[:, 0] + 1
        self.widest = int(self._shape[1:].max())
        self.largest = _halves(boxes).max(1, keepdims=True)
        cell = np.ravel_multi_index(tuple(self._cells(boxes)), tuple(self._shape))
        self._boxes = boxes[1:].take(np.argsort(cell), 1)
        # Cell n holds the boxes from first[n] to first[n + 1]. Behind the last line of cells is one without boxes.
        ends = np.cumsum(np.bincount(cell, minlength=np.prod(self._shape) + self._shape[-1]))
        self._first = np.concatenate(([0], ends)).astype(np.int32)
        self._of_sample = self._first[: np.prod(self._shape) + 1 : np.prod(self._shape[1:])]

    def _cells(self, boxes: np.ndarray) -> np.ndarray:
        """(1 + d, N) sample and cell."""
        return ((_places(boxes) - self._low) / self._step).astype(np.int32)

    def worthwhile(self, width: np.ndarray, sample: np.ndarray) -> np.ndarray:
        """(N,) the widths; ``widest`` where so many cells are no fewer than the boxes of the whole sample."""
        cells = np.minimum(2 * width + 1, self._shape[1:, None]).prod(0)
        number = np.diff(self._of_sample).take((sample - self._low[0]).astype(np.int32))
        return np.where(cells < number, np.minimum(width, self.widest), self.widest)

    def smallest(self, boxes: np.ndarray, width: int) -> np.ndarray:
        """(N,) the smallest losses of boxes to those at most ``width`` cells away along each axis."""
        best = np.full(boxes.shape[1], np.inf, dtype=np.float32)
        everything = width == self.widest
        across = [] if everything else [range(-reach, reach + 1) for reach in np.minimum(width, self._shape[1:-1] - 1)]
        around = np.array(list(product([0], *across)), dtype=np.int32).T
        step = max(1, _LINES // around.shape[1])
        for start in range(0, len(best), step):
            part = boxes[:, start : start + step]
            first, number = self._all(part) if everything else self._lines(part, around, width)
            for few in _at_once(number.sum(1)):
                best[start:][few] = self._compared(part[:, few], first[few], number[few])
        return best

    def _all(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 1) the first and the number of boxes in the sample of each box."""
        sample = self._cells(boxes)[0, :, None]
        first = self._of_sample.take(sample)
        return first, self._of_sample.take(sample + 1) - first

    def _lines(self, boxes: np.ndarray, around: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, lines) the first and the number of boxes in each line of cells around each box."""
        *across, along = self._cells(boxes)
        line, inside = np.int32(0), np.bool_(True)
        for place, offset, length in zip(across, around, self._shape):
            at = place[:, None] + offset
            inside = inside & (at >= 0) & (at < length)
            line = line * length + at
        cell = np.where(inside, line, np.prod(self._shape[:-1], dtype=np.int32)) * self._shape[-1]
        first = self._first.take(cell + np.maximum(along - width, 0)[:, None])
        return first, self._first.take(cell + np.minimum(along + width + 1, self._shape[-1])[:, None]) - first

    def _compared(self, boxes: np.ndarray, first: np.ndarray, number: np.ndarray) -> np.ndarray:
        """(N,) the smallest losses of boxes to those in their lines."""
        best = np.full(boxes.shape[1], np.inf, dtype=np.float32)
        of_box, of_line = number.sum(1), number.ravel()
        some, end = np.flatnonzero(of_box), np.cumsum(of_line)
        if len(some):
            other = np.repeat(first.ravel() - (end - of_line), of_line)
            other += np.arange(len(other), dtype=other.dtype)
            losses = _losses(np.repeat(boxes[1:], of_box, axis=1), self._boxes.take(other, 1))
            best[some] = np.minimum.reduceat(losses, (np.cumsum(of_box) - of_box)[some])
        return best


def _at_once(numbers: np.ndarray) -> Iterator[slice]:
    """Consecutive parts of a list of numbers of pairs; each has few pairs, or one item."""
    end, start = np.cumsum(numbers), 0
    while start < len(numbers):
        stop = np.searchsorted(end, end[start] - numbers[start] + _PAIRS, "right")
        yield slice(start, start := max(int(stop), start + 1))


def _losses(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) DIoU losses of pairs of boxes, each (2d, P) centre and half edges."""
    dim = len(a) // 2
    apart, sides = np.abs(a[:dim] - b[:dim]), a[dim:] + b[dim:]
    distance, diagonal = np.zeros((2, a.shape[1]), dtype=np.float32)
    overlap = np.ones(a.shape[1], dtype=bool)
    for along, side, half_a, half_b in zip(apart, sides, a[dim:], b[dim:]):
        overlap &= along < side
        distance += np.square(along)
        diagonal += np.square(side + np.maximum(along, np.abs(half_a - half_b)))
    losses = np.divide(distance, diagonal, out=distance)
    losses += 1
    some = np.flatnonzero(overlap)  # few, as a rule
    edges_a, edges_b = 2 * a[dim:].take(some, 1), 2 * b[dim:].take(some, 1)
    shared = np.minimum(sides.take(some, 1) - apart.take(some, 1), np.minimum(edges_a, edges_b)).prod(0)
    losses[some] -= shared / (edges_a.prod(0) + edges_b.prod(0) - shared)
    return losses
