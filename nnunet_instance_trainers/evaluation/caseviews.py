"""Masks and images of single cases, read again for pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.files import Evaluation
from nnunet_instance_trainers.evaluation.projections import CaseView, view
from nnunet_instance_trainers.evaluation.scores import Rule, detect
from nnunet_instance_trainers.instances import label_components

__all__ = ["CaseLoader"]


class CaseLoader:
    """One case of several models, with the files that the models' summaries name.

    Args:
        models: from :func:`read_models`.
        case: a case of theirs.
    """

    def __init__(self, models: Sequence[Evaluation], case: str) -> None:
        self.models = models
        self.case = case
        self.files = {model.name: _files(model, case) for model in models}
        reference = self.files[models[0].name][0]
        self.ending = reference.name[len(case) :]
        self.dataset = _dataset_json(reference.parent, *(own[1].parent for own in self.files.values()))
        self.reference, self.spacing = self._read_mask(reference)

    def views(self) -> dict[str, CaseView]:
        """The objects of each model's prediction."""
        return {model.name: self._view(model) for model in self.models}

    def image(self, folder: Path | None) -> np.ndarray | None:
        """The first channel of the case's image; None without a folder."""
        if folder is None:
            return None
        found = sorted(folder.glob(f"{self.case}_[0-9][0-9][0-9][0-9]{self.ending}"))
        if not found:
            raise UserError(f"{folder} has no image of case {self.case!r}: expected {self.case}_0000{self.ending}")
        array = self._reader().read_images((str(found[0]),))[0].mean(0)  # the colours of a natural image
        array = array[0] if array.shape[0] == 1 else array
        if array.shape != self.reference.shape:
            raise UserError(
                f"the image of case {self.case!r} has the shape {array.shape} and its reference {self.reference.shape}: "
                "give the images that belong to the references"
            )
        return array

    def _view(self, model: Evaluation) -> CaseView:
        settings = model.summary["settings"]
        prediction, _ = self._read_mask(self.files[model.name][1])
        rule = Rule(settings["match"], settings["threshold"])
        ignored = self.dataset["labels"].get("ignore")
        valid = None if ignored is None else self.reference != ignored
        maps = settings.get("instances_folder")
        instances = None if not maps else self._read_mask(Path(maps) / f"{self.case}{self.ending}")[0]
        detections = []
        for label in _classes(self.dataset):
            target, predicted = np.isin(self.reference, label), np.isin(prediction, label)
            ids = label_components(target)[0] if instances is None else np.where(target, instances, 0)
            detections.append(detect(ids, predicted, valid=valid, rule=rule))
        return view(detections)

    def _read_mask(self, file: Path) -> tuple[np.ndarray, tuple[float, ...]]:
        if not file.is_file():
            raise UserError(
                f"the picture of case {self.case!r} needs {file}, which is gone: put it back, or evaluate again"
            )
        array, properties = self._reader().read_seg(str(file))
        array, spacing = array[0].astype(np.int64), tuple(float(step) for step in properties["spacing"])
        return (array[0], spacing[1:]) if array.shape[0] == 1 else (array, spacing)

    def _reader(self) -> Any:
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        return determine_reader_writer_from_dataset_json(
            {**self.dataset, "file_ending": self.ending}, allow_nonmatching_filename=True, verbose=False
        )()


def _files(model: Evaluation, case: str) -> tuple[Path, Path]:
    """Reference and prediction of a case."""
    for entry in model.summary["metric_per_case"]:
        name = Path(entry["reference_file"]).name
        if name.startswith(f"{case}."):
            return Path(entry["reference_file"]), Path(entry["prediction_file"])
    raise UserError(f"the summary of {model.name} does not name the files of case {case!r}: evaluate again")


def _dataset_json(*folders: Path) -> dict[str, Any]:
    for folder in folders:
        for place in (folder, folder.parent):
            try:
                return json.loads((place / "dataset.json").read_text())
            except (OSError, ValueError):
                continue
    raise UserError(f"no dataset.json in {folders[0]}, above it, or beside the predictions: copy the dataset's there")


def _classes(dataset: dict[str, Any]) -> list[list[int]]:
    """The label values of each class or region."""
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    values = [value if isinstance(value, list) else [value] for value in labels.values()]
    return [value for value in values if value != [0]]
