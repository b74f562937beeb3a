from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from foreign_labels import save_volume
from skimage.io import imread, imsave

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.images import CaseFiles, case_name, open_image, store_image, stored_ending

STACK = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)


def test_names_of_cases_lead_nowhere() -> None:
    assert case_name("train/a b.c") == "train_a_b.c" and case_name("../../x") == "_.._x"
    with pytest.raises(UserError, match="is no name for a case"):
        case_name("..")


@pytest.mark.parametrize(
    "unit, mm", [("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("mm", 1), ("cm", 10), ("pixel", None)]
)
def test_imagejs_own_spacing(tmp_path: Path, unit: str, mm: float | None) -> None:
    words = {"axes": "ZYX", "spacing": 3.0, "unit": unit}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, resolution=(4, 2), metadata=words)
    spacing = open_image([tmp_path / "a.tif"], "a", None).geometry["spacing"]
    assert spacing == pytest.approx([1, 1, 1] if mm is None else [3 * mm, 0.5 * mm, 0.25 * mm])
    assert open_image([tmp_path / "a.tif"], "a", (5, 6, 7)).geometry["spacing"] == [5, 6, 7]
    (tmp_path / "a.json").write_text('{"spacing": [7, 8, 9]}')
    assert open_image([tmp_path / "a.tif"], "a", None).geometry["spacing"] == [7, 8, 9]
    (tmp_path / "a.json").write_text('{"spacing": [7, 8]}')
    with pytest.raises(UserError, match="a.json has no spacing of three numbers above 0"):
        open_image([tmp_path / "a.tif"], "a", None)


def test_a_tiff_of_channels_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(UserError, match="has the axes CYX, .* save them as a_0000.tif, a_0001.tif"):
        open_image([tmp_path / "a.tif"], "a", None)


def files(*paths: Path) -> list[CaseFiles]:
    return [CaseFiles((path,), ()) for path in paths]


def test_one_ending_for_all(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.tif", "d.tiff"):
        imsave(tmp_path / name, np.zeros((6, 7), np.uint8), check_contrast=False)
    tifffile.imwrite(tmp_path / "e.tif", STACK, photometric="minisblack")
    save_volume(STACK, tmp_path / "f.nii.gz")
    save_volume(STACK, tmp_path / "g.nrrd")
    a, b, c, d, e, f, g = (tmp_path / n for n in ("a.png", "b.jpg", "c.tif", "d.tiff", "e.tif", "f.nii.gz", "g.nrrd"))
    assert stored_ending(files(a, b, c)) == (".png", "NaturalImage2DIO")
    assert stored_ending(files(c, d)) == (".tif", "NaturalImage2DIO")
    assert stored_ending(files(e)) == (".tif", "Tiff3DIO")
    assert stored_ending(files(f)) == (".nii.gz", "SimpleITKIO")
    for mixed in (files(f, g), files(a, e), files(a, f)):
        with pytest.raises(UserError, match="differ in kind, and nnU-Net takes one"):
            stored_ending(mixed)


def stored(tmp_path: Path, source: Path, ending: str) -> np.ndarray:
    image = open_image([source], "a", None)
    store_image([source], tmp_path, "a", ending, image)
    return imread(tmp_path / f"a_0000{ending}")


def test_pixels_are_stored_as_they_are_without_alpha(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 7, 4), np.uint8)
    imsave(tmp_path / "rgba.png", colours, check_contrast=False)
    assert open_image([tmp_path / "rgba.png"], "a", None).channels == 3
    assert (stored(tmp_path, tmp_path / "rgba.png", ".png") == colours[..., :3]).all()
    imsave(tmp_path / "grey.tif", colours[..., 0].astype(np.uint16) * 200, check_contrast=False)
    assert (stored(tmp_path, tmp_path / "grey.tif", ".png") == colours[..., 0].astype(np.uint16) * 200).all()
    imsave(tmp_path / "colours.bmp", colours[..., :3], check_contrast=False)
    assert (stored(tmp_path, tmp_path / "colours.bmp", ".png") == colours[..., :3]).all()
    imsave(tmp_path / "float.tif", colours[..., 0] / 7, check_contrast=False)
    with pytest.raises(UserError, match="has float64 values, which PNG does not hold"):
        stored(tmp_path, tmp_path / "float.tif", ".png")


def test_a_stack_takes_its_spacing_along(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "s.tif", STACK, photometric="minisblack")
    image = open_image([tmp_path / "s.tif"], "a", (2.5, 0.1, 0.3))
    (tmp_path / "out").mkdir()
    store_image([tmp_path / "s.tif"], tmp_path / "out", "a", ".tif", image)
    assert json.loads((tmp_path / "out" / "a.json").read_text()) == {"spacing": [2.5, 0.1, 0.3]}
    again = image.reader.read_images([str(tmp_path / "out" / "a_0000.tif")])
    assert (again[0][0] == STACK).all() and again[1]["spacing"] == [2.5, 0.1, 0.3]
