"""When an instance counts as found and a component as a hit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MATCHES", "OVERLAP", "Rule"]

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
        """The rule of the settings in a summary or a study; what they leave out is as by default."""
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
