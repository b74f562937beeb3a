"""The objects of one case: an image of ids and the class of each id, painted from single objects where need be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Drawn", "Objects", "box_of", "merge", "paint"]


@dataclass(frozen=True)
class Drawn:
    """One object.

    Attributes:
        name: of its class.
        box: where it lies in the image.
        mask: (*box) bool.
    """

    name: str
    box: tuple[slice, ...]
    mask: np.ndarray


@dataclass(frozen=True)
class Objects:
    """All objects of a case.

    Attributes:
        ids: (*S) integers, 0 is background.
        classes: the class of each id.
        overlapping: objects that share voxels with another one.
        without_voxels: objects that have none, by themselves or because smaller ones cover them.
        crowds: regions of many objects that nobody told apart, which are left out.
    """

    ids: np.ndarray
    classes: dict[int, str]
    overlapping: int = 0
    without_voxels: int = 0
    crowds: int = 0


def paint(shape: Sequence[int], drawn: Sequence[Drawn]) -> Objects:
    """Paint objects into one image of ids, the n-th of them with id n.

    A voxel that several claim goes to the smallest of them, of equals to the last: what lies on a large object stays
    visible, and of one that is wholly covered nothing could be.

    Args:
        shape: (*S) of the image.
        drawn: the objects.

    Example:
        >>> large = Drawn("cell", (slice(0, 4),), np.ones(4, bool))
        >>> small = Drawn("cell", (slice(3, 5),), np.ones(2, bool))
        >>> painted = paint((6,), [small, large])
        >>> painted.ids.tolist(), painted.overlapping
        ([2, 2, 2, 1, 1, 0], 2)
    """
    ids = np.zeros(tuple(shape), np.int32)
    sizes = [int(np.count_nonzero(one.mask)) for one in drawn]
    overlapping: set[int] = set()
    for index in sorted(range(len(drawn)), key=lambda k: -sizes[k]):
        one, number = drawn[index], index + 1
        place = ids[one.box]
        below = np.unique(place[one.mask])
        if below.any():
            overlapping |= {number, *below[below > 0].tolist()}
        place[one.mask] = number
    left = set(np.unique(ids).tolist()) - {0}
    classes = {number: drawn[number - 1].name for number in sorted(left)}
    return Objects(ids, classes, len(overlapping), len(drawn) - len(left))


def merge(parts: Sequence[Objects]) -> Objects:
    """The objects of several images of one case in one, with new ids where there are several."""
    if len(parts) == 1:
        return parts[0]
    whole = paint(parts[0].ids.shape, [one for part in parts for one in _drawn(part)])
    counts = ("overlapping", "without_voxels", "crowds")
    sums = {name: sum(getattr(objects, name) for objects in (whole, *parts)) for name in counts}
    return Objects(whole.ids, whole.classes, **sums)


def _drawn(objects: Objects) -> Iterable[Drawn]:
    numbers = sorted(objects.classes)
    compact = np.zeros(max(numbers, default=0) + 1, np.int32)
    compact[numbers] = np.arange(1, len(numbers) + 1)
    small = compact[objects.ids]
    for index, (number, box) in enumerate(zip(numbers, ndimage.find_objects(small)), start=1):
        yield Drawn(objects.classes[number], box, small[box] == index)


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask (*S); an empty one where it is empty."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else (slice(0, 0),) * mask.ndim
