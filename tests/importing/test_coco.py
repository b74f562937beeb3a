from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imsave

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.coco import Coco
from nnunet_instance_trainers.importing.id_images import Objects
from nnunet_instance_trainers.importing.images import open_image

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]


def write(folder: Path, *annotations: dict, **changes) -> Path:
    imsave(folder / "a.png", np.zeros((6, 7), np.uint8), check_contrast=False)
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": 6, "width": 7}],
        "categories": [{"id": 10, "name": "late"}, {"id": 9, "name": "early"}, {"id": 1, "name": "unused"}],
        "annotations": [{"id": n, "image_id": 5, "category_id": 9, **one} for n, one in enumerate(annotations)],
        **changes,
    }
    file = folder / f"{len(list(folder.iterdir()))}.json"  # files that were read are remembered
    file.write_text(json.dumps(content))
    return file


def read(folder: Path, file: Path, name: str | None = None, classes: tuple[str, ...] = ("early", "late")) -> Objects:
    source = Coco(folder, file, name)
    files = source.cases()["a"]
    return source.read("a", files, open_image(files.images, "a", None), frozenset(classes))


def test_polygons_crowds_and_classes(tmp_path: Path) -> None:
    far = [5, 4, 7, 4, 7, 6, 5, 6]
    file = write(
        tmp_path,
        {"segmentation": [SQUARE, far]},
        {"segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]], "category_id": 10},
        {"segmentation": {"size": [6, 7], "counts": [0, 42]}, "iscrowd": 1},
    )
    assert Coco(tmp_path, file, None).class_names({}) == ["early", "late"]
    objects = read(tmp_path, file)
    assert objects.crowds == 1 and objects.overlapping == 2 and objects.classes == {1: "early", 2: "late"}
    assert [np.count_nonzero(objects.ids == number) for number in (1, 2)] == [8, 6]
    assert (objects.ids[0, 4:, 5:] == 1).all()
    assert read(tmp_path, file, classes=("late",)).classes == {1: "late"}
    assert Coco(tmp_path, file, "cell").class_names({}) == ["cell"]
    assert read(tmp_path, file, "cell", ("cell",)).classes == {1: "cell", 2: "cell"}


@pytest.mark.parametrize(
    "segmentation, says",
    [
        (None, "it has no outline"),
        ([], "it has no outline"),
        ([[1, 1, 2, 2]], "three pairs of x and y"),
        ([[1, 1, 2, 2, 3, 1, 4]], "three pairs of x and y"),
        ([[1, 1, 2, 2, 3, "1"]], "coordinates are numbers"),
        ([[1, 1, 2, 2, 3, float("inf")]], "coordinates are numbers"),
        ([[1, 1, 1e9, 2, 3, 3]], "lies far outside"),
        ({"size": [6, 7], "counts": [0, 43]}, "its counts do not fill the image"),
        ({"size": [6, 7], "counts": [50, -8]}, "its counts do not fill the image"),
        ({"size": [60, 70], "counts": [0, 4200]}, "its size is"),
        ({"size": [6, 7], "counts": "PPYo0" * 20}, ""),
        ({"size": [6, 7]}, "counts"),
        ("text", ""),
    ],
)
def test_an_outline_that_cannot_be_drawn_is_one_line(tmp_path: Path, segmentation: object, says: str) -> None:
    file = write(tmp_path, {"segmentation": [SQUARE]}, {"segmentation": segmentation})
    with pytest.raises(UserError, match=f"annotation 1 cannot be drawn \\(.*{says}.*: correct it") as caught:
        read(tmp_path, file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "x/../../a.png"])
def test_images_are_in_their_folder(tmp_path: Path, name: str) -> None:
    entry = {"id": 5, "file_name": name, "height": 6, "width": 7}
    with pytest.raises(UserError, match="which leads out of"):
        Coco(tmp_path, write(tmp_path, images=[entry]), None).cases()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"images": [{"id": 5, "file_name": "b.png", "height": 6, "width": 7}]}, "'b.png', which is not in"),
        ({"images": [{"id": 5, "file_name": "a.png", "height": 6}]}, "is no COCO file of instances \\('width'\\)"),
        ({"images": []}, "sizes of images are missing"),
        ({"categories": []}, "annotation 0 has no category"),
        ({"images": [{"id": 6, "file_name": "a.png", "height": 6, "width": 7}]}, "annotations of image 5, but no such"),
        ({"images": [{"id": 5, "file_name": "a.png", "height": 7, "width": 6}]}, "has 7 x 6 pixels, and .* says 6 x 7"),
        ({"annotations": 3}, "is no COCO file of instances"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, changes: dict, says: str) -> None:
    file = write(tmp_path, {"segmentation": [SQUARE]}, **changes)
    with pytest.raises(UserError, match=says):
        read(tmp_path, file)
