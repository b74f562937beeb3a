"""Which kind of labels lies at a place, and several places as one source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.coco import Coco
from nnunet_instance_trainers.importing.geojson_files import GeoJson, files_in
from nnunet_instance_trainers.importing.id_images import Objects, merge
from nnunet_instance_trainers.importing.images import CaseFiles, Image
from nnunet_instance_trainers.importing.label_maps import LabelMaps, RawLabels
from nnunet_instance_trainers.importing.object_masks import ObjectMasks

__all__ = ["Source", "Together", "find_source"]

CLASS = "object"
"""The class of objects that nobody named."""


class Source(Protocol):
    """A family of formats."""

    def cases(self) -> dict[str, CaseFiles]:
        """The files of each case."""

    def class_names(self, cases: Mapping[str, CaseFiles]) -> list[str]:
        """The classes that objects have, in the order of their labels."""

    def read(self, case: str, files: CaseFiles, image: Image, classes: frozenset[str]) -> Objects:
        """The objects of a case, of these classes."""


@dataclass(frozen=True)
class Together:
    """Several sources of the same cases, one for each class, say.

    Attributes:
        parts: the sources.
    """

    parts: tuple[Source, ...]

    def cases(self) -> dict[str, CaseFiles]:
        """The files of each case, those of all sources one after the other.

        Raises:
            UserError: one source has a case that another one lacks.
        """
        all_cases = [_cases(part) for part in self.parts]
        for number, cases in enumerate(all_cases):
            lacking = set().union(*all_cases) - cases.keys()
            if lacking:
                raise UserError(
                    f"case {min(lacking)!r} is missing in source {number + 1} of -l: add it there, empty too"
                )
        return all_cases[0]

    def class_names(self, cases: Mapping[str, CaseFiles]) -> list[str]:
        return list(dict.fromkeys(name for part in self.parts for name in part.class_names(_cases(part))))

    def read(self, case: str, files: CaseFiles, image: Image, classes: frozenset[str]) -> Objects:
        return merge([part.read(case, _cases(part)[case], image, classes) for part in self.parts])


@lru_cache(maxsize=32)  # each case asks for the files of its source
def _cases(source: Source) -> dict[str, CaseFiles]:
    return source.cases()


def find_source(images: Path, places: Sequence[str], suffix: str | None) -> Source:
    """The source of the objects at some places.

    Args:
        images: the folder of images; with no place a raw dataset of nnU-Net, or a folder that holds the labels too.
        places: paths, each with or without ``CLASS=`` before it.
        suffix: what comes after the case in the names of maps.

    Raises:
        UserError: nothing is there that is known.
    """
    if not places and (images / "dataset.json").is_file():
        return RawLabels(images, CLASS)
    sources = [_find(images, *_split(place), suffix) for place in places or [str(images)]]
    return sources[0] if len(sources) == 1 else Together(tuple(sources))


def _split(place: str) -> tuple[str | None, Path]:
    name, equals, path = place.partition("=")
    return (name, Path(path)) if equals and not Path(place).exists() else (None, Path(place))


def _find(images: Path, name: str | None, place: Path, suffix: str | None) -> Source:
    if place.is_file():
        if Coco.looks_so(read_json(place, "give a COCO file, or a folder")):
            return Coco(images, place, name)
        raise UserError(f"{place} is no COCO file: of maps, masks and GeoJSON files give the folder")
    if (place / "dataset.json").is_file():
        return RawLabels(place, name or CLASS)
    if place.is_dir() and files_in(place):
        return GeoJson(images, place, name)
    if ObjectMasks.looks_so(place):
        return ObjectMasks(images, place, name or CLASS)
    return LabelMaps(images, place, name or CLASS, suffix)
