"""Counts of objects and voxels, and the scores that are ratios of them. docs/evaluation.md defines every one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

__all__ = ["CASES", "DETECTION", "SCORES", "Counts"]

DETECTION = (
    "instances",
    "components",
    "found",
    "missed",
    "hits",
    "false",
    "sensitivity",
    "precision",
    "f1",
)
"""What was found, missed and false, and its ratios; each an attribute of :class:`Counts`."""

CASES = ("cases_with_missed", "cases_all_missed", "cases_with_false", "cases_with_neither")
"""What a case is, 0 or 1, as the ICI paper (Rachmadi et al. 2023) counts subjects; pooled, the number of such cases."""

SCORES = (
    *DETECTION,
    "fnr",
    "fdr",
    "f1_iou50",
    "volume_ratio",
    "rq",
    "sq_iou",
    "sq_dice",
    "pq_iou",
    "pq_dice",
    "lesion_dice",
    "lesion_dice_found",
    "dice",
    "voxel_sensitivity",
    "voxel_precision",
    "target_ml",
    "predicted_ml",
    "volume_difference_ml",
    "volume_difference_percent",
    "absolute_volume_difference_ml",
    "absolute_count_difference",
    *CASES,
)
"""The columns of ``cases.csv`` in their order, each an attribute of :class:`Counts`."""


@dataclass(frozen=True)
class Counts:
    """What was counted in one or more images; adds up over cases and classes, so its ratios are pooled.

    Attributes:
        instances: objects in the target.
        components: connected components of the prediction.
        found: instances that count as found under the rule.
        hits: components that count as a hit under the rule.
        matched_instances, matched_components: those in one-to-one pairs, of the rule's threshold or, under
            ``"overlap"``, of IoU 0.5; equal but for counts by size, as partners differ in size.
        iou50_instances, iou50_components: those in one-to-one pairs of IoU 0.5 or more.
        matched_iou, matched_dice: sums over the matched pairs, by their instance.
        instance_dice: sum over all instances of the Dice with what found them.
        target_voxels, predicted_voxels, shared_voxels: foreground of target, of prediction, of both.
        target_ml, predicted_ml: the volumes of the first two.
    """

    instances: int = 0
    components: int = 0
    found: int = 0
    hits: int = 0
    matched_instances: int = 0
    matched_components: int = 0
    iou50_instances: int = 0
    iou50_components: int = 0
    matched_iou: float = 0.0
    matched_dice: float = 0.0
    instance_dice: float = 0.0
    target_voxels: int = 0
    predicted_voxels: int = 0
    shared_voxels: int = 0
    target_ml: float = 0.0
    predicted_ml: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other))))

    @property
    def missed(self) -> int:
        return self.instances - self.found

    @property
    def false(self) -> int:
        return self.components - self.hits

    @property
    def sensitivity(self) -> float:
        """Share of instances that are found; nan without instances."""
        return _ratio(self.found, self.instances)

    @property
    def precision(self) -> float:
        """Share of components that are hits; nan without components."""
        return _ratio(self.hits, self.components)

    @property
    def fnr(self) -> float:
        """Share of instances that are missed; nan without instances."""
        return _ratio(self.missed, self.instances)

    @property
    def fdr(self) -> float:
        """Share of components that are false; nan without components."""
        return _ratio(self.false, self.components)

    @property
    def f1(self) -> float:
        """2 S P / (S + P) of sensitivity and precision; 0 where nothing is found, nan where nothing is there at all.

        Over-segmentation can raise it: look at :attr:`volume_ratio` and :attr:`f1_iou50` beside it. In a size bin
        with objects of one side only it is nan, unless all of them are missed or false.
        """
        if self.found == self.hits == 0:
            return _ratio(0, self.instances + self.components)
        return 2 * self.sensitivity * self.precision / (self.sensitivity + self.precision)

    @property
    def f1_iou50(self) -> float:
        """F1 of one-to-one matches with IoU of 0.5 or more; nan where nothing is there at all."""
        return _ratio(self.iou50_instances + self.iou50_components, self.instances + self.components)

    @property
    def rq(self) -> float:
        """Recognition quality: F1 of the one-to-one matches; nan where nothing is there at all."""
        return _ratio(self.matched_instances + self.matched_components, self.instances + self.components)

    @property
    def sq_iou(self) -> float:
        """Segmentation quality: mean IoU of the matched pairs; nan without any."""
        return _ratio(self.matched_iou, self.matched_instances)

    @property
    def sq_dice(self) -> float:
        """The same with Dice."""
        return _ratio(self.matched_dice, self.matched_instances)

    @property
    def pq_iou(self) -> float:
        """Panoptic quality, SQ x RQ; 0 without matches, nan where nothing is there at all."""
        return _ratio(2 * self.matched_iou, self.instances + self.components)

    @property
    def pq_dice(self) -> float:
        """The same with Dice."""
        return _ratio(2 * self.matched_dice, self.instances + self.components)

    @property
    def lesion_dice(self) -> float:
        """Mean over all instances of the Dice with what found them, 0 for a missed one; nan without instances."""
        return _ratio(self.instance_dice, self.instances)

    @property
    def lesion_dice_found(self) -> float:
        """The same over found instances; nan without any."""
        return _ratio(self.instance_dice, self.found)

    @property
    def dice(self) -> float:
        """Voxel Dice; nan where nothing is there at all."""
        return _ratio(2 * self.shared_voxels, self.target_voxels + self.predicted_voxels)

    @property
    def voxel_sensitivity(self) -> float:
        """Share of the target's voxels that are predicted; nan without any."""
        return _ratio(self.shared_voxels, self.target_voxels)

    @property
    def voxel_precision(self) -> float:
        """Share of the predicted voxels that are the target's; nan without any."""
        return _ratio(self.shared_voxels, self.predicted_voxels)

    @property
    def volume_ratio(self) -> float:
        """Predicted over true volume; nan without true volume."""
        return _ratio(self.predicted_ml, self.target_ml)

    @property
    def volume_difference_ml(self) -> float:
        """Predicted minus true volume."""
        return self.predicted_ml - self.target_ml

    @property
    def volume_difference_percent(self) -> float:
        """The same in per cent of the true volume; nan without true volume."""
        return _ratio(100 * self.volume_difference_ml, self.target_ml)

    @property
    def absolute_volume_difference_ml(self) -> float:
        """The difference without its sign."""
        return abs(self.volume_difference_ml)

    @property
    def absolute_count_difference(self) -> int:
        """The same of instances and components: the simple lesion count of ISLES and ATLAS."""
        return abs(self.instances - self.components)

    @property
    def cases_with_missed(self) -> int:
        return int(self.missed > 0)

    @property
    def cases_all_missed(self) -> int:
        """Whether there are instances and none is found."""
        return int(self.missed == self.instances > 0)

    @property
    def cases_with_false(self) -> int:
        return int(self.false > 0)

    @property
    def cases_with_neither(self) -> int:
        """Whether nothing is missed and nothing false."""
        return int(self.missed == self.false == 0)

    def scores(self, names: Sequence[str] = SCORES) -> dict[str, int | float]:
        """Some scores by name."""
        return {name: getattr(self, name) for name in names}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
