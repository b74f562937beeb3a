"""The images of an import: which there are, which of nnU-Net's readers reads each, and as what it is stored."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage.io import imread, imsave

from nnunet_instance_trainers.data.label_reading import read_image
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.data.whole_files import check_whole
from nnunet_instance_trainers.errors import UserError

__all__ = [
    "CaseFiles",
    "Image",
    "case_name",
    "group_channels",
    "list_images",
    "open_image",
    "reader_of",
    "stem",
    "store_image",
    "stored_ending",
]

_FLAT = (".png", ".bmp", ".jpg", ".jpeg")
_TIFF = (".tif", ".tiff")
_VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")
_ENDINGS = (*_FLAT, *_TIFF, *_VOLUMES)
_IN_MM = {"nm": 1e-6, "um": 1e-3, "µm": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3, "mm": 1.0, "cm": 10.0}


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case.

    Attributes:
        images: one for each channel, or one with several.
        objects: what holds its objects.
        part: ``"Tr"`` or ``"Ts"``, as nnU-Net's folders end.
        key: by which ``objects`` knows the case, where several cases share a file.
    """

    images: tuple[Path, ...]
    objects: tuple[Path, ...]
    part: str = "Tr"
    key: str = ""


@dataclass(frozen=True)
class Image:
    """What an import needs to know of a case's image.

    Attributes:
        reader: nnU-Net's, that read it and writes labels beside it.
        shape: (*S) with one slice for a flat image.
        geometry: of the reader's kind.
        channels: their number, without alpha.
        located: whether the format says where its voxels lie.
    """

    reader: BaseReaderWriter
    shape: tuple[int, ...]
    geometry: dict[str, Any]
    channels: int
    located: bool


# --- files -------------------------------------------------------------------------------------------------


def stem(path: Path) -> str:
    """The name of an image without its ending.

    Example:
        >>> stem(Path("a/b.seg.nii.gz")), stem(Path("c.d.TIF")), stem(Path("notes.txt"))
        ('b.seg', 'c.d', 'notes.txt')
    """
    ending = _ending(path)
    return path.name[: -len(ending)] if ending else path.name


def _ending(path: Path) -> str:
    name = path.name.lower()
    return next((ending for ending in _ENDINGS if name.endswith(ending)), "")


def list_images(folder: Path) -> list[Path]:
    """The images in a folder, hidden files left out.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the one that holds the images")
    images = sorted(path for path in folder.glob("[!.]*") if path.is_file() and _ending(path))
    if not images:
        raise UserError(f"{folder} has no images: known endings are {', '.join(_ENDINGS)}")
    return images


def group_channels(images: Iterable[Path], has_objects: Callable[[str], bool]) -> dict[str, tuple[Path, ...]]:
    """Images by case: nnU-Net's ``CASE_0000`` and ``CASE_0001`` are two channels if ``CASE`` has objects.

    Args:
        images: of one folder.
        has_objects: whether there is a case of that name; a file's full name is tried first.

    Raises:
        UserError: a case has two images that are no channels.
    """
    cases: dict[str, list[Path]] = {}
    for path in images:
        own = stem(path)
        base = re.sub(r"_\d{4}$", "", own)
        cases.setdefault(own if has_objects(own) or not has_objects(base) else base, []).append(path)
    for case, files in cases.items():
        expected = [f"{case}_{number:04d}" for number in range(len(files))]
        if [stem(path) for path in files] not in ([case], expected):
            raise UserError(
                f"case {case!r} has the images {', '.join(path.name for path in files)}: one is wanted, or one for "
                f"each channel under the names {case}_0000, {case}_0001 ..."
            )
    return {case: tuple(files) for case, files in cases.items()}


def case_name(text: str) -> str:
    """A name for a case's files: no folders, and letters that nnU-Net and shells take as they are.

    Raises:
        UserError: nothing is left.
    """
    name = re.sub(r"[^\w.+-]+", "_", text).lstrip(".")
    if not name:
        raise UserError(f"{text!r} is no name for a case: rename its file")
    return name


# --- reading -----------------------------------------------------------------------------------------------


def reader_of(path: Path, *, is_map: bool = False) -> BaseReaderWriter:
    """The reader of nnU-Net for a file, by its ending and, of a TIFF, by its axes.

    Args:
        path: of the file.
        is_map: whether it holds ids; then an axis that calls itself channels, as some write for want of axes, is z.

    Raises:
        UserError: a TIFF is cut off, or has axes beside x, y and z.
    """
    ending = _ending(path)
    if ending in _FLAT:
        return NaturalImage2DIO()
    if ending not in _TIFF:
        return SimpleITKIO()
    check_whole(path)
    with tifffile.TiffFile(path) as tiff:
        axes = tiff.series[0].axes
    if len(axes) == 2 or (len(axes) == 3 and axes.endswith("S")):
        return NaturalImage2DIO()
    if len(axes) != 3 or ("C" in axes and not is_map):
        raise UserError(
            f"{path} has the axes {axes}, and nnU-Net takes one file for each channel: save them as "
            f"{stem(path)}_0000.tif, {stem(path)}_0001.tif ..., or with axes ZYX if they are slices"
        )
    return Tiff3DIO()


def open_image(files: Sequence[Path], case: str, spacing: Sequence[float] | None) -> Image:
    """Read a case's image, all of it, since only then it is known to be whole.

    Args:
        files: one for each channel, or one with several.
        case: its name, for messages.
        spacing: z, y, x of TIFF volumes in mm, over what they say themselves; None to believe them.

    Raises:
        UserError: a file cannot be read.
    """
    reader = reader_of(files[0])
    voxels, geometry = read_image(reader, files, case)
    channels = len(voxels)
    if isinstance(reader, NaturalImage2DIO) and len(files) == 1 and channels == 4:
        channels = 3
    image = Image(reader, voxels.shape[1:], geometry, channels, located=isinstance(reader, SimpleITKIO))
    if isinstance(reader, Tiff3DIO):
        return replace(image, geometry={"spacing": list(spacing or _tiff_spacing(files[0]))})
    return image


def _tiff_spacing(path: Path) -> list[float]:
    """z, y, x in mm of a TIFF volume, from the JSON file beside it or else from ImageJ's own words; 1 without."""
    beside = path.with_name(f"{stem(path)}.json")
    for file in (beside, beside.with_name(re.sub(r"_\d{4}$", "", beside.stem) + ".json")):
        if file.is_file():
            try:
                values = [float(value) for value in read_json(file, "correct it, or give --spacing")["spacing"]]
            except (KeyError, TypeError, ValueError):
                values = []
            if len(values) != 3 or not all(0 < value < float("inf") for value in values):
                raise UserError(f"{file} has no spacing of three numbers above 0: correct it, or give --spacing")
            return values
    with tifffile.TiffFile(path) as tiff:
        words, tags = tiff.imagej_metadata or {}, tiff.pages[0].tags
        mm = _IN_MM.get(str(words.get("unit", "")).lower())
        if mm is None:
            return [1.0, 1.0, 1.0]
        edges = [below / above * mm for above, below in (tags[f"{axis}Resolution"].value for axis in "YX")]
        return [float(words.get("spacing", 1)) * mm, *edges]


# --- storing -----------------------------------------------------------------------------------------------


def stored_ending(cases: Iterable[CaseFiles]) -> tuple[str, str]:
    """The ending that all images of the dataset get, and the name of nnU-Net's reader for it.

    Flat images become PNG, which holds what JPEG and BMP hold, unless all are TIFF.

    Raises:
        UserError: nnU-Net takes one ending, and these would need several.
    """
    examples: dict[tuple[str, type], Path] = {}
    for files in cases:
        for path in files.images:
            ending = _ending(path)
            kind = (ending, type(reader_of(path)))
            examples.setdefault(kind, path)
    readers = {reader for _, reader in examples}
    endings = {ending for ending, _ in examples}
    if readers == {NaturalImage2DIO}:
        return (".tif" if endings <= set(_TIFF) else ".png"), "NaturalImage2DIO"
    if readers == {Tiff3DIO}:
        return ".tif", "Tiff3DIO"
    if len(examples) > 1:
        (first, second, *_) = examples.values()
        raise UserError(
            f"{first} and {second} differ in kind, and nnU-Net takes one for all images: save them alike, or import "
            "them as two datasets"
        )
    return endings.pop(), readers.pop().__name__


def store_image(files: Sequence[Path], target: Path, case: str, ending: str, image: Image) -> None:
    """Store a case's channels as ``CASE_0000`` and so on: copied, or where the ending changes as PNG or TIFF.

    Raises:
        UserError: PNG cannot hold its values.
    """
    for number, source in enumerate(files):
        file = target / f"{case}_{number:04d}{ending}"
        flat = isinstance(image.reader, NaturalImage2DIO)
        kept = _ending(source) == ending or not flat or (ending == ".tif" and _ending(source) == ".tiff")
        pixels = imread(source) if flat else None
        if kept and (pixels is None or pixels.ndim == 2 or pixels.shape[-1] == 3):
            shutil.copyfile(source, file)
            continue
        assert pixels is not None
        pixels = pixels[..., :3] if pixels.ndim == 3 else pixels
        if ending == ".png" and not (
            pixels.dtype in (np.uint8, bool) or (pixels.dtype == np.uint16 and pixels.ndim == 2)
        ):
            raise UserError(
                f"case {case!r}: {source} has {pixels.dtype} values, which PNG does not hold: save all images as TIFF"
            )
        imsave(file, pixels, check_contrast=False)
    if isinstance(image.reader, Tiff3DIO):
        # Tiff3DIO looks for it there.
        text = f'{{"spacing": [{", ".join(map(repr, image.geometry["spacing"]))}]}}'
        (target / f"{case}.json").write_text(text, encoding="utf-8")
