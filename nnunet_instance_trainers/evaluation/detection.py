"""What became of the objects of one image and class: found, missed, false, matched.

Everything comes from one overlap table. docs/evaluation.md has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import ndimage

from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.instances import OverlapTable, label_components, renumber
from nnunet_instance_trainers.instances.matching import match_greedily, match_one_to_one
from nnunet_instance_trainers.instances.volume_ranges import size_bins

__all__ = ["MATCHES", "OVERLAP", "Detection", "Outcome", "Pairs", "Rule", "detect"]

AnyOutcome = TypeVar("AnyOutcome", bound="Outcome")

MATCHES = ("overlap", "iou", "dice", "greedy", "share")
_CHANGEABLE = ("connectivity", "minimum_ml")


@dataclass(frozen=True)
class Rule:
    """When an instance counts as found and a component as a hit.

    Attributes:
        match: ``"overlap"``: they share a voxel, and one may meet many (the papers' rule). ``"iou"``, ``"dice"``:
            they are partners in a one-to-one assignment of pairs whose IoU or Dice reaches the threshold.
            ``"greedy"``: the same with pairs taken by falling IoU, while both partners are free. ``"share"``: the
            components together cover the threshold's share of the instance; those that meet such an instance are hits.
        threshold: in (0, 1]; without meaning for ``"overlap"``.
        connectivity: 6, 18 or 26 neighbours that join voxels to components; in 2D 6 stands for 4, the others for 8.
        minimum_ml: instances and components below this volume are no objects; their voxels still count in voxel scores.

    Raises:
        ValueError: another match or connectivity, a threshold outside (0, 1], or a negative volume.
    """

    match: str = "overlap"
    threshold: float = 0.5
    connectivity: int = 26
    minimum_ml: float = 0.0

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise ValueError(f"match must be one of {', '.join(MATCHES)}, got {self.match!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {self.threshold}")
        if self.connectivity not in (6, 18, 26):
            raise ValueError(f"connectivity must be 6, 18 or 26, got {self.connectivity}")
        if not 0 <= self.minimum_ml < float("inf"):
            raise ValueError(f"minimum_ml must be 0 or more, got {self.minimum_ml}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Rule:
        """The rule of the settings in a summary."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__ if name in settings})

    def large_enough(self, volume_ml: np.ndarray) -> np.ndarray:
        """Whether objects of some volumes are objects under the rule; rounding may take a little from a volume."""
        return volume_ml >= self.minimum_ml * (1 - 1e-9)

    def settings(self) -> dict[str, Any]:
        """What a summary says of it: match and threshold, and what differs from the default."""
        default = Rule()
        changed = {name: getattr(self, name) for name in _CHANGEABLE if getattr(self, name) != getattr(default, name)}
        return {"match": self.match, "threshold": self.threshold, **changed}


OVERLAP = Rule()


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


@dataclass(frozen=True)
class Detection(Outcome):
    """The same with where the objects are, by their voxels alone: whole images of ids are made when asked for.

    Attributes:
        shape: (*S) of the image.
        place: (K,) flat positions of all voxels of objects.
        instance_at, component_at: (K,) int32, what is there: 1..N of the target, 1..M of the prediction, 0 for none.
        instance_ids: (N,) the ids that the instances came with.
    """

    shape: tuple[int, ...]
    place: np.ndarray
    instance_at: np.ndarray
    component_at: np.ndarray
    instance_ids: np.ndarray

    @property
    def instances(self) -> np.ndarray:
        """(*S) int32 ids 1..N of the target."""
        return self._image(self.instance_at)

    @property
    def components(self) -> np.ndarray:
        """(*S) int32 ids 1..M of the prediction."""
        return self._image(self.component_at)

    def _image(self, ids: np.ndarray) -> np.ndarray:
        image = np.zeros(self.shape, dtype=np.int32)
        image.ravel()[self.place] = ids
        return image


def detect(
    instances: np.ndarray | None,
    prediction: np.ndarray,
    *,
    within: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    rule: Rule = OVERLAP,
    voxel_ml: float = 0.001,
) -> Detection:
    """Compare target instances with the connected components of a prediction, for one class.

    Args:
        instances: (*S) integer ids of the target, 0 is background; any numbering. None for the connected components
            of ``within``.
        prediction: (*S) mask of the predicted class.
        within: (*S) bool, the class in the target, where ids count; None means everywhere.
        valid: (*S) bool, False where voxels are ignored; None means nowhere. An object beside an ignored voxel
            that meets nothing is no object here, for it may go on where nobody annotated.
        rule: when an instance is found.
        voxel_ml: volume of a voxel.

    Returns:
        What was found, missed and invented.

    Raises:
        ValueError: shapes differ, or there is neither a target nor a class of it.

    Example:
        >>> target = np.array([[1, 1, 0, 0, 2]])
        >>> counts = detect(target, np.array([[0, 1, 1, 0, 0]])).counts
        >>> counts.found, counts.missed, counts.false, counts.sensitivity
        (1, 1, 0, 0.5)
    """
    if within is None:
        if instances is None:
            raise ValueError("either instances or within must be given")
        within = instances > 0
    for name, other in (("target", instances), ("prediction", prediction), ("valid", valid)):
        if other is not None and other.shape != within.shape:
            raise ValueError(f"target and {name} must have one shape, got {within.shape} and {other.shape}")
    predicted = prediction > 0 if valid is None else (prediction > 0) & valid
    place = np.flatnonzero(within | predicted if valid is None else (within | predicted) & valid)
    # One image of ids at a time: of a large one it takes more memory than all else.
    ids = _at(label_components(within, rule.connectivity)[0] if instances is None else instances, place)
    ids[~_at(within, place)] = 0
    parts = _at(label_components(predicted, rule.connectivity)[0], place)
    foregrounds = (ids > 0, parts > 0, (ids > 0) & (parts > 0))
    target_voxels, predicted_voxels, shared_voxels = (int(np.count_nonzero(mask)) for mask in foregrounds)
    if valid is not None:
        near = ndimage.binary_dilation(~valid, np.ones((3,) * valid.ndim, bool))
        ids, parts = _without_cut_objects(ids, parts, _at(near, place))
    if rule.minimum_ml:
        ids, parts = (_large(own, rule, voxel_ml) for own in (ids, parts))
    instance_at, component_at = (renumber(own)[0].view(np.int32) for own in (ids, parts))  # which torch knows
    return Detection.of(
        Pairs.of(instance_at, component_at),
        rule,
        shape=within.shape,
        place=place,
        instance_at=instance_at,
        component_at=component_at,
        instance_ids=np.unique(ids[ids > 0]),
        voxel_ml=voxel_ml,
        target_voxels=target_voxels,
        predicted_voxels=predicted_voxels,
        shared_voxels=shared_voxels,
    )


def _large(ids: np.ndarray, rule: Rule, voxel_ml: float) -> np.ndarray:
    """Of ids (K,) those whose volume is an object's; 0 for the others."""
    numbers, n = renumber(ids)
    return np.where(rule.large_enough(np.bincount(numbers, minlength=n + 1) * voxel_ml)[numbers], ids, 0)


def _at(image: np.ndarray, place: np.ndarray) -> np.ndarray:
    return image.ravel()[place]


def _without_cut_objects(
    instances: np.ndarray, components: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the objects that touch an ignored voxel and meet nothing; ids (K,) and whether one is beside (K,)."""
    both = (instances > 0) & (components > 0)
    kept = []
    for ids in (instances, components):
        cut = np.setdiff1d(ids[near & (ids > 0)], ids[both])
        kept.append(np.where(np.isin(ids, cut), 0, ids))
    return kept[0], kept[1]


def _marked(members: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.bincount(members, minlength=len(of)) > 0
