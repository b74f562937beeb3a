"""Ensembles of folders of nnU-Net predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.data.label_folders import case_names, find_labels, find_reader, read_dataset
from nnunet_instance_trainers.data.text_files import read_table
from nnunet_instance_trainers.data.text_tables import aligned, write_table
from nnunet_instance_trainers.ensembling.case_ensemble import Job, Row, ensemble_case
from nnunet_instance_trainers.ensembling.ensemble_plan import EnsemblePlan
from nnunet_instance_trainers.ensembling.output_folder import REMEDY, Output, check_apart, digest_states
from nnunet_instance_trainers.errors import UserError, writing

__all__ = ["ensemble", "find_dataset_json", "format_members"]

_TABLE = "ensemble.csv"


def ensemble(
    plan: EnsemblePlan,
    predictions: Mapping[str, Sequence[Path]],
    output: Path,
    *,
    instances: bool = False,
    areas: bool = False,
    dataset_json: Path | None = None,
    n_processes: int = 1,
) -> list[Row]:
    """Merge the predictions of several models case by case.

    Writes the images, ``dataset.json`` and ``plans.json`` of the earliest model that has them, ``ensemble.csv`` (where
    the objects came from) and ``ensemble.json`` (how it was made). All of it is made in a hidden folder beside
    ``output`` and put in place when it is whole. The same call goes on where a killed one stopped.

    Args:
        plan: what the ensemble does.
        predictions: for each of its models the folders of label images, several where it has folds.
        output: a folder that is missing, empty, or an earlier ensemble.
        instances: write instance maps too, to ``instances/``.
        areas: the plan's ranges are areas of 2D images; others are refused.
        dataset_json: None to look for it in, above and two above the folders.
        n_processes: worker processes.

    Returns:
        A row per case and class.

    Raises:
        UserError: models, folders or cases do not fit each other, or a case cannot be merged.
    """
    folders = _folders(plan, predictions)
    file = find_dataset_json(folders, dataset_json)
    dataset = read_dataset(file)
    labels = find_labels(dataset, file)
    plan = plan.for_classes(c.key for c in labels.classes)
    ending = dataset["file_ending"]
    cases = _cases(folders, ending)
    _check_output(output, folders, cases, ending)
    reader = find_reader(dataset, folders[plan.models[0]][0] / f"{cases[0]}{ending}")
    place = Output(output, _settings(plan, folders, cases, ending, file, instances))
    job = Job(folders, ending, reader, labels, plan, instances, areas, place.folder)
    if not place.is_whole:
        with place.or_nothing():
            rows = [row for own in place.make(ensemble_case, job, cases, n_processes).values() for row in own]
            write_table(place.folder / _TABLE, rows, list(rows[0]), REMEDY)
        place.finish(_copies(folders, file))
    else:
        with writing(output, REMEDY):
            place.publish()
    return [
        {name: cell if name in ("case", "class") else int(cell) for name, cell in row.items()}
        for row in read_table(output / _TABLE, REMEDY)
    ]


# --- before the first case ---------------------------------------------------------------------------------


def _folders(plan: EnsemblePlan, predictions: Mapping[str, Sequence[Path]]) -> dict[str, tuple[Path, ...]]:
    missing = [name for name in plan.models if not predictions.get(name)]
    if missing:
        raise UserError(f"there is no folder of predictions for model {missing[0]!r}: add it with --predictions")
    unknown = sorted(set(predictions) - set(plan.models))
    if unknown:
        raise UserError(
            f"the ensemble has no model {unknown[0]!r}, its models are {', '.join(plan.models)}: leave it away"
        )
    folders = {name: tuple(predictions[name]) for name in plan.models}
    for name, own in folders.items():
        if len({folder.resolve() for folder in own}) < len(own):
            raise UserError(f"a folder of model {name!r} is given twice: give each fold once")
        if plan.vote is not None and 1 < len(own) < plan.vote:
            raise UserError(
                f"a vote of {plan.vote} needs as many folders, model {name!r} has {len(own)}: add the folds"
            )
    return folders


def _cases(folders: Mapping[str, Sequence[Path]], ending: str) -> list[str]:
    names = {folder: case_names(folder, ending) for own in folders.values() for folder in own}
    everything = set().union(*names.values())
    for folder, own in names.items():
        missing = everything - own
        if missing:
            case = min(missing)
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            other = next(folder for folder, own in names.items() if case in own)
            raise UserError(
                f"case {case!r}{more} is missing in {folder}, but is in {other}: add it, or remove it there"
            )
    return sorted(everything)


def _places(folder: Path) -> tuple[Path, ...]:
    # Folders of nnU-Net's validation, fold_X/validation, have these files two above.
    folder = folder.resolve()
    return folder, folder.parent, folder.parent.parent


def _find(folder: Path, name: str) -> Path | None:
    return next((place / name for place in _places(folder) if (place / name).is_file()), None)


def find_dataset_json(folders: Mapping[str, Sequence[Path]], given: Path | None) -> Path:
    """The dataset.json that is given, or lies in, above or two above folders of predictions.

    Args:
        folders: the folders of each model.
        given: the one that was given, or None.

    Raises:
        UserError: there is none, or several differ.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"{given} is missing: give the dataset's dataset.json with -djfile")
        return given
    every = [folder for own in folders.values() for folder in own]
    for folder in every:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
    found = [file for folder in every if (file := _find(folder, "dataset.json")) is not None]
    if not found:
        raise UserError(f"no dataset.json in or above {every[0]}: give one with -djfile")
    contents = [read_dataset(file) for file in found]
    for file, content in zip(found, contents):
        for key in ("labels", "regions_class_order", "file_ending"):
            if content.get(key) != contents[0].get(key):
                raise UserError(f"{found[0]} and {file} differ in {key}: predictions of one dataset can be merged only")
    return found[0]


def _check_output(output: Path, folders: Mapping[str, Sequence[Path]], cases: Sequence[str], ending: str) -> None:
    check_apart(output, (folder for own in folders.values() for folder in own))
    stale = {file.name[: -len(ending)] for file in output.glob(f"[!.]*{ending}")} - set(cases)
    if stale:
        raise UserError(
            f"{output} has case {min(stale)!r}, which the predictions have not: give another folder with -o"
        )


def _settings(
    plan: EnsemblePlan,
    folders: Mapping[str, Sequence[Path]],
    cases: Sequence[str],
    ending: str,
    dataset_json: Path,
    instances: bool,
) -> dict[str, Any]:
    """How the ensemble is made, and a digest of the state of the files that it is made from."""
    names = [f"{case}{end}" for case in cases for end in (ending, *([".npz"] if any(plan.hysteresis.values()) else []))]
    files = [dataset_json, *(folder / name for own in folders.values() for folder in own for name in names)]
    return {
        "plan": plan.to_json(),
        "predictions": {name: [str(folder.resolve()) for folder in own] for name, own in folders.items()},
        "instances": instances,
        "inputs": digest_states(files),
        "version": __version__,
    }


def _copies(folders: Mapping[str, Sequence[Path]], dataset_json: Path) -> dict[str, Path]:
    every = [folder for own in folders.values() for folder in own]
    plans = next((file for folder in every if (file := _find(folder, "plans.json")) is not None), None)
    return {"dataset.json": dataset_json, **({"plans.json": plans} if plans is not None else {})}


# --- after the last ----------------------------------------------------------------------------------------


def format_members(rows: Sequence[Row]) -> str:
    """Sums over the cases for the screen, a line per class."""
    columns = [name for name in rows[0] if name not in ("case", "class")]
    table = [["class", *columns]]
    for name in dict.fromkeys(row["class"] for row in rows):
        table.append([name, *(str(sum(row[column] for row in rows if row["class"] == name)) for column in columns)])
    return aligned(table)
