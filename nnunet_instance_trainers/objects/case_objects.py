"""One case: read, number the objects of each class, measure them, write their map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_folders import ForegroundClass, Labels, box_around, read_known_labels
from nnunet_instance_trainers.data.label_writing import write_image
from nnunet_instance_trainers.data.probabilities import read_probabilities
from nnunet_instance_trainers.data.spacing_files import known_geometry, known_spacing
from nnunet_instance_trainers.ensembling.class_masks import hysteresis_masks
from nnunet_instance_trainers.ensembling.object_claims import combine_classes
from nnunet_instance_trainers.ensembling.output_folder import INSTANCES, most_ids, write_case
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.instances import label_components, renumber
from nnunet_instance_trainers.instances.volume_ranges import in_range
from nnunet_instance_trainers.objects.changes import ChangeRule, find_changes
from nnunet_instance_trainers.objects.measures import measure
from nnunet_instance_trainers.objects.object_rows import change_rows, object_rows, total_row
from nnunet_instance_trainers.objects.size_units import CaseGrid, SizeUnit

__all__ = ["REFERENCE", "Job", "list_case", "map_folder"]

Row = dict[str, Any]

REFERENCE = f"{INSTANCES}/reference"
"""Where the maps of the earlier time point lie."""


@dataclass(frozen=True)
class Job:
    """What is the same for all cases; travels to the workers.

    Attributes:
        predictions: the folder of label images.
        reference: that of the earlier time point, None without.
        ending: of the files' names.
        reader: nnU-Net's class that reads and writes them.
        labels: what dataset.json says of labels.
        unit: of all sizes.
        connectivity: 6, 18 or 26.
        least: smaller objects are left out, in the unit.
        probabilities: the folder of ``.npz``, None without.
        hysteresis: low and high threshold, None for the segmentation itself.
        bins: edges of size bins, in the unit.
        rule: from which change on an object grows or shrinks.
        maps: whether instance maps are written.
        output: folder to write to.
    """

    predictions: Path
    reference: Path | None
    ending: str
    reader: type[BaseReaderWriter]
    labels: Labels
    unit: SizeUnit
    connectivity: int
    least: float
    probabilities: Path | None
    hysteresis: tuple[float, float] | None
    bins: tuple[float, ...]
    rule: ChangeRule
    maps: bool
    output: Path


@dataclass(frozen=True)
class _TimePoint:
    """One segmentation of a case.

    Attributes:
        image: (*S) labels.
        masks: (*S) bool of each class that is not taken from the image.
        probabilities: (C, *S), None without.
    """

    image: np.ndarray
    masks: Mapping[str, np.ndarray]
    probabilities: np.ndarray | None

    def mask(self, c: ForegroundClass) -> np.ndarray:
        return self.masks[c.key] if c.key in self.masks else c.mask(self.image)


@dataclass
class _Map:
    """The ids (*S) of one time point, of all labels or of one region, and how many there are so far."""

    ids: np.ndarray
    n: int = 0

    def add(self, job: Job, case: str, box: tuple[slice, ...], ids: np.ndarray, n: int) -> None:
        """Paint the ids 1..n of a class behind those before, where maps are written."""
        before, self.n = self.n, self.n + n
        if not job.maps:
            return
        if self.n > most_ids(job.reader):
            raise UserError(
                f"case {case!r} has {self.n} objects, and an instance map holds {most_ids(job.reader)}: leave the maps "
                f"away with --no-maps, or small objects with {job.unit.option}"
            )
        self.ids[box] = np.where(ids > 0, ids + before, self.ids[box])


def list_case(job: Job, case: str) -> dict[str, list[Row]]:
    """Write the maps of one case, and last a record of it.

    Returns:
        Rows of "objects", "cases" and, with an earlier time point, "reference" and "changes".

    Raises:
        UserError: a file is unreadable, does not fit the others or dataset.json, or cannot be written.
    """
    reader = job.reader()
    file = job.predictions / f"{case}{job.ending}"
    image, geometry = _read(job, reader, file, case)
    grid = CaseGrid.of(image.shape, geometry, known_spacing(reader, file, geometry))
    if grid.unit != job.unit:
        raise UserError(
            f"case {case!r}: {file} has sizes in {grid.unit.text} and the first case in {job.unit.text}: give images "
            "of one kind, all with or all without a spacing"
        )
    points = {"objects": _time_point(job, image, job.probabilities, case)}
    if job.reference is not None:
        points["reference"] = _earlier(job, reader, case, image, geometry)
    maps: dict[str, _Map] = {}
    record = _lists(job, case, points, grid, maps)
    with write_case(job.output, case, record) as folder:
        for name, own in maps.items() if job.maps else ():
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_image(reader, own.ids, folder / name / file.name, geometry, case)
    return record


def map_folder(labels: Labels, side: str, c: ForegroundClass) -> str:
    """Where in the output the map of a class lies: that of all labels, or with regions its own."""
    root = INSTANCES if side == "objects" else REFERENCE
    return root if labels.regions_order is None else f"{root}/region_{'_'.join(map(str, c.labels))}"


# --- reading -----------------------------------------------------------------------------------------------


def _read(job: Job, reader: BaseReaderWriter, file: Path, case: str) -> tuple[np.ndarray, dict[str, Any]]:
    ignore = job.labels.ignore
    image, geometry = read_known_labels(reader, file, case, (*job.labels.known, *([] if ignore is None else [ignore])))
    return image, geometry


def _earlier(job: Job, reader: BaseReaderWriter, case: str, image: np.ndarray, geometry: dict[str, Any]) -> _TimePoint:
    assert job.reference is not None
    file = job.reference / f"{case}{job.ending}"
    earlier, own = _read(job, reader, file, case)
    own = known_geometry(reader, file, own, geometry)
    check_grid(file, case, earlier, own, image, geometry, other=str(job.predictions / file.name))
    return _time_point(job, earlier, job.reference if job.hysteresis else None, case)


def _time_point(job: Job, image: np.ndarray, folder: Path | None, case: str) -> _TimePoint:
    classes, exclusive = job.labels.classes, job.labels.regions_order is None
    probabilities, masks = None, {}
    if folder is not None:
        probabilities = read_probabilities(folder / f"{case}.npz", case, image.shape, classes)
    if job.hysteresis is not None and probabilities is not None:
        thresholds = {c.key: job.hysteresis for c in classes}
        masks = hysteresis_masks(
            probabilities, image, classes, thresholds, exclusive=exclusive, connectivity=job.connectivity
        )
        if exclusive:  # of two labels that claim a voxel the first has it, as in an ensemble
            whole = combine_classes({c.labels[0]: masks[c.key].astype(np.uint8) for c in classes}, image.shape)
            masks = {c.key: c.mask(whole) for c in classes}
    return _TimePoint(image, masks, probabilities)


# --- numbering and measuring -------------------------------------------------------------------------------


def _lists(
    job: Job, case: str, points: Mapping[str, _TimePoint], grid: CaseGrid, maps: dict[str, _Map]
) -> dict[str, list[Row]]:
    """The rows of a case; fills its maps."""
    record: dict[str, list[Row]] = {name: [] for name in ("objects", "cases", "reference", "changes")}
    for c in job.labels.classes:
        masks = {side: point.mask(c) for side, point in points.items()}
        box = box_around(np.logical_or.reduce(list(masks.values())) if len(masks) > 1 else masks["objects"])
        ids, rows = {}, {}
        for side, point in points.items():
            ids[side], n = _numbered(job, masks[side][box], grid)
            channel = None if point.probabilities is None else point.probabilities[c.channel][box]
            own = maps.setdefault(map_folder(job.labels, side, c), _Map(np.zeros(point.image.shape, np.uint16)))
            inner = 0 if grid.flat else slice(None)
            measures = measure(ids[side][inner], n, grid.spacing_mm, None if channel is None else channel[inner])
            rows[side] = object_rows(case, c.name, measures, [axis.start for axis in box], grid, own.n + 1)
            own.add(job, case, box, ids[side], n)
        changes = []
        if "reference" in points:
            sizes = {side: [row["voxels"] for row in rows[side]] for side in rows}
            found = find_changes(ids["reference"], ids["objects"], sizes["reference"], sizes["objects"], job.rule)
            changes = change_rows(case, c.name, found, rows["reference"], rows["objects"], job.unit)
        record["cases"].append(total_row(case, c.name, rows, changes, job.unit, job.bins))
        record["changes"] += changes
        for side, listed in rows.items():
            record[side] += listed
    return record


def _numbered(job: Job, mask: np.ndarray, grid: CaseGrid) -> tuple[np.ndarray, int]:
    """Ids 1..n of the objects that are large enough."""
    ids, n = label_components(mask, job.connectivity)
    if job.least > 0 and n:
        size = np.bincount(ids[ids > 0], minlength=n + 1)[1:] * grid.voxel_size
        return renumber(ids * np.append(False, in_range(size, job.least, np.inf))[ids])
    return ids, n
