"""What is odd about the objects of a case, and what can be mended."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nnunet_instance_trainers.importing.id_images import Objects
from nnunet_instance_trainers.instances import label_components

__all__ = ["Findings", "look", "mend"]

_LARGEST = (127, 255, 32767, 65535)  # ids of the usual types


@dataclass(frozen=True)
class Findings:
    """What is odd about the objects of a case.

    Attributes:
        objects: their number in each class.
        in_pieces: objects in several pieces, which may be two with one id.
        slivers: pieces of a single voxel, objects of one voxel among them: slips of the brush, often.
        overlapping: objects that share voxels with another one.
        without_voxels: objects that have none.
        crowds: regions of many objects, left out.
        may_have_wrapped: whether the largest id is the largest that an integer type holds, and some objects are in
            pieces: counting may have begun anew.
    """

    objects: dict[str, int]
    in_pieces: int
    slivers: int
    overlapping: int
    without_voxels: int
    crowds: int
    may_have_wrapped: bool


@dataclass(frozen=True)
class _Pieces:
    """The connected pieces of objects: an image that numbers them 1.., each one's object and size, from index 0."""

    numbered: np.ndarray
    owner: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray) -> _Pieces:
        numbered, n = label_components(ids)
        at = numbered > 0
        owner = np.zeros(n + 1, np.int64)
        owner[numbered[at]] = ids[at]
        return cls(numbered, owner[1:], np.bincount(numbered[at], minlength=n + 1)[1:])


def look(objects: Objects) -> Findings:
    """What is odd about the objects of a case.

    Example:
        >>> found = look(Objects(np.array([[1, 0, 1, 2, 2]]), {1: "cell", 2: "cell"}))
        >>> found.objects, found.in_pieces, found.slivers
        ({'cell': 2}, 1, 2)
    """
    pieces = _Pieces.of(objects.ids)
    in_pieces = int(np.count_nonzero(np.unique(pieces.owner, return_counts=True)[1] > 1))
    names = list(objects.classes.values())
    return Findings(
        objects={name: names.count(name) for name in sorted(set(names))},
        in_pieces=in_pieces,
        slivers=int(np.count_nonzero(pieces.size == 1)),
        overlapping=objects.overlapping,
        without_voxels=objects.without_voxels,
        crowds=objects.crowds,
        may_have_wrapped=in_pieces > 0 and max(objects.classes, default=0) in _LARGEST,
    )


def mend(objects: Objects, *, split_pieces: bool, minimum_voxels: int) -> Objects:
    """Objects whose pieces are objects of their own, without small ones.

    Args:
        objects: to mend.
        split_pieces: give each piece but the largest of an object a new id.
        minimum_voxels: smaller objects become background; 1 keeps all.

    Example:
        >>> mended = mend(Objects(np.array([[1, 0, 1, 1]]), {1: "cell"}), split_pieces=True, minimum_voxels=2)
        >>> mended.ids.tolist()
        [[0, 0, 1, 1]]
    """
    if not split_pieces and minimum_voxels <= 1:
        return objects
    pieces = _Pieces.of(objects.ids)
    new = pieces.owner.copy()
    classes = dict(objects.classes)
    if split_pieces:
        order = np.lexsort((-pieces.size, pieces.owner))
        later = order[1:][pieces.owner[order[1:]] == pieces.owner[order[:-1]]]
        new[later] = max(classes, default=0) + 1 + np.arange(len(later))
        classes |= {int(new[piece]): classes[int(pieces.owner[piece])] for piece in later}
    (
        numbers,
        own,
    ) = np.unique(new, return_inverse=True)
    small = numbers[np.bincount(own, pieces.size, len(numbers)) < minimum_voxels]
    new[np.isin(new, small)] = 0
    ids = np.append(0, new)[pieces.numbered]
    return replace(objects, ids=ids, classes={n: name for n, name in classes.items() if n not in set(small.tolist())})
