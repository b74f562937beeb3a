"""Objects as polygons of GeoJSON files, one file for each image, as QuPath exports them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon as draw_polygon

from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.id_images import Drawn, Objects, paint
from nnunet_instance_trainers.importing.images import CaseFiles, Image, group_channels, list_images, stem

__all__ = ["GeoJson"]

UNCLASSIFIED = "object"
"""The class of objects that have none."""


@dataclass(frozen=True)
class GeoJson:
    """A folder of GeoJSON files, each named as its image.

    Attributes:
        images: the folder of images.
        folder: that of the files.
        name: a class for all objects in place of QuPath's classifications; None to keep those.
    """

    images: Path
    folder: Path
    name: str | None

    def cases(self) -> dict[str, CaseFiles]:
        """The files of each case.

        Raises:
            UserError: an image has no file, or a file no image.
        """
        files = {_name(path): path for path in files_in(self.folder)}
        images = group_channels(list_images(self.images), files.__contains__)
        for lacking, what in ((files.keys() - images.keys(), "image"), (images.keys() - files.keys(), "GeoJSON file")):
            if lacking:
                raise UserError(f"case {min(lacking)!r} has no {what}: add it, or take the case away")
        return {case: CaseFiles(own, (files[case],)) for case, own in images.items()}

    def class_names(self, cases: Mapping[str, CaseFiles]) -> list[str]:
        """The names of the classifications, sorted."""
        if self.name is not None:
            return [self.name]
        return sorted({name for own in cases.values() for name, _ in _features(own.objects[0])})

    def read(self, case: str, files: CaseFiles, image: Image, classes: frozenset[str]) -> Objects:
        """The objects of a case, numbered by their order in the file.

        A pixel belongs to an object if its centre lies inside; the first pixel reaches from 0 to 1.

        Raises:
            UserError: the image is no flat one, or a geometry is no polygon.
        """
        (file,) = files.objects
        if image.shape[0] != 1:
            raise UserError(f"case {case!r}: {files.images[0]} is a volume, and {file} has outlines of flat objects")
        drawn = []
        for number, (name, geometry) in enumerate(_features(file)):
            if (self.name or name) in classes:
                try:
                    drawn.append(_draw(self.name or name, geometry, image.shape[1:]))
                except (ValueError, TypeError, KeyError, IndexError) as error:
                    raise UserError(
                        f"{file}: feature {number} cannot be drawn ({error}): correct it, or take it away"
                    ) from None
        return paint(image.shape, drawn)


def files_in(folder: Path) -> list[Path]:
    """GeoJSON files in a folder."""
    return sorted(folder.glob("[!.]*.geojson"))


def _name(path: Path) -> str:
    """QuPath names an export as the image, with or without its ending."""
    return stem(Path(path.name.removesuffix(".geojson")))


def _features(file: Path) -> Iterator[tuple[str, Any]]:
    """Name of the class and geometry of each feature of a file, which may be a collection, a list or one feature."""
    content = read_json(file, "export it again", dict, list)
    try:
        if isinstance(content, dict):
            content = content["features"] if content["type"] == "FeatureCollection" else [content]
        found = [(_class(feature.get("properties") or {}), feature["geometry"]) for feature in content]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{file} is no GeoJSON of features: export it again") from None
    yield from found


def _class(properties: Mapping[str, Any]) -> str:
    classification = properties.get("classification")
    if isinstance(classification, Mapping):
        classification = classification.get("name")
    return str(classification) if classification else UNCLASSIFIED


def _draw(name: str, geometry: Any, shape: tuple[int, ...]) -> Drawn:
    """Fill polygons (H, W): each ring turns its inside over, so that inner rings are holes."""
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"it is a {kind}, and objects are Polygon or MultiPolygon")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    rings = [[np.array(ring, float)[:, :2] for ring in polygon] for polygon in polygons]
    points = np.concatenate([ring for polygon in rings for ring in polygon])
    if points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("its coordinates are numbers")
    low = np.clip(np.floor(points.min(0)).astype(int), 0, shape[::-1])
    high = np.clip(np.ceil(points.max(0)).astype(int), low, shape[::-1])
    mask = np.zeros((high - low)[::-1], bool)
    for polygon in rings:
        own = np.zeros_like(mask)
        for ring in polygon:
            x, y = (ring - low - 0.5).T
            own[draw_polygon(y, x, mask.shape)] ^= True
        mask |= own
    return Drawn(name, (slice(0, 1), *(slice(a, b) for a, b in zip(low[::-1], high[::-1]))), mask[None])
