"""The rows and columns of the tables of objects: what was measured, under names that say what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.grids import world_coordinates
from nnunet_instance_trainers.evaluation.scoring.result_files import bin_names
from nnunet_instance_trainers.instances.volume_ranges import size_bins
from nnunet_instance_trainers.objects.changes import STATES, Change
from nnunet_instance_trainers.objects.measures import Measures
from nnunet_instance_trainers.objects.size_units import CaseGrid, SizeUnit

__all__ = ["bin_columns", "change_rows", "columns", "object_rows", "percent", "total_row"]

Row = dict[str, Any]


def columns(unit: SizeUnit, bins: Sequence[float], *, flat: bool, probabilities: bool, reference: bool) -> dict:
    """The columns of each table, by its name."""
    axes = "ij" if flat else "ijk"
    own = [
        *dict.fromkeys(["case", "class", "id", "voxels", unit.column]),
        *(f"centre_{axis}" for axis in axes),
        *(f"centre_{axis}_ras_mm" for axis in "xyz"),
        *(f"{end}_{axis}" for axis in axes for end in ("first", "last")),
        *([] if flat else ["slices"]),
        "largest_diameter_mm",
        "sphericity",
        "nearest_mm",
        "nearest_id",
        *(["probability_mean", "probability_peak"] if probabilities else []),
    ]
    change = [f"reference_{unit.column}", unit.column, "change_percent"]
    totals = [*dict.fromkeys(["case", "class", "objects", "voxels", unit.column]), *bin_columns(unit, bins)]
    if not reference:
        return {"objects": own, "cases": totals}
    then = ["reference_objects", f"reference_{unit.column}", "change_percent", *STATES]
    return {
        "objects": [*own, "state", "reference_ids", f"reference_{unit.column}", "change_percent"],
        "reference": [*(name for name in own if not name.startswith("probability")), "state", "current_ids"],
        "changes": ["case", "class", "state", "reference_ids", "current_ids", *change],
        "cases": [*totals, *then],
    }


def bin_columns(unit: SizeUnit, bins: Sequence[float]) -> list[str]:
    """Columns with numbers of objects by size, such as ``objects_0.01-0.05_ml``."""
    return [f"objects_{name}_{unit.name}" for name in bin_names(bins)]


def object_rows(
    case: str, name: str, measures: Measures, start: Sequence[int], grid: CaseGrid, first_id: int
) -> list[Row]:
    """A row for each object of a class.

    Args:
        case, name: of the case and of the class.
        measures: of the objects inside a box of the image.
        start: (3,) where the box begins, along the axes of the array.
        grid: of the case.
        first_id: the id of the first one in the case's map; the others follow.
    """
    lead = int(grid.flat)  # the first axis of the array, which flat measures lack
    begin = np.asarray(start)
    centre = np.pad(measures.centre, ((0, 0), (lead, 0))) + begin
    world = world_coordinates(grid.geometry, centre)
    size = measures.voxels * grid.voxel_size
    rows = []
    for k in range(len(measures.voxels)):
        row: Row = {"case": case, "class": name, "id": first_id + k, "voxels": int(measures.voxels[k])}
        row[grid.unit.column] = row["voxels"] if grid.unit.column == "voxels" else float(size[k])
        # The file's axes i, j, k are those of the array backwards.
        for axis, own in zip("ij" if grid.flat else "ijk", range(2, lead - 1, -1)):
            row[f"centre_{axis}"] = float(centre[k, own])
            row[f"first_{axis}"] = int(measures.first[k, own - lead] + begin[own])
            row[f"last_{axis}"] = int(measures.last[k, own - lead] + begin[own])
        row |= {f"centre_{axis}_ras_mm": float(value) for axis, value in zip("xyz", world[k])}
        if not grid.flat:
            row["slices"] = row["last_k"] - row["first_k"] + 1
        nearest = int(measures.nearest_id[k])
        row |= {
            "largest_diameter_mm": float(measures.largest_diameter_mm[k]),
            "sphericity": float(measures.sphericity[k]),
            "nearest_mm": float(measures.nearest_mm[k]),
            "nearest_id": first_id + nearest - 1 if nearest else None,
            "probability_mean": float(measures.mean[k]),
            "probability_peak": float(measures.peak[k]),
        }
        rows.append(row)
    return rows


def change_rows(
    case: str, name: str, changes: Sequence[Change], reference: Sequence[Row], current: Sequence[Row], unit: SizeUnit
) -> list[Row]:
    """A row for each change of a class; its objects' rows learn of it.

    Args:
        case, name: of the case and of the class.
        changes: with ids that count from 1 in the class.
        reference, current: its objects' rows, in the order of those ids.
        unit: of sizes.
    """
    rows = []
    for change in changes:
        earlier, now = [reference[k - 1] for k in change.reference], [current[k - 1] for k in change.current]
        before, after = (sum(row[unit.column] for row in side) for side in (earlier, now))
        row = {
            "state": change.state,
            "reference_ids": ";".join(str(own["id"]) for own in earlier),
            "current_ids": ";".join(str(own["id"]) for own in now),
            f"reference_{unit.column}": before,
            "change_percent": percent(before, after),
        }
        for own in (*earlier, *now):
            own.update(row)
        rows.append({"case": case, "class": name, unit.column: after, **row})
    return rows


def total_row(
    case: str,
    name: str,
    rows: Mapping[str, Sequence[Row]],
    changes: Sequence[Row],
    unit: SizeUnit,
    bins: Sequence[float],
) -> Row:
    """The row of a case and class in the table of cases."""
    own = rows["objects"]
    sizes = np.array([row[unit.column] for row in own], float)
    total: Row = {"case": case, "class": name, "objects": len(own), "voxels": sum(row["voxels"] for row in own)}
    total[unit.column] = sum(row[unit.column] for row in own)
    counts = np.bincount(size_bins(sizes, bins), minlength=len(bins) + 1)
    total |= dict(zip(bin_columns(unit, bins), counts.tolist(), strict=True))
    if "reference" in rows:
        before = sum(row[unit.column] for row in rows["reference"])
        total |= {
            "reference_objects": len(rows["reference"]),
            f"reference_{unit.column}": before,
            "change_percent": percent(before, total[unit.column]),
            **{state: sum(row["state"] == state for row in changes) for state in STATES},
        }
    return total


def percent(before: float, after: float) -> float:
    """By how many per cent a size has changed; NaN from nothing."""
    return 100 * (after - before) / before if before else float("nan")
