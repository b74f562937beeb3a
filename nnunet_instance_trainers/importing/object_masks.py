"""Objects as one mask file each, in the layout of the Data Science Bowl 2018."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_reading import read_labels
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.id_images import Drawn, Objects, box_of, paint
from nnunet_instance_trainers.importing.images import CaseFiles, Image, group_channels, list_images, reader_of

__all__ = ["ObjectMasks"]


@dataclass(frozen=True)
class ObjectMasks:
    """A folder for each case: ``CASE/masks`` or ``CASE`` holds the masks, ``CASE/images`` or another folder the image.

    Attributes:
        images: the folder of images, ``CASE.png`` in it or ``CASE/images/*.png``.
        folder: the folder of the cases' folders.
        name: the class of all objects.
    """

    images: Path
    folder: Path
    name: str

    @staticmethod
    def looks_so(folder: Path) -> bool:
        """Whether a folder has folders of masks."""
        return any(folder.glob("*/masks")) or (folder.is_dir() and all(path.is_dir() for path in folder.glob("[!.]*")))

    def cases(self) -> dict[str, CaseFiles]:
        """The files of each case; a folder of masks may be empty.

        Raises:
            UserError: a case has no image, or an image no folder of masks.
        """
        folders = sorted(path for path in self.folder.glob("[!.]*") if path.is_dir())
        if not folders:
            raise UserError(f"{self.folder} has no folder for each case: give the one that holds them")
        masks = {path.name: path / "masks" if (path / "masks").is_dir() else path for path in folders}
        images = {name: tuple(list_images(self.images / name / "images")) for name in masks if self._inside(name)}
        if not images:
            images = group_channels(list_images(self.images), masks.__contains__)
        for lacking, what in (
            (masks.keys() - images.keys(), "image"),
            (images.keys() - masks.keys(), "folder of masks"),
        ):
            if lacking:
                raise UserError(f"case {min(lacking)!r} has no {what}: add it, or take the case away")
        return {
            name: CaseFiles(images[name], tuple(sorted(p for p in masks[name].glob("[!.]*") if p.is_file())))
            for name in masks
        }

    def _inside(self, name: str) -> bool:
        return (self.images / name / "images").is_dir()

    def class_names(self, cases: Mapping[str, CaseFiles]) -> list[str]:
        return [self.name]

    def read(self, case: str, files: CaseFiles, image: Image, classes: frozenset[str]) -> Objects:
        """The objects of a case, numbered by the names of their files.

        Raises:
            UserError: a mask cannot be read, has several values, or lies on another grid than the image.
        """
        drawn = []
        blank = np.broadcast_to(np.uint8(0), image.shape)
        for path in files.objects:
            reader = reader_of(path, is_map=True)
            mask, geometry = read_labels(reader, path, case, None)
            located = image.located and type(reader) is type(image.reader)
            check_grid(path, case, mask, geometry if located else image.geometry, blank, image.geometry, "its image")
            values = np.unique(mask)
            if len(values[values != 0]) > 1:
                raise UserError(
                    f"case {case!r}: {path} has {len(values[values != 0])} values beside 0, and a mask of one object "
                    "has one: give a folder of maps instead, with one file for each image"
                )
            box = box_of(mask != 0)
            drawn.append(Drawn(self.name, box, mask[box] != 0))
        return paint(image.shape, drawn)
