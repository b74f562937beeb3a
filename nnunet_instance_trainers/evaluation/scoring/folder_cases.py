"""Which cases of two folders of label images are scored, and by what dataset.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_instance_trainers.data.label_folders import case_names, read_dataset
from nnunet_instance_trainers.errors import UserError

__all__ = ["find_cases", "find_dataset"]


def find_dataset(predictions: Path, ground_truth: Path, dataset_json: Path | None) -> tuple[Path, dict[str, Any]]:
    """The dataset.json of two folders of label images, and its contents.

    Raises:
        UserError: there is none, or it is no dataset.json.
    """
    places = (predictions, ground_truth, ground_truth.resolve().parent)
    candidates = [place / "dataset.json" for place in places] if dataset_json is None else [dataset_json]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        if dataset_json is not None:
            raise UserError(f"{dataset_json} is missing: give the dataset's dataset.json with -djfile")
        raise UserError(f"no dataset.json in {predictions} or beside {ground_truth}: give one with -djfile")
    return file, read_dataset(file)


def find_cases(
    predictions: Path, ground_truth: Path, instances: Path | None, ending: str, subset: bool, probabilities: bool
) -> list[str]:
    """The predicted cases, or a clear word about what is missing where.

    Raises:
        UserError: something is missing.
    """
    predicted, true = (case_names(folder, ending) for folder in (predictions, ground_truth))
    required = [("ground truth", ground_truth, ending, predicted - true)]
    if not subset:
        required.append(("prediction", predictions, ending, true - predicted))
    if instances is not None:
        required.append(("instance map", instances, ending, predicted - case_names(instances, ending)))
    if probabilities:
        required.append(("file of probabilities", predictions, ".npz", predicted - case_names(predictions, ".npz")))
    for what, folder, suffix, missing in required:
        if missing:
            more = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
            advice = "predict with --save_probabilities" if suffix == ".npz" else "add it"
            if what == "prediction":
                advice += ", or use --chill to score what was predicted"
            raise UserError(f"the {what} of case {min(missing)!r}{more} is missing in {folder}: {advice}")
    return sorted(predicted)
