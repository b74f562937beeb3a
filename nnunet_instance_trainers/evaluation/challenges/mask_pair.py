"""What a challenge's scores are made of: the masks of one case and region, and the tables of their objects."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from nnunet_instance_trainers.data.label_folders import box_around
from nnunet_instance_trainers.evaluation.detection import Pairs
from nnunet_instance_trainers.evaluation.surfaces import (
    AreaDistances,
    Distances,
    area_distances,
    area_elements,
    border_voxels,
    distances,
)
from nnunet_instance_trainers.instances import label_components, renumber

__all__ = ["Ids", "MaskPair", "Objects"]

Ids = tuple["np.ndarray | None", "np.ndarray | None"]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Objects:
    """Target instances and predicted components of one case, and what they share.

    Attributes:
        target, prediction: (*S) int32 ids from 1 on.
        pairs: the overlap table.
    """

    target: np.ndarray
    prediction: np.ndarray
    pairs: Pairs

    @classmethod
    def of(cls, target: np.ndarray, prediction: np.ndarray) -> Objects:
        """Number two id images (*S) without gaps and compare them."""
        ids = [renumber(image)[0].view(np.int32) for image in (target, prediction)]
        return cls(ids[0], ids[1], Pairs.of(*ids))

    @property
    def n(self) -> tuple[int, int]:
        """Target instances and predicted components."""
        return len(self.pairs.instance_voxels), len(self.pairs.component_voxels)

    @cached_property
    def found(self) -> np.ndarray:
        """(N,) bool, which instances share a voxel with the prediction."""
        return np.bincount(self.pairs.instance, minlength=self.n[0]) > 0

    @cached_property
    def hits(self) -> np.ndarray:
        """(M,) bool, which components share a voxel with the target."""
        return np.bincount(self.pairs.component, minlength=self.n[1]) > 0


@dataclass(frozen=True)
class MaskPair:
    """Target and prediction of one region of one case, cut to the box that holds them.

    Attributes:
        target, prediction: (*S) bool, three axes, slices first.
        spacing: mm per axis.
        shape: of the whole image.
        ids: target's and prediction's instance ids (*S), None where components of the mask are the objects.
    """

    target: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    ids: Ids = (None, None)
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        target: np.ndarray,
        prediction: np.ndarray,
        spacing: Sequence[float],
        ids: Ids = (None, None),
    ) -> MaskPair:
        """Cut two masks (*S) to their common box."""
        box = box_around(target | prediction)
        masks = (np.ascontiguousarray(mask[box]) for mask in (target, prediction))
        first, second = (None if own is None else own[box] for own in ids)
        return cls(*masks, spacing=tuple(map(float, spacing)), shape=target.shape, ids=(first, second))

    @property
    def voxel_mm3(self) -> float:
        return float(np.prod(self.spacing))

    @cached_property
    def voxels(self) -> tuple[int, int, int]:
        """Voxels of the target, of the prediction, of both."""
        masks = (self.target, self.prediction, self.target & self.prediction)
        target, prediction, both = (int(np.count_nonzero(mask)) for mask in masks)
        return target, prediction, both

    @property
    def dice(self) -> float:
        """Voxel Dice; nan where both are empty."""
        target, prediction, both = self.voxels
        return 2 * both / (target + prediction) if target + prediction else np.nan

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, made at the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def objects(self, connectivity: int) -> Objects:
        """Components of 6, 18 or 26 neighbours, or the given ids."""
        return self.once(("objects", connectivity), lambda: Objects.of(*self._images(connectivity)))

    def _images(self, connectivity: int) -> list[np.ndarray]:
        return [
            label_components(mask, connectivity)[0] if ids is None else np.where(mask, ids, 0)
            for mask, ids in zip((self.target, self.prediction), self.ids)
        ]

    @cached_property
    def borders(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the voxels of target and prediction that have a face to the outside."""
        return border_voxels(self.target), border_voxels(self.prediction)

    def distances(self, spacing: Sequence[float]) -> Distances:
        """From one border to the other and back."""
        scale = np.asarray(spacing, float)
        return self.once(("distances", *spacing), lambda: distances(*(border * scale for border in self.borders)))

    @cached_property
    def area_distances(self) -> AreaDistances:
        """Those between elements of area, in mm."""
        # Slices last, as official code reads them: the surface of a few neighbourhoods depends on the axes' order.
        return area_distances([area_elements(m.T, self.spacing[::-1]) for m in (self.target, self.prediction)])
