"""Label images of cases, read with nnU-Net's own readers."""

from __future__ import annotations

import re
from itertools import takewhile
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_instance_trainers.errors import UserError

__all__ = ["check_ids", "read_labels", "refuse_detached", "same_geometry"]

# What names another file as the data.
_META = re.compile(rb"ElementDataFile(?![ \t]*[=:][ \t]*(?:LOCAL|Local|local)[ \t]*\r?\n)")
_NRRD = re.compile(rb"(?im)^\s*data\s*file\s*:")


def read_labels(
    reader: BaseReaderWriter, path: Path, case: str, dtype: type[np.integer] = np.int64
) -> tuple[np.ndarray, dict]:
    """A label or id image (*S) and its geometry.

    Raises:
        UserError: the file cannot be read, or is the header of another one.
    """
    refuse_detached(path)
    try:
        image, geometry = reader.read_seg(str(path))
    except Exception as error:  # each reader raises its own kind
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UserError(f"case {case!r}: cannot read {path} ({reason[0]}): save it again") from None
    labels = image[0]
    if np.issubdtype(labels.dtype, np.floating):
        np.rint(labels, out=labels)
    return labels.astype(dtype), geometry


def refuse_detached(path: Path) -> None:
    """Refuse an image whose header says that its voxels are in another file, which could be any of this machine's.

    Raises:
        UserError: it does.
    """
    detached = {".mha": _meta, ".mhd": _meta, ".nrrd": _nrrd, ".nhdr": _nrrd}.get(path.suffix.lower())
    if detached is None or not path.is_file() or path.stat().st_size == 0:
        return
    with open(path, "rb") as stream:
        if detached(stream):
            raise UserError(f"{path} is the header of another file: save it in one file")


def _meta(stream: BinaryIO) -> bool:
    """Look in the whole file: where ITK's parser takes a line for the header's last, odd lines before it decide."""
    with mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        return _META.search(content) is not None


def _nrrd(stream: BinaryIO) -> bool:
    """Look in the header, which an empty line ends."""
    lines = (line.replace(b"\r", b"\n") for line in stream)
    return any(_NRRD.search(line) for line in takewhile(bytes.strip, lines))


def same_geometry(a: object, b: object) -> bool:
    """Whether two readers' geometries, nested dictionaries of numbers and names, agree up to rounding in the header."""
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_geometry(a[key], b[key]) for key in a)
    return np.allclose(np.asarray(a, dtype=float), np.asarray(b, dtype=float), rtol=1e-4, atol=1e-3)


def check_ids(ids: np.ndarray, path: Path, case: str) -> None:
    """Refuse ids that nnU-Net's readers, which read float32, cannot hold.

    Raises:
        UserError: there are ids of 2^24 and more.
    """
    if ids.max(initial=0) >= 2**24:
        raise UserError(f"case {case!r}: {path} has ids of 2^24 and more, which nnU-Net's readers round: renumber them")
