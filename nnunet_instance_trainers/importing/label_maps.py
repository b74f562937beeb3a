"""Objects as images of ids: of StarDist, Cellpose, ImageJ, ITK-SNAP and 3D Slicer, and datasets of nnU-Net whose labels
are ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_folders import read_dataset
from nnunet_instance_trainers.data.label_reading import check_ids, read_labels
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.cellpose_files import read_seg_npy
from nnunet_instance_trainers.importing.cropped_maps import uncropped
from nnunet_instance_trainers.importing.id_images import Objects
from nnunet_instance_trainers.importing.images import CaseFiles, Image, group_channels, list_images, reader_of, stem

__all__ = ["LabelMaps", "RawLabels"]

# What programs add to the name of the image.
_SUFFIXES = ("_cp_masks", "_masks", "_mask", "_seg", ".seg", "-label", "_label", "_labels", "_instances")
_OF_NO_USE = re.compile(r"_(flows|outlines|cp_output|cp_outlines)\w*$")


@dataclass(frozen=True)
class LabelMaps:
    """A folder of images of ids, each named as its image or with one of the usual suffixes.

    Attributes:
        images: the folder of images; may be the same one.
        folder: that of the maps.
        name: the class of all objects.
        suffix: what comes after the case in the names of the maps; None to find out.
    """

    images: Path
    folder: Path
    name: str
    suffix: str | None = None

    def cases(self) -> dict[str, CaseFiles]:
        """The files of each case.

        Raises:
            UserError: an image has no map or several, or a map has no image.
        """
        images, maps = list_images(self.images), self._maps()
        if self.images.resolve() == self.folder.resolve():
            names = {stem(path) for path in images}
            maps = [path for path in maps if self._case(path, names - {_name(path)})]
            images = [path for path in images if path not in maps and not _belongs_to_another(path, names)]
        return self._pair(images, maps)

    def _maps(self) -> list[Path]:
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {self.folder}: give the one that holds the objects")
        if self.suffix is not None:
            maps = sorted(self.folder.glob(f"[!.]*{self.suffix}"))
        else:
            maps = [*self.folder.glob("[!.]*_seg.npy"), *_images_in(self.folder)]
        if not maps:
            what = "maps of ids" if self.suffix is None else f"files that end in {self.suffix}"
            raise UserError(f"{self.folder} has no {what}: give the folder that holds the objects")
        return maps

    def _pair(self, images: list[Path], maps: list[Path]) -> dict[str, CaseFiles]:
        names = {name for path in images for name in (stem(path), re.sub(r"_\d{4}$", "", stem(path)))}
        found: dict[str, Path] = {}
        for path in maps:
            case = self._case(path, names)
            if not case:
                raise UserError(f"{path} belongs to no image in {self.images}: add the image, or name it so (--suffix)")
            if case in found:
                raise UserError(
                    f"{found[case]} and {path} are both for {case!r}: choose with --suffix, such as --suffix _masks.tif"
                )
            found[case] = path
        grouped = group_channels(images, found.__contains__)
        for case, files in grouped.items():
            if case not in found:
                raise UserError(f"{files[0]} has no map in {self.folder}: add one, an empty one too, or take it away")
        return {case: CaseFiles(files, (found[case],)) for case, files in grouped.items()}

    def _case(self, path: Path, names: Iterable[str]) -> str:
        """The image's name in that of a map; empty where there is none."""
        if self.suffix is not None:
            own = path.name[: -len(self.suffix)]
            return own if own in names else ""
        return next((name for name in (_name(path), *_shorter(_name(path))) if name in names), "")

    def class_names(self, cases: Mapping[str, CaseFiles]) -> list[str]:
        return [self.name]

    def read(self, case: str, files: CaseFiles, image: Image, classes: frozenset[str]) -> Objects:
        """The objects of a case.

        Raises:
            UserError: the map cannot be read, or lies on another grid than the image.
        """
        (path,) = files.objects
        blank = np.broadcast_to(np.uint8(0), image.shape)
        if path.suffix == ".npy":
            ids = read_seg_npy(path, case)
            ids, geometry = ids.reshape((1,) * (3 - ids.ndim) + ids.shape), image.geometry
        else:
            reader = reader_of(path, is_map=True)
            ids, geometry = read_labels(reader, path, case, None)
            if not image.located or type(reader) is not type(image.reader):
                geometry = image.geometry  # at most one of the two formats knows where its voxels lie
            elif path.name.endswith(".seg.nrrd"):  # elsewhere a smaller map is more likely that of another case
                ids, geometry = uncropped(ids, geometry, image)
        check_grid(path, case, ids, geometry, blank, image.geometry, other="its image")
        check_ids(ids, path, case)
        if ids.min(initial=0) < 0:
            raise UserError(
                f"case {case!r}: {path} has ids below 0, down to {ids.min()}: they overflowed; save them as unsigned "
                "integers of more bits"
            )
        numbers = np.unique(ids)
        return Objects(ids, dict.fromkeys(numbers[numbers > 0].tolist(), self.name))


@dataclass(frozen=True)
class RawLabels:
    """A raw dataset of nnU-Net whose labels are ids: a class for each lesion.

    Attributes:
        dataset: its folder.
        name: the class of all objects.
    """

    dataset: Path
    name: str

    def cases(self) -> dict[str, CaseFiles]:
        """The files of each case, those in ``imagesTs`` as the test part where they have labels.

        Raises:
            UserError: a file is missing, or the dataset has regions or ignored voxels.
        """
        content = read_dataset(self.dataset / "dataset.json", "give the folder of a raw dataset, or maps with -l")
        labels = content["labels"]
        if "ignore" in labels or any(isinstance(label, list) for label in labels.values()):
            raise UserError(f"{self.dataset} has regions or ignored voxels, which are no ids: give maps of ids with -l")
        cases: dict[str, CaseFiles] = {}
        for part in ("Tr", "Ts"):
            folder = self.dataset / f"labels{part}"
            if part == "Tr" or folder.is_dir():
                maps = LabelMaps(self.dataset / f"images{part}", folder, self.name)
                for case, files in maps.cases().items():
                    cases[case] = CaseFiles(files.images, files.objects, part)
        return cases

    def channel_names(self) -> list[str]:
        """The names of the channels, which nnU-Net normalises by."""
        channels = read_dataset(self.dataset / "dataset.json").get("channel_names", {})
        return [str(channels[number]) for number in sorted(channels, key=int)]

    class_names = LabelMaps.class_names
    read = LabelMaps.read


def _name(path: Path) -> str:
    return path.name.removesuffix(".npy") if path.suffix == ".npy" else stem(path)


def _images_in(folder: Path) -> list[Path]:
    try:
        return list_images(folder)
    except UserError:  # there may be .npy only
        return []


def _shorter(name: str) -> list[str]:
    return [name[: -len(suffix)] for suffix in _SUFFIXES if name.endswith(suffix)]


def _belongs_to_another(path: Path, names: set[str]) -> bool:
    """Whether an image is the map of another one, or what Cellpose writes beside it."""
    own = stem(path)
    return any(name in names and name != own for name in (*_shorter(own), _OF_NO_USE.sub("", own)))
