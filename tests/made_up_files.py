"""Made-up files of every reader that nnU-Net knows, whole and with one fault each."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage import io

READERS: dict[type[BaseReaderWriter], tuple[str, ...]] = {
    SimpleITKIO: (".nii.gz", ".nrrd", ".mha", ".gipl"),
    SimpleITKIOWithReorient: (".nii.gz", ".nrrd", ".mha"),
    NibabelIO: (".nii", ".nii.gz"),
    NibabelIOWithReorient: (".nii", ".nii.gz"),
    NaturalImage2DIO: (".png", ".bmp", ".tif"),
    Tiff3DIO: (".tif", ".tiff"),
}
FAULTS = ("none", "type", "rounding", "slope", "equal channels", "cut", "flip", "NaN", "fraction", "channels", "axes")
REFUSED = {"NaN", "fraction", "channels", "axes"}
READ = {"none", "type", "rounding", "slope", "equal channels"}
CHECKSUMS = (".nii.gz", ".png")


@dataclass(frozen=True)
class MadeUp:
    """A file.

    Attributes:
        reader: of nnU-Net.
        path: of it.
        fault: what is odd about it.
        meant: (z, y, x) what is in it.
    """

    reader: type[BaseReaderWriter]
    path: Path
    fault: str
    meant: np.ndarray


def write(
    path: Path,
    array: np.ndarray,
    reader: type[BaseReaderWriter] = SimpleITKIO,
    *,
    packed: bool = True,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
    direction: np.ndarray | None = None,
    slope: float | None = None,
) -> Path:
    """Write an array (z, y, x), (y, x), or one of several channels (c, z, y, x)."""
    direction = np.eye(3) if direction is None else direction
    if reader is Tiff3DIO:
        tifffile.imwrite(path, array, photometric="minisblack", compression="zlib" if packed else None)
    elif reader is NaturalImage2DIO:
        io.imsave(path, array, check_contrast=False)
    elif reader in (NibabelIO, NibabelIOWithReorient) or slope is not None:
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-1, -1, 1]) @ direction * spacing
        affine[:3, 3] = np.array([-1, -1, 1]) * origin
        image = nibabel.Nifti1Image(array.T, affine, dtype=array.dtype)
        if slope is None:
            nibabel.save(image, path)
        else:
            _write_scaled(path, image, array, slope)
    else:
        image = sitk.GetImageFromArray(array, isVector=False)
        n = array.ndim
        image.SetSpacing((*spacing, 1.0, 1.0)[:n])
        image.SetOrigin((*origin, 0.0, 0.0)[:n])
        if n == 3:
            image.SetDirection(direction.ravel().tolist())
        sitk.WriteImage(image, str(path), packed)
    return path


def _write_scaled(path: Path, image: Any, array: np.ndarray, slope: float) -> None:
    """The numbers as they are with a slope in the header, which nibabel would take out of the numbers."""
    image.header.set_data_offset(352)
    image.header["scl_slope"], image.header["scl_inter"] = slope, 0
    content = image.header.binaryblock + bytes(4) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def make_up(folder: Path, seed: int) -> MadeUp:
    """One file with one fault, or none."""
    rng = np.random.default_rng(seed)
    readers = list(READERS)
    reader = readers[int(rng.integers(len(readers)))]
    ending = str(rng.choice(READERS[reader]))
    flat = reader is NaturalImage2DIO
    fault = str(rng.choice([f for f in FAULTS if _possible(f, reader, ending)]))
    shape = tuple(int(n) for n in rng.integers(5, 10, 2 if flat else 3))  # tifffile takes 3 for colours
    labels = rng.integers(0, int(rng.choice([2, 5, 200])), shape).astype(np.uint8)
    array = labels
    slope = None
    if fault == "type":
        kinds = [np.uint8, np.uint16] if flat and ending != ".bmp" else [np.uint8]
        array = labels.astype(rng.choice([*kinds, *([] if flat else [np.int16, np.uint16, np.float32])]))
    elif fault in ("rounding", "NaN", "fraction"):
        array = labels.astype(np.float32)
        place = tuple(int(rng.integers(n)) for n in shape)
        array[place] += {"rounding": 1e-4, "NaN": np.nan, "fraction": rng.uniform(0.01, 0.99)}[fault]
    elif fault == "slope":
        slope = 1 + float(rng.uniform(-1e-6, 1e-6))
    elif fault in ("channels", "equal channels"):
        other = labels.copy()
        if fault == "channels":
            other.ravel()[int(rng.integers(other.size))] += 1
        array = np.stack([labels, labels, other], -1 if flat else 0)
    elif fault == "axes":
        array = np.stack([labels, labels + 1])[None]
    path = folder / f"{seed}{ending}"
    write(path, array, reader, packed=bool(rng.integers(2)), slope=slope)
    content = path.read_bytes()
    if fault == "cut":
        path.write_bytes(content[: int(rng.integers(len(content)))])
    elif fault == "flip":
        at = int(rng.integers(12, len(content)))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :])
    meant = labels[None] if flat else labels
    if reader in (SimpleITKIOWithReorient, NibabelIOWithReorient):
        meant = meant[:, ::-1, ::-1]  # what was written leads left and back, and they turn it right and front
    return MadeUp(reader, path, fault, meant)


def _possible(fault: str, reader: type[BaseReaderWriter], ending: str) -> bool:
    floats = reader not in (NaturalImage2DIO,) and ending != ".gipl"
    possible = {
        "rounding": floats,
        "NaN": floats,
        "fraction": floats,
        "slope": ending in (".nii", ".nii.gz"),
        "flip": ending in CHECKSUMS,
        "channels": reader in (SimpleITKIO, NaturalImage2DIO) and ending != ".gipl",
        "equal channels": reader in (SimpleITKIO, NaturalImage2DIO) and ending != ".gipl",
        "axes": reader in (SimpleITKIO, Tiff3DIO) and ending != ".gipl",
    }
    return possible.get(fault, True)
