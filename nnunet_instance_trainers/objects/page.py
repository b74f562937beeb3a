"""The page of a run: totals, sizes, changes, pictures of a few cases and the largest objects, in the report's style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from nnunet_instance_trainers.evaluation.report.page import plural, render
from nnunet_instance_trainers.evaluation.report.pictures import Exhibit, vector
from nnunet_instance_trainers.evaluation.report.tables import number
from nnunet_instance_trainers.evaluation.scoring.result_files import bin_names
from nnunet_instance_trainers.instances.volume_ranges import size_bins
from nnunet_instance_trainers.objects.case_objects import Job
from nnunet_instance_trainers.objects.case_pictures import case_picture, keys
from nnunet_instance_trainers.objects.changes import STATES
from nnunet_instance_trainers.objects.object_charts import (
    CHANGE_LOOKS,
    Look,
    before_and_after,
    class_looks,
    size_bars,
)
from nnunet_instance_trainers.objects.object_rows import percent

__all__ = ["PAGE", "objects_page"]

Row = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]

PAGE = "objects.html"
_LARGEST = 20
_DASH = "\N{EN DASH}"


def objects_page(job: Job, tables: Tables, settings: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
        job: how the objects were listed; pictures are made from the maps that it wrote.
        tables: the rows of each table.
        settings: what stands at the foot of the page.
    """
    classes = [c.name for c in job.labels.classes]
    cases = list(dict.fromkeys(row["case"] for row in tables["cases"]))
    followed = job.reference is not None
    looks = CHANGE_LOOKS if followed else class_looks(classes)
    own = [_class_table(job, classes, tables)]
    if followed:
        own.append(_change_table(job, tables["changes"]))
    n, size = len(tables["objects"]), sum(row[job.unit.column] for row in tables["objects"])
    return render(
        (files(__package__) / "page.html").read_text(encoding="utf-8"),
        title="Objects and what became of them" if followed else "Objects",
        subtitle=f"{plural(len(cases), 'case')}, {plural(len(classes), 'class')}, {plural(n, 'object')} of "
        f"{_size(size)} {job.unit.text}",
        tables=own,
        sections=_sections(job, tables, cases, looks, "state" if followed else "class"),
        details=[_case_table(job, tables["cases"]), _object_table(job, tables["objects"])],
        settings=[(name.replace("_", " "), value) for name, value in settings.items() if value is not None],
    )


# --- tables ------------------------------------------------------------------------------------------------


def _class_table(job: Job, classes: Sequence[str], tables: Tables) -> dict[str, Any]:
    unit, rows = job.unit, []
    for name in classes:
        per_case = [row["objects"] for row in tables["cases"] if row["class"] == name]
        sizes = [row[unit.column] for row in tables["objects"] if row["class"] == name]
        each = [_size(value) for value in (np.median(sizes), min(sizes), max(sizes))] if sizes else [_DASH] * 3
        number_of = f"{np.median(per_case):g} ({min(per_case)}{_DASH}{max(per_case)})"
        rows.append([name, f"{len(sizes):,}", number_of, _size(sum(sizes)), *each])
    sizes_in = [f"{what}, {unit.text}" for what in ("in all", "median", "smallest", "largest")]
    return {
        "heading": "Objects by class",
        "text": "Connected components"
        + (f" of at least {job.least:g} {unit.text}." if job.least else ".")
        + (" Of regions: a voxel may belong to objects of several." if job.labels.regions_order is not None else ""),
        "columns": ["class", "objects", "per case, median (range)", *sizes_in],
        "rows": rows,
    }


def _change_table(job: Job, changes: Sequence[Row]) -> dict[str, Any]:
    unit, rows = job.unit, []
    for state in STATES:
        own = [row for row in changes if row["state"] == state]
        before, now = (sum(row[column] for row in own) for column in (f"reference_{unit.column}", unit.column))
        rows.append([state, f"{len(own):,}", _size(before), _size(now), _size(now - before, "+")])
    before, now = (sum(row[column] for row in changes) for column in (f"reference_{unit.column}", unit.column))
    rows.append(["all", f"{len(changes):,}", _size(before), _size(now), _size(now - before, "+")])
    growth, shrinkage = (100 * share for share in job.rule)
    return {
        "heading": "Changes since the earlier time point",
        "text": "Objects of both time points that share a voxel, directly or through others, are one change. Of one "
        f"object before and one now: growing from +{growth:g} % on, shrinking from \N{MINUS SIGN}{shrinkage:g} % on, "
        "unchanged between. Merged: several into one; split: one into several; complex: several into several.",
        "columns": ["state", "changes", *(f"{what}, {unit.text}" for what in ("before", "now", "difference"))],
        "rows": rows,
    }


def _case_table(job: Job, cases: Sequence[Row]) -> dict[str, Any]:
    unit = job.unit
    states = STATES if job.reference is not None else ()
    rows = []
    for row in cases:
        cells = [row["case"], row["class"], f"{row['objects']:,}", _size(row[unit.column])]
        if states:
            cells += [_percent(row["change_percent"]), *(str(row[state] or "") for state in states)]
        rows.append(cells)
    change = ["change", *states] if states else []
    return {
        "heading": "Cases",
        "text": "",
        "columns": ["case", "class", "objects", f"in all, {unit.text}", *change],
        "rows": rows,
    }


def _object_table(job: Job, objects: Sequence[Row]) -> dict[str, Any]:
    unit = job.unit
    largest = sorted(objects, key=lambda row: -row[unit.column])[:_LARGEST]
    followed = job.reference is not None
    rows = [
        [
            row["case"],
            row["class"],
            str(row["id"]),
            _size(row[unit.column]),
            number(row["largest_diameter_mm"], 1),
            number(row["sphericity"], 2),
            ", ".join(number(row[f"centre_{axis}_ras_mm"], 1) for axis in "xyz"),
            number(row["nearest_mm"], 1),
            *([row["state"], _percent(percent(row[f"reference_{unit.column}"], row[unit.column]))] if followed else []),
        ]
        for row in largest
    ]
    return {
        "heading": "The largest objects",
        "text": f"{len(largest)} of {len(objects):,}; objects.csv has all of them. The id is that of the map in the "
        "folder instances.",
        "columns": [
            "case",
            "class",
            "id",
            unit.text,
            "largest diameter, mm",
            "sphericity",
            "centre x, y, z (RAS), mm",
            "nearest, mm",
            *(["state", "against all that it meets"] if followed else []),
        ],
        "rows": rows,
    }


# --- charts and pictures -----------------------------------------------------------------------------------


def _sections(
    job: Job, tables: Tables, cases: Sequence[str], looks: Mapping[str, Look], group: str
) -> list[dict[str, Any]]:
    sections = [
        {
            "title": "Objects by size",
            "text": f"All cases together, in bins of {job.unit.text}.",
            "exhibits": [_sizes(job, tables["objects"], looks, group)],
        }
    ]
    pairs = {
        state: tuple(
            np.array([row[column] for row in tables["changes"] if row["state"] == state], float)
            for column in (f"reference_{job.unit.column}", job.unit.column)
        )
        for state in (STATES if job.reference is not None else ())
        if state not in ("new", "vanished")
    }
    pairs = {state: pair for state, pair in pairs.items() if len(pair[0])}
    if pairs:
        figure = before_and_after(pairs, (1 + job.rule.growth, 1 - job.rule.shrinkage), job.unit.text)
        words = "; ".join(f"{len(before)} {state}" for state, (before, _) in pairs.items())
        picture = vector(figure, f"Scatter of sizes before against now. {words}.")
        legend = keys({state: CHANGE_LOOKS[state] for state in pairs}, marked=True)
        sections.append(
            {
                "title": "Sizes before and now",
                "text": "One mark for each change with objects at both time points, all cases together. On the line "
                "nothing has changed; beyond the dashed lines a single object is growing or shrinking.",
                "exhibits": [Exhibit([picture], legend)],
            }
        )
    exhibit = _pictures(job, tables, cases, looks, group) if job.maps else None
    if exhibit is not None:
        sections.append(
            {
                "title": "Cases in pictures",
                "text": "The case with the most "
                + ("changes" if job.reference is not None else "objects")
                + ", the median and the one with the fewest."
                + (" Volumes are seen in maximum-intensity projections." if exhibit.wide else ""),
                "exhibits": [exhibit],
            }
        )
    return sections


def _sizes(job: Job, objects: Sequence[Row], looks: Mapping[str, Look], group: str) -> Exhibit:
    bins, counts = bin_names(job.bins), {}
    for name in looks:
        sizes = np.array([row[job.unit.column] for row in objects if row[group] == name], float)
        if len(sizes):
            counts[name] = np.bincount(size_bins(sizes, job.bins), minlength=len(bins))
    in_words = [
        f"{name}: " + ", ".join(f"{own} of {size}" for own, size in zip(number_of, bins) if own)
        for name, number_of in counts.items()
    ]
    words = f"Bars of objects per size in {job.unit.text}. {'; '.join(in_words) or 'No objects'}."
    picture = vector(size_bars(bins, counts, looks, job.unit.text), words)
    return Exhibit([picture], keys({name: looks[name] for name in counts}, marked=False), wide=True)


def _pictures(job: Job, tables: Tables, cases: Sequence[str], looks: Mapping[str, Look], group: str) -> Exhibit | None:
    """Up to three cases; None if there is nothing to draw."""
    rows: dict[str, list[Row]] = {case: [] for case in cases}
    for row in [*tables["objects"], *(row for row in tables.get("reference", ()) if row["state"] == "vanished")]:
        rows[row["case"]].append(row)

    def weight(case: str) -> int:
        return sum(row.get("state") != "unchanged" for row in rows[case])

    order = sorted((case for case in cases if rows[case]), key=lambda case: (-weight(case), case))
    chosen = dict.fromkeys(order[place] for place in (0, (len(order) - 1) // 2, -1)) if order else {}
    drawn = [case_picture(job, case, rows[case], looks, group) for case in chosen]
    pictures = [picture for picture in drawn if picture is not None]
    if not pictures:
        return None
    shown = {row[group] for case in chosen for row in rows[case]}
    flat = "centre_k" not in next(row for case in chosen for row in rows[case])
    legend = keys({name: look for name, look in looks.items() if name in shown}, marked=True)
    return Exhibit(pictures, legend, wide=not flat)


def _size(value: float, sign: str = "") -> str:
    """Three significant digits, or all before the point; whole numbers whole."""
    if isinstance(value, int) or not value:
        return f"{value:{sign if value else ''},.0f}".replace("-", "\N{MINUS SIGN}")
    return f"{value:{sign},.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".replace("-", "\N{MINUS SIGN}")


def _percent(value: float) -> str:
    return _DASH if math.isnan(value) else f"{number(value, 0, '+')} %"
