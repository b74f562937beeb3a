"""Folders of label images as nnU-Net writes and reads them: what dataset.json says, which cases there are, and each
image checked against both.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from inspect import isabstract
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy import ndimage

from nnunet_instance_trainers.data.label_reading import read_labels
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.data.whole_files import check_whole
from nnunet_instance_trainers.errors import UserError

__all__ = [
    "ForegroundClass",
    "Labels",
    "box_around",
    "case_names",
    "find_labels",
    "find_reader",
    "is_2d",
    "read_dataset",
    "read_known_labels",
    "voxel_volume_ml",
]


@dataclass(frozen=True)
class ForegroundClass:
    """A foreground class or region.

    Attributes:
        name: in dataset.json.
        key: in nnU-Net's summaries, a label or a tuple of labels.
        labels: its values in a label image.
        channel: its place in nnU-Net's probabilities.
    """

    name: str
    key: str
    labels: tuple[int, ...]
    channel: int

    def mask(self, image: np.ndarray) -> np.ndarray:
        """(*S) bool, where a label image has this class."""
        mask = image == self.labels[0]
        for label in self.labels[1:]:
            mask |= image == label
        return mask


@dataclass(frozen=True)
class Labels:
    """What dataset.json says of labels.

    Attributes:
        classes: the foreground classes or regions.
        known: the labels that may occur in an image, the ignore label aside.
        ignore: the ignore label, None without.
        regions_order: with regions the label with which nnU-Net paints each, None without regions.
    """

    classes: tuple[ForegroundClass, ...]
    known: tuple[int, ...]
    ignore: int | None
    regions_order: tuple[int, ...] | None


# --- dataset.json ------------------------------------------------------------------------------------------


def read_dataset(file: Path, remedy: str = "give the right one with -djfile") -> dict[str, Any]:
    """The contents of a dataset.json.

    Raises:
        UserError: it is none.
    """
    try:
        dataset = read_json(file, remedy)
        # The ending becomes part of paths and of patterns of file names.
        if not isinstance(dataset["labels"], dict) or not re.fullmatch(r"[\w.-]+", dataset["file_ending"]):
            raise ValueError("not as nnU-Net writes it")
    except (UserError, ValueError, TypeError, KeyError):
        raise UserError(f"{file} is no dataset.json of nnU-Net: {remedy}") from None
    return dataset


def find_labels(dataset: dict[str, Any], file: Path) -> Labels:
    """Which labels a dataset has.

    Raises:
        UserError: nnU-Net refuses them, or there is no foreground.
    """
    try:
        manager = LabelManager(dataset["labels"], dataset.get("regions_class_order"))
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{file} has labels that nnU-Net refuses ({error}): correct them") from None
    keys = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    names = {_values(value): name for name, value in dataset["labels"].items() if name != "ignore"}
    classes = tuple(
        ForegroundClass(names[_values(key)], str(key), _values(key), c if manager.has_regions else int(key))
        for c, key in enumerate(keys)
    )
    if not classes:
        raise UserError(f"{file} has no foreground labels: add them")
    known = tuple(int(label) for label in manager.all_labels)
    order = tuple(map(int, manager.regions_class_order)) if manager.has_regions else None
    return Labels(classes, known, manager.ignore_label, order)


def _values(label: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in np.atleast_1d(label))


# --- a folder ----------------------------------------------------------------------------------------------


def case_names(folder: Path, ending: str) -> set[str]:
    """The cases in a folder, by the ending of their files.

    Raises:
        UserError: there is no such folder or no case.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    names = {file.name[: -len(ending)] for file in folder.glob(f"[!.]*{ending}")}
    if not names:
        raise UserError(f"{folder} has no files that end in {ending}: give the folder that holds the cases")
    return names


def find_reader(dataset: dict[str, Any], example: Path) -> type[BaseReaderWriter]:
    """nnU-Net's class that reads and writes the images of a dataset, chosen as nnU-Net does.

    Raises:
        UserError: none can open the example.
    """
    check_whole(example)
    # nnU-Net tries its readers on the file and prints the traceback of each that fails.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            reader = determine_reader_writer_from_dataset_json(dataset, str(example), verbose=False)
        except RuntimeError:
            raise UserError(
                f"no reader of nnU-Net can open {example}: it reads flat images from .png, .bmp and .tif, volumes from "
                ".nii.gz, .nii, .nrrd, .mha, .gipl, .tif and .tiff; save it so, with 'file_ending' in dataset.json"
            ) from None
    # nnU-Net takes anything that its modules of readers know by the name in dataset.json.
    if not (isinstance(reader, type) and issubclass(reader, BaseReaderWriter)) or isabstract(reader):
        raise UserError(f"{dataset['overwrite_image_reader_writer']!r} in dataset.json is no reader: correct it")
    return reader


# --- an image ----------------------------------------------------------------------------------------------


def read_known_labels(
    reader: BaseReaderWriter, path: Path, case: str, known: Iterable[int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """A label image (*S), in the shortest type that holds it, and its geometry.

    Raises:
        UserError: it cannot be read, or has another label.
    """
    labels, geometry = read_labels(reader, path, case, None)
    known = sorted(known)
    present = set()
    for plane in labels:  # the whole at once would take much memory
        small = plane.dtype in (np.uint8, np.uint16)
        present.update((np.flatnonzero(np.bincount(plane.ravel())) if small else np.unique(plane)).tolist())
    unknown = sorted(present - set(known))
    if unknown:
        raise UserError(
            f"case {case!r}: {path} has label {unknown[0]}, which dataset.json does not know (it has "
            f"{', '.join(map(str, known))}): correct the file, or give the right dataset.json with -djfile"
        )
    return labels, geometry


def is_2d(shape: Sequence[int], spacing: Sequence[float]) -> bool:
    """Whether an image as nnU-Net's readers give it is one of 2D: one slice, 999 times as thick as pixels are wide."""
    return shape[0] == 1 and spacing[0] > 998 * max(spacing[1:])


def voxel_volume_ml(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """The volume of a voxel of an image as nnU-Net's readers give it; a 2D image counts as 1 mm thick."""
    return float(np.prod(spacing[1:] if is_2d(shape, spacing) else spacing)) / 1000


def box_around(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask and one voxel more, which touching an ignored voxel needs."""
    box = ndimage.find_objects(np.ascontiguousarray(mask).view(np.uint8))
    if not box:
        return (slice(0, 1),) * mask.ndim
    return tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in box[0])
