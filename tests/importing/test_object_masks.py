from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.io import imsave

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.id_images import Objects
from nnunet_instance_trainers.importing.images import open_image
from nnunet_instance_trainers.importing.object_masks import ObjectMasks


def put(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, mask.astype(np.uint8), check_contrast=False)


def square(*place: slice, value: int = 255) -> np.ndarray:
    mask = np.zeros((6, 7))
    mask[place] = value
    return mask


def read(images: Path, folder: Path) -> Objects:
    source = ObjectMasks(images, folder, "cell")
    files = source.cases()["a"]
    return source.read("a", files, open_image(files.images, "a", None), frozenset({"cell"}))


@pytest.mark.parametrize("place", ["a/masks", "a"])
def test_each_mask_is_an_object_and_overlaps_are_counted(tmp_path: Path, place: str) -> None:
    put(tmp_path / "images" / "a.png", square())
    masks = [square(np.s_[:3], np.s_[:3]), square(np.s_[2:4], np.s_[2:4]), square(np.s_[5:], np.s_[5:], value=1)]
    for number, mask in enumerate(masks):
        put(tmp_path / "objects" / place / f"{number}.png", mask)
    assert ObjectMasks.looks_so(tmp_path / "objects") and not ObjectMasks.looks_so(tmp_path / "images")
    objects = read(tmp_path / "images", tmp_path / "objects")
    assert objects.overlapping == 2 and objects.classes == dict.fromkeys((1, 2, 3), "cell")
    assert [np.count_nonzero(objects.ids == number) for number in (1, 2, 3)] == [8, 4, 2]


def test_a_folder_without_masks_is_an_image_without_objects(tmp_path: Path) -> None:
    put(tmp_path / "a" / "images" / "whatever.png", square())
    (tmp_path / "a" / "masks").mkdir()
    assert read(tmp_path, tmp_path).classes == {}


def test_what_does_not_fit(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", square())
    put(tmp_path / "objects" / "a" / "1.png", np.arange(42).reshape(6, 7))
    with pytest.raises(UserError, match="1.png has 41 values beside 0, and a mask of one object has one"):
        read(tmp_path / "images", tmp_path / "objects")
    put(tmp_path / "objects" / "a" / "1.png", np.ones((7, 6)))
    with pytest.raises(UserError, match="1.png differs from its image in size"):
        read(tmp_path / "images", tmp_path / "objects")
    put(tmp_path / "images" / "b.png", square())
    with pytest.raises(UserError, match="case 'b' has no folder of masks"):
        read(tmp_path / "images", tmp_path / "objects")
    (tmp_path / "images" / "b.png").unlink()
    (tmp_path / "objects" / "c").mkdir()
    with pytest.raises(UserError, match="case 'c' has no image"):
        read(tmp_path / "images", tmp_path / "objects")
