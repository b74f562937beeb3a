"""Cross-validation predictions of several trainers in nnU-Net's folders, read into lists of objects."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from scipy import ndimage

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_folders import (
    ForegroundClass,
    Labels,
    box_around,
    case_names,
    find_labels,
    find_reader,
    read_dataset,
    read_known_labels,
    voxel_volume_ml,
)
from nnunet_instance_trainers.data.nnunet_commands import dataset_id
from nnunet_instance_trainers.data.probabilities import read_probabilities
from nnunet_instance_trainers.data.spacing_files import known_geometry
from nnunet_instance_trainers.ensemble_fitting.object_lists import ObjectLists, list_objects
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.scoring.case_scores import read_instances
from nnunet_instance_trainers.instances import label_components

__all__ = ["LOWS", "ListJob", "Models", "find_cases", "list_case"]

LOWS = (0.2, 0.35, 0.5)
"""Candidates for the lower threshold of hysteresis."""


@dataclass(frozen=True)
class Models:
    """Trained models of one dataset and configuration.

    Attributes:
        dataset: its full name.
        configuration, plans: names of nnU-Net's.
        trainers: their class names.
        folds: of the cross-validation.
    """

    dataset: str
    configuration: str
    plans: str
    trainers: tuple[str, ...]
    folds: tuple[int, ...]

    def folder(self, trainer: str) -> Path:
        """Where nnU-Net keeps the folds of a trainer."""
        results = Path(os.environ["nnUNet_results"])
        return results / self.dataset / f"{trainer}__{self.plans}__{self.configuration}"

    def validation(self, trainer: str, fold: int) -> Path:
        """The predictions of the cases that a fold was not trained on."""
        return self.folder(trainer) / f"fold_{fold}" / "validation"

    @property
    def ground_truth(self) -> Path:
        """The labels of the cases that the folds predict."""
        return Path(os.environ["nnUNet_preprocessed"]) / self.dataset / "gt_segmentations"

    def previous_stage(self, trainer: str) -> str | None:
        """The configuration that a cascade's model builds on; None where it builds on none.

        Raises:
            UserError: the model or its plans.json is missing or damaged.
        """
        if not self.folder(trainer).is_dir():
            raise UserError(f"there is no trained {trainer} in {self.folder(trainer)}: check --trainers, -c and -p")
        file = self.folder(trainer) / "plans.json"
        try:
            return json.loads(file.read_text())["configurations"][self.configuration].get("previous_stage")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{file} has no configuration {self.configuration!r}: train again") from None


@dataclass(frozen=True)
class ListJob:
    """What is the same for all cases; travels to the workers.

    Attributes:
        ground_truth: folder of label images.
        instances: the folder of annotators' maps, None for components of the ground truth.
        folders: of each case the folder of each model's prediction.
        ending: of the files' names.
        reader: nnU-Net's class that reads them.
        labels: what dataset.json says of them.
        lows: lower thresholds of hysteresis; none where no probabilities are read.
        connectivity: neighbours that join voxels to objects.
        unsaved: files of probabilities that are missing where others are there.
    """

    ground_truth: Path
    instances: Path | None
    folders: dict[str, tuple[Path, ...]]
    ending: str
    reader: type[BaseReaderWriter]
    labels: Labels
    lows: tuple[float, ...]
    connectivity: int
    unsaved: tuple[Path, ...] = ()


def list_case(job: ListJob, case: str) -> list[ObjectLists]:
    """The lists of each class of one case.

    Raises:
        UserError: a file is unreadable, or does not fit the others or dataset.json.
    """
    reader, labels, name = job.reader(), job.labels, f"{case}{job.ending}"
    ignore = () if labels.ignore is None else (labels.ignore,)
    target, geometry = read_known_labels(reader, job.ground_truth / name, case, (*labels.known, *ignore))
    predictions, probabilities = [], []
    for folder in job.folders[case]:
        prediction, own = read_known_labels(reader, folder / name, case, labels.known)
        geometry = known_geometry(reader, job.ground_truth / name, geometry, own)
        check_grid(folder / name, case, prediction, own, target, geometry)
        predictions.append(prediction)
        if job.lows:
            probabilities.append(read_probabilities(folder / f"{case}.npz", case, target.shape, labels.classes))
    annotated = None
    if job.instances is not None:
        annotated = read_instances(reader, job.instances / name, case, labels.classes, target, geometry)
    ignored = np.isin(target, ignore)
    voxel_ml = voxel_volume_ml(target.shape, geometry["spacing"])
    lists = []
    for c in labels.classes:
        mask, sources = c.mask(target), [c.mask(prediction) for prediction in predictions]
        peaks: list[np.ndarray | None] = [None] * len(sources)
        for low in job.lows:
            for prediction, p in zip(predictions, probabilities):
                above, peak = _above(p[c.channel], low, prediction, c, labels, job.connectivity)
                sources.append(above)
                peaks.append(peak)
        box = box_around(np.logical_or.reduce([mask, *sources]))
        lists.append(
            list_objects(
                label_components(mask[box], job.connectivity)[0]
                if annotated is None
                else np.where(mask[box], annotated[box], 0),
                [source[box] for source in sources],
                probabilities=[None if peak is None else peak[box] for peak in peaks],
                valid=~ignored[box] if ignored.any() else None,
                voxel_ml=voxel_ml,
                connectivity=job.connectivity,
            )
        )
    return lists


def _above(
    p: np.ndarray, low: float, prediction: np.ndarray, c: ForegroundClass, labels: Labels, connectivity: int = 26
) -> tuple[np.ndarray, np.ndarray]:
    """(*S) where p > low, what the model gives to another label left out, and the peak of the component there."""
    ids, n = label_components(p > low, connectivity)
    peak = np.append(0, ndimage.maximum(p, ids, np.arange(1, n + 1)) if n else ())[ids]
    above = ids > 0
    if labels.regions_order is None:
        above &= (prediction == 0) | c.mask(prediction)
    return above, peak


# --- before the first case ---------------------------------------------------------------------------------


def find_cases(models: Models, instances: Path | None, connectivity: int) -> tuple[ListJob, dict[str, int]]:
    """What the workers need, and the fold of each case."""
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / models.dataset
    truth, file = models.ground_truth, preprocessed / "dataset.json"
    dataset = read_dataset(file)
    ending = dataset["file_ending"]
    fold_of = _cases(models, ending)
    for what, folder in (("ground truth", truth), ("instance map", instances)):
        missing = sorted(set(fold_of) - case_names(folder, ending)) if folder is not None else []
        if missing:
            raise UserError(f"the {what} of case {missing[0]!r} is missing in {folder}: add it")
    folders = {c: tuple(models.validation(t, fold) for t in models.trainers) for c, fold in fold_of.items()}
    files = [folder / f"{case}.npz" for case, parts in folders.items() for folder in parts]
    unsaved = tuple(file for file in files if not file.is_file())
    case = min(fold_of)
    job = ListJob(
        ground_truth=truth,
        instances=instances,
        folders=folders,
        ending=ending,
        reader=find_reader(dataset, folders[case][0] / f"{case}{ending}"),
        labels=find_labels(dataset, file),
        lows=() if unsaved else LOWS,
        connectivity=connectivity,
        unsaved=unsaved if len(unsaved) < len(files) else (),
    )
    return job, fold_of


def _cases(models: Models, ending: str) -> dict[str, int]:
    """The fold of each case; every model has predicted all of them."""
    for trainer in models.trainers:
        models.previous_stage(trainer)  # the commands need it: better to fail now
    fold_of: dict[str, int] = {}
    for fold in models.folds:
        predicted = {trainer: _validated(models, trainer, fold, ending) for trainer in models.trainers}
        together = set().union(*predicted.values())
        for trainer, cases in predicted.items():
            if together - cases:
                other = next(t for t in models.trainers if min(together - cases) in predicted[t])
                raise UserError(
                    f"fold {fold}: case {min(together - cases)!r} was predicted by {other} and not by {trainer}: "
                    f"{_advice(models, trainer, fold)}"
                )
        twice = sorted(together & fold_of.keys())
        if twice:
            raise UserError(
                f"case {twice[0]!r} was predicted in folds {fold_of[twice[0]]} and {fold}: train all with one split"
            )
        fold_of.update(dict.fromkeys(together, fold))
    if len(fold_of) < 3:
        raise UserError(f"there are only {len(fold_of)} validation cases: a fit needs three or more, give more folds")
    return fold_of


def _validated(models: Models, trainer: str, fold: int, ending: str) -> set[str]:
    folder = models.validation(trainer, fold)
    if not folder.is_dir() or not any(folder.glob(f"[!.]*{ending}")):
        raise UserError(
            f"fold {fold} of {trainer} has no predictions in {folder}: {_advice(models, trainer, fold)}, or "
            "leave it out of -f"
        )
    return case_names(folder, ending)


def _advice(models: Models, trainer: str, fold: int) -> str:
    plans = "" if models.plans == "nnUNetPlans" else f" -p {models.plans}"
    dataset = dataset_id(models.dataset)
    return f"run 'nnunet-instance train {dataset} {models.configuration} {fold} -tr {trainer}{plans} --val'"
