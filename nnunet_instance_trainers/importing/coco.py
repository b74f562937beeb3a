"""Objects as annotations of a COCO file: polygons and run-length codes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.id_images import Drawn, Objects, box_of, paint
from nnunet_instance_trainers.importing.images import CaseFiles, Image, case_name, stem

__all__ = ["Coco"]


@dataclass(frozen=True)
class _Content:
    """What an import takes of a COCO file.

    Attributes:
        images: the entry of each image by the name of its file.
        annotations: by the id of the image.
        categories: names by id.
    """

    images: dict[str, dict[str, Any]]
    annotations: dict[Any, list[dict[str, Any]]]
    categories: dict[Any, str]


@dataclass(frozen=True)
class Coco:
    """A COCO file and the folder of its images.

    Attributes:
        images: the folder that ``file_name`` starts from.
        file: the JSON file.
        name: a class for all objects in place of the file's categories; None to keep those.
    """

    images: Path
    file: Path
    name: str | None

    @staticmethod
    def looks_so(content: Any) -> bool:
        return isinstance(content, dict) and {"images", "annotations"} <= content.keys()

    def cases(self) -> dict[str, CaseFiles]:
        """The files of each case, by the file's own list of images.

        Raises:
            UserError: the file is none of COCO, or an image is missing.
        """
        cases: dict[str, CaseFiles] = {}
        for name in _read(self.file).images:
            path = self.images / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(f"{self.file} names the image {name!r}, which leads out of {self.images}: correct it")
            if not path.is_file():
                raise UserError(f"{self.file} names the image {name!r}, which is not in {self.images}: give its folder")
            case = case_name(str(Path(name).with_name(stem(path))))
            if case in cases:
                raise UserError(f"{self.file} has two images that would be case {case!r}: rename one")
            cases[case] = CaseFiles((path,), (self.file,), key=name)
        return cases

    def class_names(self, cases: Mapping[str, CaseFiles]) -> list[str]:
        """The categories in the order of their ids, as far as an object has them."""
        content = _read(self.file)
        if self.name is not None:
            return [self.name]
        used = {annotation["category_id"] for own in content.annotations.values() for annotation in own}
        return [name for key, name in content.categories.items() if key in used]

    def read(self, case: str, files: CaseFiles, image: Image, classes: frozenset[str]) -> Objects:
        """The objects of a case, numbered by the order of their annotations; crowds are counted and left out.

        Raises:
            UserError: an annotation has no outline, or a damaged one; or the image has another size than the file says.
        """
        content = _read(self.file)
        entry = content.images[files.key]
        shape = (entry["height"], entry["width"])
        if image.shape != (1, *shape):
            raise UserError(
                f"case {case!r}: {files.images[0]} has {image.shape[2]} x {image.shape[1]} pixels, and {self.file} "
                f"says {shape[1]} x {shape[0]}: give the image that was annotated"
            )
        drawn, crowds = [], 0
        for annotation in content.annotations[entry["id"]]:
            name = self.name or content.categories[annotation["category_id"]]
            if name not in classes:
                continue
            if annotation.get("iscrowd"):
                crowds += 1
                continue
            mask = _mask(annotation.get("segmentation"), shape, f"{self.file}: annotation {annotation.get('id')}")[None]
            box = box_of(mask)
            drawn.append(Drawn(name, box, mask[box]))
        return replace(paint(image.shape, drawn), crowds=crowds)


@lru_cache(maxsize=2)  # each worker reads it once; a file may hold thousands of images
def _read(file: Path) -> _Content:
    content = read_json(file, "give a COCO file with -l")
    try:
        images = {entry["file_name"]: entry for entry in content["images"]}
        sizes = [entry[side] for entry in images.values() for side in ("height", "width")]
        categories = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
            if annotation["category_id"] not in categories:
                raise ValueError(f"annotation {annotation.get('id')} has no category of the file")
        if not all(isinstance(size, int) and size > 0 for size in sizes) or not images:
            raise ValueError("sizes of images are missing")
        ids = {entry["id"] for entry in images.values()}
        if not all(isinstance(name, str) for name in images) or len(ids) < len(images):
            raise ValueError("images have no ids or names of their own")
        if annotations.keys() - ids:
            raise ValueError(f"it has annotations of image {next(iter(annotations.keys() - ids))!r}, but no such image")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is no COCO file of instances ({error}): export it again") from None
    return _Content(images, annotations, dict(sorted(categories.items(), key=lambda item: str(item[0]).zfill(20))))


def _mask(segmentation: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """(H, W) bool of one annotation.

    pycocotools works in C and trusts what it is given, so numbers are looked at first.
    """
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise UserError(
            "COCO files are read with pycocotools: run 'pip install nnunet-instance-trainers[import]'"
        ) from None
    try:
        if isinstance(segmentation, list) and segmentation:
            for polygon in segmentation:
                _check_polygon(polygon, shape)
            codes = coco.merge(coco.frPyObjects(segmentation, *shape))
        else:
            if list(segmentation["size"]) != list(shape):
                raise ValueError(f"its size is {segmentation['size']}, the image's {list(shape)}")
            codes = segmentation
            if isinstance(segmentation["counts"], list):
                counts = np.array(segmentation["counts"], dtype=np.int64)
                if counts.min() < 0 or counts.sum() != shape[0] * shape[1]:
                    raise ValueError("its counts do not fill the image")
                codes = coco.frPyObjects(segmentation, *shape)
        return coco.decode(codes).astype(bool)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        reason = "it has no outline" if segmentation in (None, []) else error
        raise UserError(f"{where} cannot be drawn ({reason}): correct it, or take it away") from None


def _check_polygon(polygon: Any, shape: tuple[int, int]) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon has three pairs of x and y or more")
    if not all(isinstance(value, (int, float)) and isfinite(value) for value in polygon):
        raise ValueError("a polygon's coordinates are numbers")
    if min(polygon) < -max(shape) or max(polygon[0::2]) > 2 * shape[1] or max(polygon[1::2]) > 2 * shape[0]:
        raise ValueError("a polygon lies far outside of the image")
