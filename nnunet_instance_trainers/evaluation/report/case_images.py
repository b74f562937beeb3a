"""Masks and images of single cases, read again for pictures and checked against the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.label_folders import find_reader, voxel_volume_ml
from nnunet_instance_trainers.data.label_reading import read_image, read_labels
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.detection import Rule, detect
from nnunet_instance_trainers.evaluation.report.projections import CaseView, view
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation
from nnunet_instance_trainers.instances import label_components

__all__ = ["CaseLoader"]


class CaseLoader:
    """One case of several models, from the folders that their summaries name.

    Arrays come with the axes superior, posterior, left wherever the file says how the patient lay.

    Args:
        models: from :func:`read_models`.
        case: a case of theirs.

    Raises:
        UserError: a file is gone or unreadable.
    """

    def __init__(self, models: Sequence[Evaluation], case: str) -> None:
        self.models = models
        self.case = case
        self.settings = {model.name: model.summary["settings"] for model in models}
        self.folder = Path(self.settings[models[0].name]["ground_truth"])
        self.ending = _ending(models[0], case)
        self.dataset = _dataset(Path(self.settings[models[0].name]["dataset_json"]))
        self.reference, geometry = self._read(self.folder)
        self.voxel_ml = voxel_volume_ml(self.reference.shape, geometry["spacing"])
        self.order, self.flips = _orientation(geometry)
        spacing = [float(geometry["spacing"][axis]) for axis in self.order]
        self.spacing = spacing[1:] if self.is_flat else spacing

    @property
    def is_flat(self) -> bool:
        return self.reference.shape[0] == 1

    def views(self) -> dict[str, CaseView]:
        """The objects of each model's prediction, by model."""
        return {model.name: self._view(model) for model in self.models}

    def image(self, folder: Path | None) -> np.ndarray | None:
        """The first channel of the case's image, of a natural image the mean of its colours; None without a folder."""
        if folder is None:
            return None
        file = folder / f"{self.case}_0000{self.ending}"
        if not file.is_file():
            raise UserError(f"{folder} has no {file.name}: give the folder with the images of the evaluated cases")
        channels, _ = read_image(self._reader(), [file], self.case)
        if channels.shape[1:] != self.reference.shape:
            raise UserError(
                f"case {self.case!r}: {file} has shape {channels.shape[1:]}, its ground truth {self.reference.shape}: "
                "give the images that belong to it"
            )
        return self._turn(channels.mean(0))

    def _view(self, model: Evaluation) -> CaseView:
        settings = self.settings[model.name]
        prediction, _ = self._read(Path(settings["predictions"]))
        annotated = None if settings["instances"] is None else self._read(Path(settings["instances"]))[0]
        ignored = self.dataset["labels"].get("ignore")
        valid = self.reference != ignored if ignored is not None else None
        rule = Rule.of(settings)
        detections = []
        for key, name in settings["classes"].items():
            labels = [int(label) for label in re.findall(r"\d+", key)]
            mask, predicted = np.isin(self.reference, labels), np.isin(prediction, labels)
            ids = label_components(mask, rule.connectivity)[0] if annotated is None else np.where(mask, annotated, 0)
            turned = [self._turn(array) for array in (ids, predicted)]
            detection = detect(
                *turned, valid=None if valid is None else self._turn(valid), rule=rule, voxel_ml=self.voxel_ml
            )
            self._check(model, name, detection.counts)
            detections.append(detection)
        return view(detections)

    def _check(self, model: Evaluation, name: str, counts: Any) -> None:
        row = next(row for row in model.cases if row["case"] == self.case and row["class"] == name)
        if any(row[key] != getattr(counts, key) for key in ("found", "missed", "hits", "false")):
            raise UserError(
                f"case {self.case!r}: the masks of {model.name} are not those that were evaluated: run 'evaluate' again"
            )

    def _turn(self, array: np.ndarray) -> np.ndarray:
        turned = np.flip(array.transpose(self.order), self.flips)
        return turned[0] if self.is_flat else turned

    def _read(self, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
        file = folder / f"{self.case}{self.ending}"
        if not file.is_file():
            raise UserError(f"{file} is gone, and the pictures of cases need it: put it back, or run 'evaluate' again")
        return read_labels(self._reader(), file, self.case, np.int32)

    def _reader(self) -> Any:
        content = {**self.dataset, "file_ending": self.ending}
        example = self.folder / f"{self.case}{self.ending}"
        return find_reader(content, example)()


def _ending(model: Evaluation, case: str) -> str:
    """The ending of the files; a case's name may hold dots and begin like another's, so the order decides."""
    cases = list(dict.fromkeys(row["case"] for row in model.cases))
    files = [Path(entry["reference_file"]).name for entry in model.summary["metric_per_case"]]
    file = dict(zip(cases, files)).get(case, "")
    if not file.startswith(case):
        raise UserError(f"the summary of {model.name} does not name the files of case {case!r}: run 'evaluate' again")
    return file[len(case) :]


def _dataset(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"cannot read {file}, which the evaluation used: put it back, or run 'evaluate' again"
        ) from None


def _orientation(geometry: dict[str, Any]) -> tuple[list[int], list[int]]:
    """In which order to take the array's axes and which to flip, so that they lead up, back and to the left."""
    direction = geometry.get("sitk_stuff", {}).get("direction", ())
    matrix = np.reshape(direction, (3, 3)) if len(direction) == 9 else np.eye(3)
    main = np.abs(matrix).argmax(0)  # the patient's axis (left, back, up) along which each of the image's axes runs
    if sorted(main) != [0, 1, 2]:
        return [0, 1, 2], []
    images_axis = [int(np.flatnonzero(main == axis)[0]) for axis in (2, 1, 0)]
    flips = [i for i, (axis, own) in enumerate(zip((2, 1, 0), images_axis)) if matrix[axis, own] < 0]
    return [2 - own for own in images_axis], flips
