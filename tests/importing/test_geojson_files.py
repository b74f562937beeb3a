from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from foreign_labels import outlines
from shapely.geometry import mapping
from skimage.io import imsave

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.geojson_files import GeoJson
from nnunet_instance_trainers.importing.id_images import Objects
from nnunet_instance_trainers.importing.images import open_image

RING = np.zeros((9, 11), bool)
RING[1:7, 2:9] = True
RING[3:5, 4:6] = RING[6, 8] = False


def feature(mask: np.ndarray, classification: object = None) -> dict:
    properties = {} if classification is None else {"classification": classification}
    return {"type": "Feature", "geometry": mapping(outlines(mask)), "properties": properties}


def read(folder: Path, content: object, name: str | None = None, classes: tuple[str, ...] = ("object",)) -> Objects:
    imsave(folder / "a.tif", np.zeros((9, 11), np.uint8), check_contrast=False)
    (folder / "a.geojson").write_text(json.dumps(content))
    source = GeoJson(folder, folder, name)
    files = source.cases()["a"]
    return source.read("a", files, open_image(files.images, "a", None), frozenset(classes))


@pytest.mark.parametrize("shape", ["collection", "list", "feature"])
def test_holes_and_several_pieces_are_drawn_pixel_for_pixel(tmp_path: Path, shape: str) -> None:
    mask = RING.copy()
    mask[8, 0:2] = True  # a second piece
    one = feature(mask)
    assert one["geometry"]["type"] == "MultiPolygon" and len(one["geometry"]["coordinates"]) == 2
    content = {"collection": {"type": "FeatureCollection", "features": [one]}, "list": [one], "feature": one}[shape]
    objects = read(tmp_path, content)
    assert (objects.ids[0] == mask).all() and objects.classes == {1: "object"}


def test_the_classes_of_old_and_new_qupath(tmp_path: Path) -> None:
    parts = [RING & (np.arange(11) < 4), RING & (np.arange(11) > 6), RING & (np.arange(11) == 5)]
    content = [feature(m, c) for m, c in zip(parts, [{"name": "Tumor", "colorRGB": -1}, "Stroma", None])]
    objects = read(tmp_path, content, classes=("Tumor", "Stroma", "object"))
    assert objects.classes == {1: "Tumor", 2: "Stroma", 3: "object"}
    source = GeoJson(tmp_path, tmp_path, None)
    assert source.class_names(source.cases()) == ["Stroma", "Tumor", "object"]
    assert read(tmp_path, content, classes=("Stroma",)).classes == {1: "Stroma"}
    assert read(tmp_path, content, "cell", ("cell",)).classes == dict.fromkeys((1, 2, 3), "cell")


def test_outlines_beyond_the_image_are_cut_off(tmp_path: Path) -> None:
    def square(low: float, high: float) -> dict:
        ring = [[low, low], [high, low], [high, high], [low, high], [low, low]]
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": None}

    objects = read(tmp_path, [square(-3, 2), square(8, 1e12), square(20, 30)])
    assert objects.without_voxels == 1 and (objects.ids[0, :2, :2] == 1).all()
    assert [np.count_nonzero(objects.ids == number) for number in (1, 2)] == [4, 3]


@pytest.mark.parametrize(
    "geometry, says",
    [
        ({"type": "Point", "coordinates": [1, 2]}, "it is a Point"),
        ({"type": "Polygon", "coordinates": []}, ""),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, float("nan")], [4, 4]]]}, "coordinates are numbers"),
        ({"type": "Polygon", "coordinates": [[[1], [2], [3]]]}, "coordinates are numbers"),
        ({"type": "Polygon", "coordinates": [["a", "b"]]}, ""),
        (None, ""),
    ],
)
def test_a_geometry_that_is_no_outline_is_one_line(tmp_path: Path, geometry: object, says: str) -> None:
    good = feature(RING)
    with pytest.raises(UserError, match=f"a.geojson: feature 1 cannot be drawn \\(.*{says}.*: correct it"):
        read(tmp_path, [good, {"type": "Feature", "geometry": geometry}])


@pytest.mark.parametrize("content", [3, {"type": "FeatureCollection"}, [1], {"features": []}])
def test_a_file_that_is_no_geojson(tmp_path: Path, content: object) -> None:
    with pytest.raises(UserError, match="a.geojson is (no GeoJSON of features|damaged, or no JSON).*: export it again"):
        read(tmp_path, content)


def test_images_and_files_go_together(tmp_path: Path) -> None:
    read(tmp_path, [feature(RING)])
    (tmp_path / "b.geojson").write_text("[]")
    with pytest.raises(UserError, match="case 'b' has no image"):
        read(tmp_path, [])
    imsave(tmp_path / "b.tif", np.zeros((9, 11), np.uint8), check_contrast=False)
    imsave(tmp_path / "c.tif", np.zeros((9, 11), np.uint8), check_contrast=False)
    with pytest.raises(UserError, match="case 'c' has no GeoJSON file"):
        read(tmp_path, [])
