"""A fuzz of two files that should lie on one grid: read as meant, or refused with one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_reading import read_labels
from nnunet_instance_trainers.errors import UserError

SAME = ("none", "rounding", "offset of rounding", "other orientation")
OTHER = ("origin", "spacing", "direction", "size", "mirrored")


def affine_of(random: np.random.Generator, spacing: np.ndarray) -> np.ndarray:
    """A rotated grid with an origin far off, as scanners write them."""
    angle = random.uniform(-0.5, 0.5)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned * spacing
    affine[:3, 3] = random.uniform(-300, 300, 3) * spacing
    return affine


def changed(labels: np.ndarray, affine: np.ndarray, fault: str, random: np.random.Generator) -> tuple:
    """Labels (x, y, z) and affine with a fault, which leaves the voxels where they are if it is one of ``SAME``."""
    affine, axis = affine.copy(), int(random.integers(3))
    if fault == "rounding":
        affine *= 1 + random.uniform(-1e-6, 1e-6)
    elif fault == "offset of rounding":
        affine[:3, 3] += affine[:3, axis] * random.uniform(-0.03, 0.03)
    elif fault == "other orientation":
        image = nibabel.Nifti1Image(labels, affine)
        codes = "".join(random.choice(list(pair)) for pair in ("RL", "AP", "SI"))
        start = nibabel.io_orientation(affine)
        image = image.as_reoriented(
            nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(codes))
        )
        return np.asarray(image.dataobj), image.affine
    elif fault == "origin":
        affine[:3, 3] += affine[:3, axis] * random.choice([-1, 1])
    elif fault == "spacing":
        affine[:3, axis] *= random.choice([0.5, 0.99, 1.01, 2])
    elif fault == "direction":
        affine[:3, :3] = np.roll(affine[:3, :3], 1, 0)
    elif fault == "size":
        labels = labels.take(range(labels.shape[axis] - 1), axis)
    elif fault == "mirrored":  # in the header alone
        affine[:3, axis] *= -1
    return labels, affine


def look_at(folder: Path, seed: int) -> str:
    random = np.random.default_rng(seed)
    fault = str(random.choice(SAME + OTHER))
    reorients = fault == "other orientation" or random.random() < 0.5
    readers = (SimpleITKIOWithReorient, NibabelIOWithReorient) if reorients else (SimpleITKIO, NibabelIO)
    reader = readers[random.integers(2)]()
    labels = random.integers(0, 4, random.integers(3, 7, 3)).astype(np.uint8)
    affine = affine_of(random, random.uniform(0.5, 3, 3) * random.choice([1e-3, 1, 100]))
    files = folder / "truth.nii.gz", folder / "prediction.nii.gz"
    for file, (values, own) in zip(files, ((labels, affine), changed(labels, affine, fault, random))):
        nibabel.save(nibabel.Nifti1Image(values, own), file)
    (truth, geometry), (prediction, predicted) = (read_labels(reader, file, "a") for file in files)
    try:
        check_grid(files[1], "a", prediction, predicted, truth, geometry)
    except UserError as error:
        assert "\n" not in str(error) and str(files[1]) in str(error) and " against " in str(error)
        assert fault in OTHER, (seed, fault, str(error))
        return f"{fault}: refused"
    assert fault in SAME, (seed, fault)
    assert np.array_equal(prediction, truth), (seed, fault)
    return f"{fault}: read as meant"


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_grids_that_agree_are_read_and_others_refused(tmp_path: Path, first: int) -> None:
    outcomes = [look_at(tmp_path, seed) for seed in range(first, first + 20)]
    assert {word.split(": ")[1] for word in outcomes} == {"refused", "read as meant"}


@pytest.mark.heavy
def test_two_thousand_made_up_grids(tmp_path: Path) -> None:
    outcomes = Counter(look_at(tmp_path, seed) for seed in range(2000))
    print(dict(sorted(outcomes.items())))
    assert len(outcomes) == len(SAME + OTHER)
