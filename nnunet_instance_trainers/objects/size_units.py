"""In what the sizes of objects are given: mL, mm^2 of flat images, voxels where no spacing is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from nnunet_instance_trainers.data.label_folders import is_2d
from nnunet_instance_trainers.evaluation.scoring.folder_scores import BINS_ML

__all__ = ["AREA", "UNITS", "VOLUME", "VOXELS", "CaseGrid", "SizeUnit"]


@dataclass(frozen=True)
class SizeUnit:
    """A unit of sizes.

    Attributes:
        name: the end of columns' names.
        column: the name of sizes in tables.
        text: as it is printed behind a number.
        option: what asks for a least size in this unit.
        bins: the edges of size bins unless others are asked for.
    """

    name: str
    column: str
    text: str
    option: str
    bins: tuple[float, ...]


VOLUME = SizeUnit("ml", "volume_ml", "mL", "--min-volume-ml", BINS_ML)
AREA = SizeUnit("mm2", "area_mm2", "mm\N{SUPERSCRIPT TWO}", "--min-area-mm2", tuple(1000 * edge for edge in BINS_ML))
VOXELS = SizeUnit("voxels", "voxels", "voxels", "--min-voxels", AREA.bins)
UNITS = (VOLUME, AREA, VOXELS)


@dataclass(frozen=True)
class CaseGrid:
    """Where the voxels of a case lie and how large they are.

    Attributes:
        geometry: what nnU-Net's reader said.
        flat: whether the image is one of 2D.
        spacing_mm: of the image's own axes, two of a flat one; None where it is not known.
    """

    geometry: dict[str, Any]
    flat: bool
    spacing_mm: tuple[float, ...] | None

    @classmethod
    def of(cls, shape: Sequence[int], geometry: dict[str, Any], known: Sequence[float] | None) -> CaseGrid:
        """From an array as nnU-Net's reader gives it, and its spacing where that is known."""
        flat = is_2d(shape, geometry["spacing"])
        return cls(geometry, flat, None if known is None else tuple(known[1:] if flat else known))

    @property
    def unit(self) -> SizeUnit:
        """In what sizes are given."""
        return VOXELS if self.spacing_mm is None else AREA if self.flat else VOLUME

    @property
    def voxel_size(self) -> float:
        """The size of a voxel in that unit."""
        return 1.0 if self.spacing_mm is None else prod(self.spacing_mm) / (1 if self.flat else 1000)
