"""Folders of segmentations for the command ``objects``, and what it writes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from geometry import random_labels
from made_up_files import write
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.data.text_files import read_table

LABELS = {"background": 0, "lesion": 1, "organ": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
SHAPE, SPACING, ORIGIN = (7, 12, 9), (0.5, 0.75, 3.0), (10.5, -20.25, 3.0)  # the spacing as headers have it
VOXEL_ML = 0.5 * 0.75 * 3 / 1000


def image(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    drawn = random_labels(shape, 5, seed, batch=1)[0].numpy()
    return np.where(drawn > 0, 1 + drawn % 2, 0).astype(np.uint8)


IMAGES = {"a": image(3), "b": image(4), "c": np.zeros(SHAPE, np.uint8)}


def folder(
    path: Path,
    images: Mapping[str, np.ndarray] = IMAGES,
    labels: dict = LABELS,
    ending: str = ".nii.gz",
    reader: type = SimpleITKIO,
    direction: np.ndarray | None = None,
    **more: object,
) -> Path:
    """A folder of segmentations with its dataset.json."""
    path.mkdir(parents=True)
    for case, array in images.items():
        write(path / f"{case}{ending}", array, reader, spacing=SPACING, origin=ORIGIN, direction=direction)
    (path / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending, **more}))
    return path


def objects(predictions: Path, *options: object) -> Path:
    """Run the command; where its tables are."""
    output = predictions.with_name("out")
    cli.main(["objects", "-i", str(predictions), "-o", str(output), "-np", "1", *map(str, options)])
    return output


def table(output: Path, name: str = "objects") -> list[dict[str, str]]:
    return read_table(output / f"{name}.csv", "")


def numbers(row: dict[str, str], *names: str) -> list[float]:
    return [float(row[name]) for name in names]


def stored(output: Path, case: str, part: str = "", ending: str = ".nii.gz") -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(output / "instances" / part / f"{case}{ending}")))


def line_of(*words: object) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["objects", *map(str, words), "-np", "1"])
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


BEFORE = {
    "a": [".xx......", ".xxx.....", "xxxxx....", "xxxx.....", "xx.xxx...", ".xxxxx...", "..xxx...."],
    "b": ["xx.......", ".........", ".........", ".........", ".........", ".........", "........."],
}
NOW = {
    "a": [".........", ".xxxxx...", "xxx......", "xxxx.....", ".xxxx....", ".xx.xx...", "........."],
    "b": ["xx.......", ".........", "....xxxx.", ".........", ".........", ".........", "........."],
}


def planes(lines: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """A slice for each line, with an empty one between."""
    return {
        case: np.stack(
            [np.pad(np.array([[letter == "x" for letter in own]], np.uint8), ((2, 2), (0, 0))) for own in every]
        ).repeat(2, 0)
        * (np.arange(2 * len(every)) % 2 == 0)[:, None, None].astype(np.uint8)
        for case, every in lines.items()
    }
