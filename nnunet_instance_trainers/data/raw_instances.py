"""The label and the instance ids of one case on the raw grid, checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from scipy import ndimage

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_reading import check_ids, read_labels
from nnunet_instance_trainers.data.map_store import digest
from nnunet_instance_trainers.data.raw_files import RawFiles
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.instances import label_components

__all__ = ["count_in_pieces", "raw_instances", "read_label"]


def read_label(files: RawFiles, reader: BaseReaderWriter, case: str, remedy: str) -> tuple[np.ndarray, dict[str, Any]]:
    """nnU-Net's copy of a label (*S) and its geometry.

    Args:
        files: the raw files of the dataset.
        reader: an instance of nnU-Net's class.
        case: its name.
        remedy: the command that preprocesses, and copies labels.

    Raises:
        UserError: the copy is missing, cannot be read, or is not the label that the dataset has now.
    """
    kept, label = files.kept_label(case), files.label(case)
    if not kept.is_file():
        raise UserError(f"case {case!r}: {kept} is missing: run '{remedy}'")
    # nnU-Net copies labels without what lies beside them, such as the spacing of a TIFF.
    values, geometry = read_labels(reader, label or kept, case)
    if label and digest(label) != digest(kept) and not np.array_equal(values, read_labels(reader, kept, case)[0]):
        is_older = label.stat().st_mtime <= kept.stat().st_mtime
        first = f"delete {kept}, for nnU-Net copies only newer labels, and " if is_older else ""
        older = label if is_older else kept
        raise UserError(
            f"case {case!r}: the label {label} and nnU-Net's copy of it, {kept}, differ; the file in "
            f"{older.parent.name} is older: {first}run '{remedy}'"
        )
    return values, geometry


def raw_instances(
    files: RawFiles,
    reader: BaseReaderWriter,
    case: str,
    label: np.ndarray,
    geometry: dict[str, Any],
    masks: Sequence[np.ndarray],
    plans_name: str,
) -> tuple[list[np.ndarray], int]:
    """The ids (*S) of each channel, and how many of the annotators' ids are in several pieces each.

    Args:
        files: the raw files of the dataset.
        reader: an instance of nnU-Net's class.
        case: its name.
        label, geometry: as :func:`read_label` gives them.
        masks: per channel the chosen classes (*S) of the label, 0 elsewhere.
        plans_name: of the plans whose settings chose them, for messages.

    Raises:
        UserError: the annotators' map is missing, or does not fit the label.
    """
    if files.annotated is None:
        return [label_components(mask)[0].astype(np.int64) for mask in masks], 0
    path = files.annotated / files.name(case)
    if not path.is_file():
        _refuse_missing(path, case)
    ids, own = read_labels(reader, path, case)
    check_grid(path, case, ids, own, label, geometry, other="its label")
    check_ids(ids, path, case)
    ids = np.where(label == int(files.dataset["labels"].get("ignore", -1)), 0, ids)
    _check_against_label(ids, label, masks, path, case, plans_name)
    return [np.where(mask > 0, ids, 0) for mask in masks], count_in_pieces(ids)


def count_in_pieces(ids: np.ndarray) -> int:
    """How many ids have several connected components.

    Example:
        >>> count_in_pieces(np.array([[1, 1, 0, 2, 0, 2]]))
        1
    """
    numbered, n = label_components(ids)
    at = numbered > 0
    owner = np.zeros(n + 1, ids.dtype)
    owner[numbered[at]] = ids[at]
    return int(np.count_nonzero(np.unique(owner[1:], return_counts=True)[1] > 1))


def _refuse_missing(path: Path, case: str) -> None:
    others = sorted(other.name for other in path.parent.glob(f"{case}.*"))
    if others:
        raise UserError(
            f"case {case!r}: {path} is missing; {others[0]} is there, but maps end as labels do: save it as {path.name}"
        )
    raise UserError(f"case {case!r}: {path} is missing: add it, or remove the folder instancesTr to use components")


def _check_against_label(
    ids: np.ndarray, label: np.ndarray, masks: Sequence[np.ndarray], path: Path, case: str, plans_name: str
) -> None:
    below = np.count_nonzero(ids < 0)
    if below:
        raise UserError(
            f"case {case!r}: {path} has ids below 0 in {below} voxels, down to {ids.min()}: they overflowed; save them "
            "as unsigned integers of more bits, or renumber them from 1 on"
        )
    stray = np.count_nonzero((ids > 0) & (label == 0))
    if stray:
        raise UserError(
            f"case {case!r}: {path} has ids in {stray} voxels that the label calls background: set them "
            "to 0, or mend the label"
        )
    bare = np.logical_or.reduce([(mask > 0) & (ids == 0) for mask in masks])
    if bare.any():
        reached = _neighbours(ids > 0) & bare
        borders = (
            f", {np.count_nonzero(reached)} of them beside an object: if those are its border, give them its id "
            "(docs/instances.md has the lines)"
            if reached.any()
            else ""
        )
        raise UserError(
            f"case {case!r}: {path} has no id in {np.count_nonzero(bare)} foreground voxels{borders}; else add the "
            f"objects, or name the classes that have instances in the setting 'classes' of plans {plans_name!r} "
            "(-p takes others)"
        )


def _neighbours(mask: np.ndarray) -> np.ndarray:
    """A mask (*S) and the voxels that touch it."""
    return ndimage.binary_dilation(mask, np.ones((3,) * mask.ndim))
