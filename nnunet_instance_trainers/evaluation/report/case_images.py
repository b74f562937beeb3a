"""Masks and images of single cases, read again for pictures; what has changed since the evaluation is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_folders import box_around, find_reader, voxel_volume_ml
from nnunet_instance_trainers.data.label_reading import read_image, read_labels
from nnunet_instance_trainers.data.map_store import digest
from nnunet_instance_trainers.data.spacing_files import known_geometry
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.detection import Rule, detect
from nnunet_instance_trainers.evaluation.report.projections import CaseView, Frame, view
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation

__all__ = ["CaseLoader"]


class CaseLoader:
    """One case of several models, from the folders that their summaries name.

    Pictures come with the axes superior, posterior, left wherever the file says how the patient lay.

    Args:
        models: from :func:`~nnunet_instance_trainers.evaluation.comparing.evaluated_models.read_models`.
        case: a case of theirs.

    Raises:
        UserError: a file is gone, unreadable, or not the one that was evaluated.
    """

    def __init__(self, models: Sequence[Evaluation], case: str) -> None:
        self.models = models
        self.case = case
        self.settings = {model.name: model.summary["settings"] for model in models}
        self.entries = {model.name: _entry(model, case) for model in models}
        self.folder = Path(self.settings[models[0].name]["ground_truth"])
        self.ending = _ending(models[0], self.entries[models[0].name], case)
        dataset_json = Path(self.settings[models[0].name]["dataset_json"])
        self.dataset = read_json(dataset_json, "the evaluation used it: put it back, or run 'evaluate' again")
        self.reader = find_reader({**self.dataset, "file_ending": self.ending}, self._file(self.folder))()
        self.reference, geometry = self._read(self.folder, "reference", *models)
        # Of a truth without its spacing a prediction has it.
        known = known_geometry(self.reader, self._file(self.folder), geometry, {})
        self.geometry = known or self._predicted(models[0])[1]
        self.frame = Frame.of(self.reference.shape, self.geometry)

    @property
    def spacing(self) -> list[float]:
        """Of the axes of pictures."""
        return self.frame.edges(self.geometry["spacing"])

    def view(self, model: Evaluation) -> CaseView:
        """The objects of a model's prediction."""
        settings = self.settings[model.name]
        prediction, _ = self._predicted(model)
        annotated = settings["instances"] and self._read(Path(settings["instances"]), "instances", model)[0]
        ignored = self.dataset["labels"].get("ignore")
        valid = self.reference != ignored if ignored is not None else None
        rule = Rule.of(settings)
        parts = []
        for key in settings["classes"]:
            labels = [int(label) for label in re.findall(r"\d+", key)]
            mask, predicted = (np.logical_or.reduce([i == n for n in labels]) for i in (self.reference, prediction))
            box = box_around(mask | predicted)
            detection = detect(
                None if annotated is None else annotated[box],
                predicted[box],
                within=mask[box],
                valid=None if valid is None else valid[box],
                rule=rule,
                voxel_ml=voxel_volume_ml(self.reference.shape, self.geometry["spacing"]),
            )
            parts.append((detection, [axis.start for axis in box]))
        return view(parts, self.frame)

    def image(self, folder: Path | None) -> tuple[np.ndarray, ...] | None:
        """The case's image as pictures show it, of its first file, of a natural image the mean of its colours.

        Args:
            folder: of images in nnU-Net's naming; None for no image.

        Raises:
            UserError: it is missing, unreadable, or lies on another grid than the ground truth.
        """
        if folder is None:
            return None
        file = folder / f"{self.case}_0000{self.ending}"
        if not file.is_file():
            raise UserError(f"{folder} has no {file.name}: give the folder with the images of the evaluated cases")
        channels, own = read_image(self.reader, [file], self.case)
        own = known_geometry(self.reader, folder / f"{self.case}{self.ending}", own, self.geometry)
        check_grid(file, self.case, channels[0], own, self.reference, self.geometry)
        image = channels[0] if len(channels) == 1 else channels.mean(0)
        known = np.isfinite(image)  # outside the head some have nan
        np.copyto(image, image.min(initial=np.inf, where=known) if known.any() else 0, where=~known)
        return self.frame.projections(image)

    def _predicted(self, model: Evaluation) -> tuple[np.ndarray, dict[str, Any]]:
        return self._read(Path(self.settings[model.name]["predictions"]), "prediction", model)

    def _file(self, folder: Path) -> Path:
        return folder / f"{self.case}{self.ending}"

    def _read(self, folder: Path, what: str, *models: Evaluation) -> tuple[np.ndarray, dict[str, Any]]:
        file = self._file(folder)
        if not file.is_file():
            raise UserError(f"{file} is gone, and the pictures of cases need it: put it back, or run 'evaluate' again")
        now = digest(file)
        for model in models:
            if self.entries[model.name].get("sha256", {}).get(what) != now:
                raise UserError(
                    f"case {self.case!r}: {file} is not the file that {model.name} was evaluated with: run "
                    "'evaluate' again"
                )
        return read_labels(self.reader, file, self.case, None)


def _entry(model: Evaluation, case: str) -> dict[str, Any]:
    """What the summary says of a case; its entries are in the order of the table's cases."""
    cases = list(dict.fromkeys(row["case"] for row in model.cases))
    return dict(zip(cases, model.summary["metric_per_case"])).get(case, {})


def _ending(model: Evaluation, entry: dict[str, Any], case: str) -> str:
    """The ending of the files; a case's name may hold dots and begin like another's."""
    file = Path(entry.get("reference_file", "")).name
    if not file.startswith(case):
        raise UserError(f"the summary of {model.name} does not name the files of case {case!r}: run 'evaluate' again")
    return file[len(case) :]
