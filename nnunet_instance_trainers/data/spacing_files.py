"""The files beside images of formats without a spacing (TIFF, PNG) that hold it: ``{"spacing": [3, 0.5, 0.5]}``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError

__all__ = ["known_geometry", "known_spacing"]

_FLAT = 999  # how many times as thick as wide nnU-Net calls the pixels of a 2D image


def known_geometry(
    reader: BaseReaderWriter, path: Path, geometry: dict[str, Any], other: dict[str, Any]
) -> dict[str, Any]:
    """The geometry of an image, or where the file of its spacing is missing that of another image of its case.

    nnU-Net (2.8.1) copies ``labelsTr/CASE.tif`` to ``gt_segmentations`` and leaves ``labelsTr/CASE.json`` behind; its
    reader then says 1 mm.

    Args:
        reader: that read it.
        path: of the image.
        geometry: what the reader said.
        other: of an image on the same grid.
    """
    unknown = isinstance(reader, Tiff3DIO) and not path.with_suffix(".json").is_file()
    return other if unknown else geometry


def known_spacing(reader: BaseReaderWriter, path: Path, geometry: dict[str, Any]) -> tuple[float, ...] | None:
    """The spacing (3,) of an image's axes; None where its format has none and no ``CASE.json`` beside it says it.

    nnU-Net itself knows such files for 3D TIFF; here PNG, BMP and flat TIFF may have one too, with the heights of rows
    and the widths of columns: ``{"spacing": [0.5, 0.5]}``. Where one is missing nnU-Net says 1 mm, which is not known.

    Raises:
        UserError: a flat image's file has another ``"spacing"``.
    """
    file = path.with_suffix(".json")
    if isinstance(reader, NaturalImage2DIO):
        content = read_json(file, "correct it or take it away") if file.is_file() else {}
        if not isinstance(content, dict) or "spacing" not in content:
            return None  # tools for annotation write files of this name too
        try:
            rows, columns = (float(edge) for edge in content["spacing"])
            if not (0 < rows < np.inf and 0 < columns < np.inf):
                raise ValueError("not positive")
        except (TypeError, ValueError):
            raise UserError(
                f"{file} has the spacing {content['spacing']!r}: give the height of rows and the width of columns "
                'in mm, such as {"spacing": [0.5, 0.5]}'
            ) from None
        return _FLAT * max(rows, columns), rows, columns
    if isinstance(reader, Tiff3DIO) and not file.is_file():
        return None
    return tuple(float(edge) for edge in geometry["spacing"])
