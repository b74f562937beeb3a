"""Pictures of whole cases with each object in the colour of its class, or of what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.label_reading import read_labels
from nnunet_instance_trainers.evaluation import chart_looks
from nnunet_instance_trainers.evaluation.report.pictures import Picture, bitmap, vector
from nnunet_instance_trainers.evaluation.report.projections import CaseView, Frame, draw_case
from nnunet_instance_trainers.objects.case_objects import Job, map_folder
from nnunet_instance_trainers.objects.object_charts import Look

__all__ = ["case_picture", "keys"]

Row = dict[str, Any]

_LARGEST = 4_000_000  # pixels of a picture, above which one of a few inches shows no objects and takes gigabytes


def keys(looks: Mapping[str, Look], *, marked: bool) -> list[Picture]:
    """The legend: of pictures with what marks places, of bars with hatchings."""
    return [
        vector(chart_looks.key(look.colour, look.marker if marked else "", "" if marked else look.hatch), name=name)
        for name, look in looks.items()
    ]


def case_picture(job: Job, case: str, rows: Sequence[Row], looks: Mapping[str, Look], group: str) -> Picture | None:
    """One case from its written maps; None where it is too large.

    Args:
        job: which wrote them.
        case: its name.
        rows: its objects, and those of the earlier time point that vanished.
        looks: by group, in the order in which they cover each other.
        group: the column of rows that says the group.
    """
    code = {name: number for number, name in enumerate(looks, start=1)}
    codes: np.ndarray | None = None
    geometry: dict[str, Any] = {}
    for c in job.labels.classes:
        for side in ("objects", "reference") if job.reference is not None else ("objects",):
            file = job.output / map_folder(job.labels, side, c) / f"{case}{job.ending}"
            ids, geometry = read_labels(job.reader(), file, case, None)
            of_id = np.zeros(int(ids.max()) + 1, np.uint8)
            for row in rows:
                if row["class"] == c.name and (row.get("state") == "vanished") == (side == "reference"):
                    of_id[row["id"]] = code[row[group]]
            own = of_id[ids]
            codes = own if codes is None else np.maximum(codes, own)
    assert codes is not None
    frame = Frame.of(codes.shape, geometry)
    views = frame.projections(codes)
    if max(view.size for view in views) > _LARGEST:
        return None
    places = {}
    for name, look in looks.items():
        own = [[row.get("centre_k", 0.0), row["centre_j"], row["centre_i"]] for row in rows if row[group] == name]
        if own and look.marker:
            places[name] = frame.places(np.array(own))
    counts = {name: sum(row[group] == name for row in rows) for name in looks}
    words = ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "no objects"
    marks = {name: (look.colour, look.marker) for name, look in looks.items()}
    figure = draw_case(CaseView(views, places, counts), None, frame.edges(geometry["spacing"]), marks)
    kind = "Image" if len(views) == 1 else "Maximum-intensity projections in three views"
    return bitmap(figure, f"{kind} of the objects of case {case}: {words}.", case, (words,))
