"""``nnunet-instance objects``: every object of a folder of segmentations in tables, maps and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.data.label_folders import (
    case_names,
    find_labels,
    find_reader,
    read_dataset,
)
from nnunet_instance_trainers.data.label_reading import read_labels
from nnunet_instance_trainers.data.spacing_files import known_spacing
from nnunet_instance_trainers.data.text_files import read_table
from nnunet_instance_trainers.data.text_tables import aligned, write_table
from nnunet_instance_trainers.ensembling.folder_ensemble import find_dataset_json
from nnunet_instance_trainers.ensembling.output_folder import REMEDY, Output, check_apart, digest_states
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.objects.case_objects import Job, list_case
from nnunet_instance_trainers.objects.changes import BY_A_QUARTER, STATES, ChangeRule
from nnunet_instance_trainers.objects.object_rows import columns
from nnunet_instance_trainers.objects.page import PAGE, objects_page
from nnunet_instance_trainers.objects.size_units import UNITS, CaseGrid, SizeUnit

__all__ = ["format_totals", "list_objects"]

Row = dict[str, Any]


def list_objects(
    predictions: Path,
    output: Path,
    *,
    reference: Path | None = None,
    probabilities: Path | None = None,
    hysteresis: tuple[float, float] | None = None,
    least: tuple[SizeUnit, float] | None = None,
    connectivity: int = 26,
    bins: Sequence[float] | None = None,
    rule: ChangeRule = BY_A_QUARTER,
    maps: bool = True,
    dataset_json: Path | None = None,
    n_processes: int = 1,
) -> None:
    """List the objects of a folder of label images.

    Writes ``objects.csv`` and ``cases.csv``, with an earlier time point ``reference.csv`` and ``changes.csv``, maps of
    the ids in ``instances/``, the page ``objects.html``, and last ``objects.json`` (how it was made). All of it is made
    in a hidden folder beside ``output`` and put in place when it is whole; the same call goes on where a killed one
    stopped.

    Args:
        predictions: the folder.
        output: a folder that is missing, empty, or of an earlier call.
        reference: label images of an earlier time point with the same names, each on the grid of its case.
        probabilities: the folder of nnU-Net's ``.npz``; None for that of the predictions, where every case has one.
        hysteresis: low and high: objects are the components of p > low whose peak exceeds high.
        least: smaller objects are left out.
        connectivity: 6, 18 or 26; in 2D 6 stands for 4 and the others for 8.
        bins: edges of the size bins in the unit of sizes; None for the unit's own.
        rule: from which change on an object grows or shrinks.
        maps: write instance maps.
        dataset_json: None to look for it in, above and two above the predictions.
        n_processes: worker processes.

    Raises:
        UserError: folders, cases and options do not fit each other, or a case cannot be listed.
    """
    file = find_dataset_json({"": [predictions]}, dataset_json)
    dataset = read_dataset(file)
    ending = dataset["file_ending"]
    cases = sorted(case_names(predictions, ending))
    probabilities = _probabilities(predictions, reference, probabilities, cases, hysteresis is not None)
    if reference is not None:
        _require(cases, reference, ending, "segmentation of the earlier time point", "add it")
    check_apart(output, [folder for folder in (predictions, reference, probabilities) if folder is not None])
    reader = find_reader(dataset, predictions / f"{cases[0]}{ending}")
    flat, unit = _kind(reader(), predictions / f"{cases[0]}{ending}", cases[0])
    if least is not None and least[0] != unit:
        raise UserError(f"{least[0].option} does not fit images with sizes in {unit.text}: use {unit.option}")
    job = Job(
        predictions=predictions,
        reference=reference,
        ending=ending,
        reader=reader,
        labels=find_labels(dataset, file),
        unit=unit,
        connectivity=connectivity,
        least=0.0 if least is None else least[1],
        probabilities=probabilities,
        hysteresis=hysteresis,
        bins=unit.bins if bins is None else tuple(float(edge) for edge in bins),
        rule=rule,
        maps=maps,
        output=output,
    )
    settings = _settings(job, file)
    place = Output(output, {**settings, "inputs": _inputs(job, file, cases)}, "objects")
    if place.is_whole:
        with writing(output, REMEDY):
            place.publish()
        return
    job = replace(job, output=place.folder)
    with place.or_nothing():
        _write(job, place.make(list_case, job, cases, n_processes), settings, flat)
    place.finish({})


def _write(job: Job, records: dict[str, dict[str, list[Row]]], settings: dict[str, Any], flat: bool) -> None:
    """The tables and the page."""
    names = columns(
        job.unit,
        job.bins,
        flat=flat,
        probabilities=job.probabilities is not None,
        reference=job.reference is not None,
    )
    tables = {name: [row for record in records.values() for row in record[name]] for name in names}
    for name, own in names.items():
        rows = ({column: row[column] for column in own} for row in tables[name])
        write_table(job.output / f"{name}.csv", rows, own, REMEDY)
    page = objects_page(job, tables, settings)
    with writing(job.output, REMEDY):
        (job.output / PAGE).write_text(page, encoding="utf-8")


# --- before the first case ---------------------------------------------------------------------------------


def _probabilities(
    predictions: Path, reference: Path | None, given: Path | None, cases: Sequence[str], needed: bool
) -> Path | None:
    """The folder of probabilities: the given one, or that of the predictions where every case has one or needs it."""
    folder = given or predictions
    if given is not None or needed:
        remedy = "predict with --save_probabilities"
        _require(cases, folder, ".npz", "file of probabilities", remedy)
        if needed and reference is not None:
            _require(cases, reference, ".npz", "file of probabilities", remedy)
        return folder
    return folder if all((folder / f"{case}.npz").is_file() for case in cases) else None


def _require(cases: Sequence[str], folder: Path, ending: str, what: str, remedy: str) -> None:
    missing = [case for case in cases if not (folder / f"{case}{ending}").is_file()]
    if missing:
        more = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"the {what} of case {missing[0]!r}{more} is missing in {folder}: {remedy}")


def _kind(reader: Any, file: Path, case: str) -> tuple[bool, SizeUnit]:
    """Whether a case is flat, and the unit of its sizes, which all others must have too."""
    image, geometry = read_labels(reader, file, case, None)
    grid = CaseGrid.of(image.shape, geometry, known_spacing(reader, file, geometry))
    return grid.flat, grid.unit


def _settings(job: Job, dataset_json: Path) -> dict[str, Any]:
    folders = {name: getattr(job, name) for name in ("predictions", "reference", "probabilities")}
    return {
        **{name: None if folder is None else str(folder.resolve()) for name, folder in folders.items()},
        "hysteresis": None if job.hysteresis is None else list(job.hysteresis),
        "sizes_in": job.unit.text,
        "least_size": job.least,
        "connectivity": job.connectivity,
        "bins": list(job.bins),
        "growth_percent": 100 * job.rule.growth,
        "shrinkage_percent": 100 * job.rule.shrinkage,
        "maps": job.maps,
        "dataset_json": str(dataset_json.resolve()),
        "version": __version__,
    }


def _inputs(job: Job, dataset_json: Path, cases: Sequence[str]) -> str:
    """A digest of the state of all files that may be read."""
    folders = [folder for folder in (job.predictions, job.reference, job.probabilities) if folder is not None]
    endings = (job.ending, ".npz", ".json")
    files = [folder / f"{case}{ending}" for folder in folders for case in cases for ending in endings]
    return digest_states([dataset_json, *files])


# --- after the last ----------------------------------------------------------------------------------------


def format_totals(output: Path) -> str:
    """Sums over the cases for the screen, a line per class, with an earlier time point also its changes by state."""
    rows = read_table(output / "cases.csv", REMEDY)
    unit = next(unit for unit in UNITS if unit.column in rows[0])
    names = ["objects", *(state for state in STATES if state in rows[0])]
    table = [["class", unit.text, *names]]
    for name in dict.fromkeys(row["class"] for row in rows):
        own = [row for row in rows if row["class"] == name]
        size = sum(float(row[unit.column]) for row in own)
        table.append([name, f"{size:.6g}", *(str(sum(int(row[column]) for row in own)) for column in names)])
    return aligned(table)
