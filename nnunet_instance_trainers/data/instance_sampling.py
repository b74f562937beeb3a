"""Instance-balanced sampling: which voxel becomes the centre of a forced-foreground patch.

nnU-Net's loader chooses a class, then one of the voxels that the case's ``class_locations`` list for it, so a large
object is the centre as much more often as it has more voxels. It asks the dataset for the case anew for every patch:
a list with one voxel, of an instance drawn here, leaves it no other choice and all else to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.data.map_store import table_file
from nnunet_instance_trainers.errors import UserError

__all__ = ["InstanceSampler", "LocationsWhenAsked"]

Key = int | tuple[int, ...]


@dataclass(frozen=True)
class InstanceSampler:
    """Draws the centres of patches from the tables that ``nnunet-instance precompute`` made.

    An instance is drawn with a probability in proportion to its volume to the power of ``power``, then one of its
    stored voxels. Randomness is numpy's global state, as in nnU-Net's loader, whose workers have seeds of their own.

    Attributes:
        folder: of instance maps and tables.
        keys: nnU-Net's key in ``class_locations`` of each label, or of each region channel, that has instances.
        regions: whether the numbers in ``keys`` are region channels.
        power: 0 for equal chances, 1 for chances in proportion to the volume.
    """

    folder: Path
    keys: Mapping[int, Key]
    regions: bool
    power: float

    def class_locations(self, case: str, stock: Mapping[Key, np.ndarray]) -> dict[Key, np.ndarray]:
        """A case's ``class_locations`` for one patch: a single voxel for each class that has instances.

        Args:
            case: its name.
            stock: nnU-Net's own; classes without instances and the key of annotated voxels keep theirs.

        Raises:
            UserError: the table cannot be read.
        """
        classes, size, first_voxel, voxels = self._read(case)
        drawn = {}
        for number, key in self.keys.items():
            rows = np.flatnonzero(classes == number)
            if len(rows):
                weight = size[rows].astype(np.float64) ** self.power
                row = np.random.choice(rows, p=weight / weight.sum())
                voxel = voxels[np.random.randint(first_voxel[row], first_voxel[row + 1])]
                drawn[key] = np.array([[0, *voxel]])  # nnU-Net's rows begin with the channel of the segmentation
        return {**stock, **drawn}

    def _read(self, case: str) -> tuple[np.ndarray, ...]:
        """Of each instance class, size and first voxel (one entry more, the end), and all voxels."""
        path = table_file(self.folder, case)
        try:
            with np.load(path, allow_pickle=False) as table:
                voxels = table["voxels"]
                classes = table["channel" if self.regions else "label"]
                return classes, table["size"], np.append(table["first_voxel"], len(voxels)), voxels
        except Exception:  # a damaged archive raises many kinds
            raise UserError(
                f"case {case!r}: cannot read the table of instances {path}: run 'nnunet-instance precompute' again"
            ) from None


class LocationsWhenAsked(Mapping[Key, np.ndarray]):
    """A case's ``class_locations``, drawn when the loader looks at them.

    It does so only for a patch that must show foreground (with an ignore label for every patch), so that the others
    read no table.
    """

    def __init__(self, sampler: InstanceSampler, case: str, stock: Mapping[Key, np.ndarray]) -> None:
        self.sampler, self.case, self.stock = sampler, case, stock

    @cached_property
    def _drawn(self) -> dict[Key, np.ndarray]:
        return self.sampler.class_locations(self.case, self.stock)

    def __getitem__(self, key: Key) -> np.ndarray:
        return self._drawn[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._drawn)

    def __len__(self) -> int:
        return len(self._drawn)
