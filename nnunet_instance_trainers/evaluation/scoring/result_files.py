"""The files of an evaluated folder: ``cases.csv``, ``sizes.csv``, ``objects.csv``, ``froc.csv``, ``summary.json``.

The summary is written last and removed first, so a folder that has one is whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.text_files import read_json, read_table
from nnunet_instance_trainers.data.text_tables import write_table
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.evaluation.surfaces import surface_columns

__all__ = ["Evaluation", "bin_names", "check_output", "read_evaluation", "write_evaluation"]

Row = dict[str, Any]

_SUMMARY = "summary.json"
# Tables that may be without rows, and then still say what they would hold.
_COLUMNS = {
    "objects": ("case", "class", "side", "id", "volume_ml", "state", "dice", "matched_id", "bin"),
    "froc": ("class", "threshold", "false_positives_per_image", "sensitivity"),
}
_TEXT = {"case", "class", "bin", "side", "state", "matched_id"}


@dataclass(frozen=True)
class Evaluation:
    """What ``nnunet-instance evaluate`` found out about one folder of predictions.

    Attributes:
        name: of the folder that it was read from or written to.
        cases: a row per case and class.
        sizes: a row per case, class and size bin.
        objects: a row per target instance and per component.
        summary: the contents of ``summary.json``.
        froc: a row per class and threshold; empty without probabilities.
    """

    name: str
    cases: list[Row]
    sizes: list[Row]
    objects: list[Row]
    summary: dict[str, Any]
    froc: list[Row] = field(default_factory=list)


def bin_names(edges_ml: Sequence[float]) -> list[str]:
    """Names of the bins between edges, no two alike; they are for reading and are never taken apart.

    Example:
        >>> bin_names([0.00001, 0.1, 1])
        ['<0.00001', '0.00001-0.1', '0.1-1', '>=1']
    """
    edges = [np.format_float_positional(edge, trim="-") for edge in edges_ml]
    return [f"<{edges[0]}", *(f"{a}-{b}" for a, b in pairwise(edges)), f">={edges[-1]}"]


def read_evaluation(folder: Path) -> Evaluation:
    """Read what ``evaluate`` wrote; numbers are int or float, empty cells nan.

    Raises:
        UserError: the folder was not written by ``evaluate``, or a file of it is damaged.
    """
    folder = Path(folder)
    summary = _own_summary(folder)
    if summary is None:
        raise UserError(f"{folder} was not written by 'nnunet-instance evaluate': run it with -o {folder}")
    try:
        tables = {name: _read_table(folder / f"{name}.csv") for name in ("cases", "sizes", "objects")}
        froc = _read_table(folder / "froc.csv") if "froc" in summary else []
    except (UserError, ValueError):
        raise UserError(f"a table in {folder} is missing or damaged: run 'nnunet-instance evaluate' again") from None
    return Evaluation(name=folder.resolve().name, summary=summary, froc=froc, **tables)


def check_output(folder: Path) -> None:
    """Refuse a folder in which a summary of somebody else's would be overwritten, nnU-Net's above all.

    Raises:
        UserError: it holds a ``summary.json`` that ``evaluate`` did not write, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder with -o")
    if (folder / _SUMMARY).exists() and _own_summary(folder) is None:
        raise UserError(f"{folder / _SUMMARY} was not written by 'evaluate': give another folder with -o")


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write the tables and then the summary; what an earlier run left is replaced."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SUMMARY).unlink(missing_ok=True)
        (folder / "froc.csv").unlink(missing_ok=True)
    tolerance = evaluation.summary["settings"].get("surfaces_mm")
    distances = () if tolerance is None else surface_columns(tolerance)
    for name in ("cases", "sizes", "objects", *(["froc"] if "froc" in evaluation.summary else [])):
        rows = getattr(evaluation, name)
        columns = (*_COLUMNS.get(name, rows and rows[0]), *(distances if name == "objects" else ()))
        write_table(folder / f"{name}.csv", rows, columns)
    with write_atomically(folder / _SUMMARY) as temporary:
        temporary.write_text(json.dumps(evaluation.summary, indent=4), encoding="utf-8")


def _own_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a folder; None where it is missing or not ours."""
    try:
        summary = read_json(folder / _SUMMARY, "")
    except UserError:
        return None
    return summary if {"settings", "pooled"} <= summary.keys() else None


def _read_table(file: Path) -> list[Row]:
    return [{name: _value(name, cell) for name, cell in row.items()} for row in read_table(file, "")]


def _value(name: str, cell: str) -> Any:
    if name in _TEXT:
        return cell
    if cell == "":
        return float("nan")
    try:
        return int(cell)
    except ValueError:
        return float(cell)
