"""nnU-Net's own preprocessed files, when one of them is gone or damaged."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable
from pathlib import Path

import blosc2
from batchgenerators.utilities.file_and_folder_operations import load_pickle

from nnunet_instance_trainers.errors import UserError

__all__ = ["check_preprocessed", "check_splits"]

_OPENERS = {
    ".b2nd": lambda path: blosc2.open(path, mode="r"),
    "_seg.b2nd": lambda path: blosc2.open(path, mode="r")[:],
    ".pkl": load_pickle,
}
"""How to see that a file is whole. Images are opened and not read: all of a dataset would take minutes."""


def check_preprocessed(folder: str | Path, cases: Iterable[str], remedy: str, *, read: bool = True) -> None:
    """Check that nnU-Net's files of some cases are there and, with ``read``, that they can be opened.

    Raises:
        UserError: naming the first file that is missing or damaged.
    """
    for case in cases:
        for ending, open_file in _OPENERS.items():
            path = Path(folder) / f"{case}{ending}"
            if not path.is_file():
                raise UserError(f"case {case!r}: {path} is missing: run '{remedy}'")
            try:
                if read:
                    open_file(str(path))
            except Exception:  # blosc2 and pickle each raise several kinds
                raise UserError(f"case {case!r}: {path} is damaged: run '{remedy}'") from None


def check_splits(preprocessed: str | Path, folder: str | Path) -> None:
    """Check that the file of folds can be read; a kill while nnU-Net first writes it leaves half of it.

    Args:
        preprocessed: the dataset's folder.
        folder: the folder in it that has the cases of the configuration.

    Raises:
        UserError: it cannot, or names a case that is not there.
    """
    file = Path(preprocessed) / "splits_final.json"
    if not file.is_file():
        return
    try:
        named = {str(case) for fold in json.loads(file.read_text()) for part in fold.values() for case in part}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{file} is damaged: restore it, or delete it and nnU-Net makes it again") from None
    gone = sorted(case for case in named if not any(Path(folder).glob(f"{glob.escape(case)}.*")))
    if gone:
        raise UserError(
            f"{file} names the case {gone[0]!r}, which is not in {folder}: take it out there, or delete the file and "
            "nnU-Net makes new folds"
        )
