"""The overlap table of one image and class as arrays, and what became of its objects under a rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.rules import Rule
from nnunet_instance_trainers.instances import OverlapTable
from nnunet_instance_trainers.instances.matching import match_greedily, match_one_to_one
from nnunet_instance_trainers.instances.volume_ranges import size_bins

__all__ = ["Outcome", "Pairs"]

AnyOutcome = TypeVar("AnyOutcome", bound="Outcome")


@dataclass(frozen=True)
class Pairs:
    """The overlap table of one image and class as arrays, all that scores need.

    Attributes:
        instance_voxels: (N,) size of each instance.
        component_voxels: (M,) size of each component.
        instance, component: (P,) indices of what meets.
        shared: (P,) voxels that they share, > 0.
    """

    instance_voxels: np.ndarray
    component_voxels: np.ndarray
    instance: np.ndarray
    component: np.ndarray
    shared: np.ndarray

    @classmethod
    def of(cls, instances: np.ndarray, components: np.ndarray) -> Pairs:
        """The table of two int32 images of ids, or of their values at some voxels, each numbered 1.. without gaps."""
        ids, parts = (torch.from_numpy(image)[None] for image in (instances, components))
        table = OverlapTable(ids, parts)
        arrays = (table.instances.size, table.components.size, table.instance, table.component, table.size)
        return cls(*(array.numpy() for array in arrays))

    @cached_property
    def iou(self) -> np.ndarray:
        """(P,) IoU of each pair."""
        both = self.instance_voxels[self.instance] + self.component_voxels[self.component]
        return self.shared / (both - self.shared)

    @cached_property
    def dice(self) -> np.ndarray:
        """(P,) Dice of each pair."""
        return 2 * self.shared / (self.instance_voxels[self.instance] + self.component_voxels[self.component])

    def at_least(self, voxels: float) -> Pairs:
        """The table of the instances and components of at least so many voxels."""
        kept = [sizes >= voxels for sizes in (self.instance_voxels, self.component_voxels)]
        both = kept[0][self.instance] & kept[1][self.component]
        return Pairs(
            self.instance_voxels[kept[0]],
            self.component_voxels[kept[1]],
            (np.cumsum(kept[0]) - 1)[self.instance[both]],
            (np.cumsum(kept[1]) - 1)[self.component[both]],
            self.shared[both],
        )

    def covering(self, share: float) -> np.ndarray:
        """(L,) indices of the pairs of instances of which components cover at least a share."""
        covered = np.bincount(self.instance, self.shared, len(self.instance_voxels)) / self.instance_voxels
        return np.flatnonzero(covered[self.instance] >= share)

    def match(self, match: str, threshold: float) -> np.ndarray:
        """(K,) indices of the pairs of the one-to-one assignment by ``"iou"`` or ``"dice"``, or ``"greedy"``."""
        if match == "greedy":
            return match_greedily(self.instance, self.component, self.iou, threshold=threshold)
        return match_one_to_one(self.instance, self.component, getattr(self, match), threshold=threshold)


@dataclass(frozen=True)
class Outcome:
    """What became of the objects of one image and class.

    Attributes:
        pairs: what meets.
        counted: (L,) indices of the pairs that count under the rule.
        matched, iou50: (K,) indices of the one-to-one pairs at the rule's threshold and at IoU 0.5.
        voxel_ml: volume of a voxel.
        shared_voxels, target_voxels, predicted_voxels: foreground, in objects that are left out too.
    """

    pairs: Pairs
    counted: np.ndarray
    matched: np.ndarray
    iou50: np.ndarray
    voxel_ml: float
    target_voxels: int
    predicted_voxels: int
    shared_voxels: int

    @classmethod
    def of(cls: type[AnyOutcome], pairs: Pairs, rule: Rule, **others: Any) -> AnyOutcome:
        """Match the pairs under a rule; ``others`` are the remaining attributes."""
        iou50 = pairs.match("iou", 0.5)
        many = {"overlap": 0.0, "share": rule.threshold}  # least covered share, where one may meet many
        matched = iou50 if rule.match in many else pairs.match(rule.match, rule.threshold)
        return cls(
            pairs=pairs,
            counted=pairs.covering(many[rule.match]) if rule.match in many else matched,
            matched=matched,
            iou50=iou50,
            **{"shared_voxels": int(pairs.shared.sum()), **others},
        )

    @cached_property
    def found(self) -> np.ndarray:
        """(N,) bool, instance n at index n - 1."""
        return _marked(self.pairs.instance[self.counted], self.pairs.instance_voxels)

    @cached_property
    def hits(self) -> np.ndarray:
        """(M,) bool, component m at index m - 1."""
        return _marked(self.pairs.component[self.counted], self.pairs.component_voxels)

    @cached_property
    def instance_dice(self) -> np.ndarray:
        """(N,) Dice of each instance with the union of the components that it is counted with; 0 without."""
        p = self.pairs
        return self._dice(p.instance, p.instance_voxels, p.component_voxels[p.component])

    @cached_property
    def component_dice(self) -> np.ndarray:
        """(M,) the same of each component."""
        p = self.pairs
        return self._dice(p.component, p.component_voxels, p.instance_voxels[p.instance])

    def _dice(self, own: np.ndarray, voxels: np.ndarray, others: np.ndarray) -> np.ndarray:
        own, n = own[self.counted], len(voxels)
        shared = np.bincount(own, self.pairs.shared[self.counted], n)
        return 2 * shared / (voxels + np.bincount(own, others[self.counted], n))

    @property
    def instance_ml(self) -> np.ndarray:
        """(N,) volume of each instance."""
        return self.pairs.instance_voxels * self.voxel_ml

    @property
    def component_ml(self) -> np.ndarray:
        """(M,) volume of each component."""
        return self.pairs.component_voxels * self.voxel_ml

    @cached_property
    def counts(self) -> Counts:
        """The same in numbers."""
        return self._count(np.ones(len(self.found), bool), np.ones(len(self.hits), bool))

    def counts_by_size(self, edges_ml: np.ndarray) -> list[Counts]:
        """Counts in len(edges_ml) + 1 bins [a, b) of an object's own volume; voxels and volumes are the image's."""
        instance_bin = size_bins(self.instance_ml, edges_ml)
        component_bin = size_bins(self.component_ml, edges_ml)
        return [self._count(instance_bin == b, component_bin == b) for b in range(len(edges_ml) + 1)]

    def _count(self, instances: np.ndarray, components: np.ndarray) -> Counts:
        """Counts of the chosen objects, given as masks (N,) and (M,)."""
        p = self.pairs
        matched = self.matched[instances[p.instance[self.matched]]]
        return Counts(
            instances=int(instances.sum()),
            components=int(components.sum()),
            found=int(self.found[instances].sum()),
            hits=int(self.hits[components].sum()),
            matched_instances=len(matched),
            matched_components=int(components[p.component[self.matched]].sum()),
            iou50_instances=int(instances[p.instance[self.iou50]].sum()),
            iou50_components=int(components[p.component[self.iou50]].sum()),
            matched_iou=float(p.iou[matched].sum()),
            matched_dice=float(p.dice[matched].sum()),
            instance_dice=float(self.instance_dice[instances].sum()),
            target_voxels=self.target_voxels,
            predicted_voxels=self.predicted_voxels,
            shared_voxels=self.shared_voxels,
            target_ml=self.target_voxels * self.voxel_ml,
            predicted_ml=self.predicted_voxels * self.voxel_ml,
        )


def _marked(members: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.bincount(members, minlength=len(of)) > 0
