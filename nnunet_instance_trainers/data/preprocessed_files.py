"""nnU-Net's own preprocessed files, when one of them is gone or damaged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import blosc2
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_instance_trainers.errors import UserError

__all__ = [
    "check_preprocessed",
    "check_previous_stage",
    "check_splits",
    "precompute_command",
    "preprocess_command",
    "preprocessed_cases",
]

_OPENERS = {
    ".b2nd": lambda path: blosc2.open(path, mode="r"),
    "_seg.b2nd": lambda path: blosc2.open(path, mode="r")[:],
    ".pkl": load_pickle,
}
"""How to see that a file is whole. Images are opened and not read: all of a dataset would take minutes."""


def preprocess_command(dataset_name: str, configuration: str, plans_name: str) -> str:
    """The command of nnU-Net that makes the files of a configuration anew."""
    return f"nnUNetv2_preprocess -d {int(dataset_name[7:10])} -plans_name {plans_name} -c {configuration}"


def precompute_command(dataset_name: str, configuration: str, plans_name: str) -> str:
    """The command that makes the instance maps of a configuration anew."""
    return f"nnunet-instance precompute -d {int(dataset_name[7:10])} -c {configuration} -p {plans_name}"


def preprocessed_cases(folder: Path) -> list[str]:
    """The cases of a folder that nnU-Net preprocessed, sorted.

    Raises:
        UserError: there are none, or they are in nnU-Net's old numpy format.
    """
    if any(folder.glob("*.npz")):
        raise UserError(
            f"{folder} is in nnU-Net's old numpy format, which carries no instance maps: run "
            "'nnUNetv2_preprocess' again with nnU-Net 2.8 or newer"
        )
    cases = sorted(nnUNetDatasetBlosc2.get_identifiers(str(folder)))
    if not cases:
        raise UserError(f"no preprocessed cases in {folder}: run 'nnUNetv2_preprocess' first")
    return cases


def check_previous_stage(folder: str | Path, cases: Iterable[str], stage: str, trainer: str) -> None:
    """Check that the previous stage of a cascade predicted every case.

    nnU-Net itself would stop at the first case that it draws, and not say whose prediction is missing.

    Raises:
        UserError: naming the first case without a prediction.
    """
    missing = sorted(set(cases) - {path.stem for path in Path(folder).glob("*")})
    if missing:
        raise UserError(
            f"case {missing[0]!r}: no prediction of the previous stage in {folder}: train {stage!r} with the same "
            f"trainer, {trainer}, in all folds, or run its validation again with --val"
        )


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


def check_splits(preprocessed: str | Path) -> None:
    """Check that the file of folds can be read; a kill while nnU-Net first writes it leaves half of it.

    Raises:
        UserError: it cannot.
    """
    file = Path(preprocessed) / "splits_final.json"
    try:
        if file.is_file():
            json.loads(file.read_text())
    except ValueError:
        raise UserError(f"{file} is damaged: restore it, or delete it and nnU-Net makes it again") from None
