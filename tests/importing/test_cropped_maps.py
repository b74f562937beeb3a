from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from foreign_labels import save_volume

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.images import CaseFiles, open_image
from nnunet_instance_trainers.importing.label_maps import LabelMaps

IDS = np.random.default_rng(0).integers(0, 4, (6, 7, 8)).astype(np.uint8)


def read(folder: Path, crop: sitk.Image, name: str = "a.seg.nrrd") -> np.ndarray:
    save_volume(IDS, folder / "a.nii.gz")
    sitk.WriteImage(crop, str(folder / name))
    image = open_image([folder / "a.nii.gz"], "a", None)
    files = CaseFiles((folder / "a.nii.gz",), (folder / name,))
    return LabelMaps(folder, folder, "cell").read("a", files, image, frozenset({"cell"})).ids


@pytest.fixture
def whole(tmp_path: Path) -> sitk.Image:
    """Anisotropic and turned."""
    save_volume(IDS, tmp_path / "whole.nrrd")
    return sitk.ReadImage(str(tmp_path / "whole.nrrd"))


def test_a_cropped_map_is_put_where_it_was(tmp_path: Path, whole: sitk.Image) -> None:
    box = np.s_[1:4, 2:7, 3:6]
    expected = np.zeros_like(IDS)
    expected[box] = IDS[box]
    assert (read(tmp_path, whole[3:6, 2:7, 1:4]) == expected).all()
    assert (read(tmp_path, whole) == IDS).all()


@pytest.mark.parametrize("name", ["a.nrrd", "a_label.nii.gz"])
def test_a_smaller_map_of_another_program_is_refused(tmp_path: Path, whole: sitk.Image, name: str) -> None:
    """Cases often share their origin and spacing, so it may be that of another case."""
    with pytest.raises(UserError, match=f"{name} differs from its image in size"):
        read(tmp_path, whole[3:6, 2:7, 1:4], name)


@pytest.mark.parametrize("change", ["half a voxel", "outside", "spacing", "direction"])
def test_what_is_no_box_of_the_grid_is_refused(tmp_path: Path, whole: sitk.Image, change: str) -> None:
    crop = whole[3:6, 2:7, 1:4]
    if change == "spacing":
        crop.SetSpacing((0.9, 0.8, 2.4))
    elif change == "direction":
        crop.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    else:
        step = 0.5 if change == "half a voxel" else 4
        crop.SetOrigin(crop.TransformContinuousIndexToPhysicalPoint((step, 0.0, 0.0)))
    with pytest.raises(UserError, match="a.seg.nrrd differs from its image in size: 3 x 5 x 3 against 8 x 7 x 6"):
        read(tmp_path, crop)
