"""The files beside 3D TIFF images that hold their spacing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

__all__ = ["known_geometry"]


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
