"""Label images, instance maps and the like on disk, by nnU-Net's own writers, and seen to be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_instance_trainers.errors import UserError

__all__ = ["write_image"]


def write_image(reader: BaseReaderWriter, image: np.ndarray, path: Path, geometry: dict[str, Any], case: str) -> None:
    """Write a label or id image (*S) and see that it reads back.

    Raises:
        UserError: it cannot be written.
    """
    try:
        reader.write_seg(image, str(path), geometry)
        if not np.array_equal(reader.read_seg(str(path))[0][0], image):  # SimpleITK's writers pass over a full disk
            raise OSError("it reads back otherwise, so the disk may be full")
    except Exception as error:  # each writer raises its own kind
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UserError(
            f"case {case!r}: cannot write {path} ({reason[0]}): make room, or give another folder with -o"
        ) from None
