"""The gate: every image, label image and instance map of a command is read here, with nnU-Net's own readers.

What is not whole, has several channels or holds anything but whole numbers where labels are wanted is refused.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from math import inf
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_instance_trainers.data.grids import geometry_difference
from nnunet_instance_trainers.data.whole_files import check_whole
from nnunet_instance_trainers.errors import UserError

__all__ = ["check_ids", "read_image", "read_labels", "same_geometry"]

# How far from a whole number a label may be: headers hold a slope of 1 in single precision, so large ids are further.
_FRACTION, _SLOPE, _HALF = 1e-3, 2e-6, 0.25
_LARGEST = 2.0**31  # far above what is taken for a label or an id; beyond, casts would change the sign


def read_labels(
    reader: BaseReaderWriter, path: Path, case: str, dtype: type[np.integer] | None = np.int64
) -> tuple[np.ndarray, dict[str, Any]]:
    """A label or id image (*S) and its geometry.

    Args:
        reader: an instance of nnU-Net's class.
        path: of the file.
        case: its name, for messages.
        dtype: of the result; None for the shortest that holds it.

    Raises:
        UserError: the file is not whole, cannot be read, is the header of another one, has channels that differ, or
            values that are no whole numbers.
    """
    image, geometry = _read(reader, [path], case, "read_seg")
    different = [c for c in range(1, len(image)) if not np.array_equal(image[c], image[0])]
    if different and not (len(image) == 4 and different == [3] and reader.__class__.__name__ == "NaturalImage2DIO"):
        raise UserError(
            f"case {case!r}: {path} has {len(image)} channels that differ, and labels need one: save one number for "
            "each voxel, no colours"
        )
    labels = _whole_numbers(image[0], path, case)
    _refuse_hidden_nan(path, case)
    return labels if dtype is None else labels.astype(dtype), geometry


def read_image(reader: BaseReaderWriter, files: Sequence[Path], case: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The channels (C, *S) float32 of an input image, from one file each or from one with several, and its geometry.

    Raises:
        UserError: a file is not whole, cannot be read, or is the header of another one.
    """
    return _read(reader, files, case, "read_images")


def _read(reader: BaseReaderWriter, files: Sequence[Path], case: str, method: str) -> tuple[np.ndarray, dict[str, Any]]:
    path = files[0]
    try:
        for file in files:
            check_whole(file)
        names = [str(file) for file in files]
        with redirect_stdout(io.StringIO()):  # nnU-Net prints what it raises, and a warning for a TIFF without spacing
            image, geometry = getattr(reader, method)(names[0] if method == "read_seg" else names)
    except UserError as error:
        raise UserError(f"case {case!r}: {error}") from None
    except Exception as error:  # each reader raises its own kind
        raise UserError(f"case {case!r}: cannot read {path} ({_reason(error, reader)}") from None
    if image.ndim != 4 or len(geometry["spacing"]) != 3:
        raise UserError(
            f"case {case!r}: {path} has several values in each voxel, which nnU-Net takes for another axis: save one "
            "number for each voxel"
        )
    edges = [float(edge) for edge in geometry["spacing"]]
    if not all(0 < edge < inf for edge in edges):
        shown = " x ".join(f"{edge:g}" for edge in reversed(edges))
        raise UserError(f"case {case!r}: {path} says that a voxel has {shown} mm: correct the spacing in its header")
    if not image.size:
        raise UserError(f"case {case!r}: {path} has no voxels: save it again")
    return image, geometry


def _reason(error: Exception, reader: BaseReaderWriter) -> str:
    """What a reader says and what to do, from the bracket on."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    if "orthonormal" in str(error):
        return (
            "its axes are not at right angles, which SimpleITK refuses): correct the header, or set "
            '"overwrite_image_reader_writer": "NibabelIO" in dataset.json'
        )
    own = type(reader)
    endings = ", ".join(own.supported_file_endings)
    return f"{lines[-1].strip()}): save it as {own.__name__} of nnU-Net reads it, one image of 2 or 3 axes in {endings}"


def _whole_numbers(values: np.ndarray, path: Path, case: str) -> np.ndarray:
    """Float32 labels (*S) in the shortest type that holds them; plane by plane, so that little memory is needed.

    Raises:
        UserError: they are no whole numbers.
    """
    labels = np.empty(values.shape, np.uint8)
    for place, plane in enumerate(values):
        with np.errstate(invalid="ignore"):  # infinity has no distance, and NaN is no number
            whole = np.rint(plane)
            distance = np.abs(plane - whole)
            if not distance.max() <= _FRACTION:
                _refuse_fractions(plane, distance, path, case)
            whole = np.clip(whole, -_LARGEST, _LARGEST).astype(np.int64)
        for extreme in (int(whole.min()), int(whole.max())):
            needed = np.promote_types(labels.dtype, np.min_scalar_type(extreme))
            if needed != labels.dtype:
                labels = labels.astype(needed)
        labels[place] = whole
    return labels


def _refuse_fractions(plane: np.ndarray, distance: np.ndarray, path: Path, case: str) -> None:
    far = ~(distance <= np.minimum(_FRACTION + _SLOPE * np.abs(plane), _HALF))
    if far.any():
        value = plane[far][0]
        advice = "give a segmentation, not probabilities or one that was resampled linearly"
        if not np.isfinite(value):
            advice = "set such voxels to a label"
        raise UserError(f"case {case!r}: {path} has the value {value:.6g}, which is no label: {advice}")


def _refuse_hidden_nan(path: Path, case: str) -> None:
    """Look where SimpleITK (2.5) does not: of a NIfTI file it reads NaN and infinity as 0."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    try:
        stored = nibabel.load(path).dataobj
        hidden = stored.dtype.kind == "f" and not all(np.isfinite(plane).all() for plane in stored.get_unscaled().T)
    except Exception:  # nibabel refuses some files that were read all the same, each with an error of its own
        return
    if hidden:
        raise UserError(
            f"case {case!r}: {path} has the value nan or inf, which is no label: set such voxels to a label"
        )


def same_geometry(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two geometries of one reader agree up to rounding in the header."""
    return not geometry_difference(a, b)


def check_ids(ids: np.ndarray, path: Path, case: str) -> None:
    """Refuse ids that nnU-Net's readers, which read float32, cannot hold.

    Raises:
        UserError: there are ids of 2^24 and more.
    """
    if ids.max(initial=0) >= 2**24:
        raise UserError(f"case {case!r}: {path} has ids of 2^24 and more, which nnU-Net's readers round: renumber them")
