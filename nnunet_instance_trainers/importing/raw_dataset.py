"""The one writer of imports: a raw dataset of nnU-Net, made beside its place and put there when it is whole."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.label_writing import write_image
from nnunet_instance_trainers.data.map_store import UNFINISHED
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.importing.id_images import Objects
from nnunet_instance_trainers.importing.images import CaseFiles, Image, store_image

__all__ = ["check_place", "new_dataset", "write_case", "write_description"]

REMEDY = "make room, or give another folder with -o"
_MOST = 2**16 - 1  # nnU-Net's readers write 16 bits


def check_place(place: Path) -> None:
    """Refuse a place that is no dataset's or is taken.

    Raises:
        UserError: it is.
    """
    if not re.fullmatch(r"Dataset\d{3,}_[\w.-]+", place.name):
        raise UserError(f"-o {place} is no dataset of nnU-Net: name it like Dataset123_Lesions")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{place} exists: delete it, or give another one with -o")
    if not place.resolve().parent.is_dir():
        raise UserError(f"there is no folder {place.resolve().parent}: make it, or give another one with -o")


@contextmanager
def new_dataset(place: Path) -> Iterator[Path]:
    """A hidden folder beside the place, which becomes it on success and is removed on failure."""
    folder = place.with_name(f"{UNFINISHED}{place.name}")
    shutil.rmtree(folder, ignore_errors=True)
    with writing(place, REMEDY):
        folder.mkdir()
    try:
        yield folder
        with writing(place, REMEDY):
            if place.exists():
                place.rmdir()
            folder.rename(place)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_case(
    folder: Path, case: str, files: CaseFiles, image: Image, objects: Objects, classes: Sequence[str], ending: str
) -> None:
    """Write images, label and instance map of a case.

    Ids are kept, unless one is above 65,535: then they are numbered anew, in their order.

    Raises:
        UserError: a case has more objects than an instance map can hold, or a file cannot be written.
    """
    places = {name: folder / f"{name}{files.part}" for name in ("images", "labels", "instances")}
    ids, largest = objects.ids, max(objects.classes, default=0)
    labels = np.zeros(largest + 1, np.uint16)
    for number, name in objects.classes.items():
        labels[number] = classes.index(name) + 1
    with writing(folder, REMEDY):
        for place in places.values():
            place.mkdir(exist_ok=True)
        store_image(files.images, places["images"], case, ending, image)
    label = labels[ids]
    if largest > _MOST:
        if len(objects.classes) > _MOST:
            raise UserError(f"case {case!r} has {len(objects.classes)} objects, and a map holds {_MOST}: crop it")
        numbers = np.zeros(largest + 1, np.uint16)
        numbers[sorted(objects.classes)] = np.arange(1, len(objects.classes) + 1)
        ids = numbers[ids]
    for name, values in (("labels", label), ("instances", ids.astype(np.uint16))):
        write_image(image.reader, values, places[name] / f"{case}{ending}", image.geometry, case)


def write_description(
    folder: Path,
    *,
    channels: Sequence[str],
    classes: Sequence[str],
    n_training: int,
    ending: str,
    reader: str,
    folds: Sequence[Mapping[str, Any]],
) -> None:
    """Write ``dataset.json`` and, with folds, the ``splits_final.json`` that nnU-Net's planning takes from there."""
    description = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, **{name: number for number, name in enumerate(classes, start=1)}},
        "numTraining": n_training,
        "file_ending": ending,
        "overwrite_image_reader_writer": reader,
    }
    with writing(folder, REMEDY):
        (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
        if folds:
            (folder / "splits_final.json").write_text(json.dumps(folds, indent=1), encoding="utf-8")
