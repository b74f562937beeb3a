"""The datasets that commands name, in nnU-Net's folders of preprocessed ones and of trained models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.data.nnunet_commands import plan_command
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError

__all__ = ["dataset_name", "plans_file", "read_plans_or_dataset", "results_folder", "trained_dataset_name"]


def dataset_name(dataset: str) -> str:
    """The folder name of a preprocessed dataset given by id or name."""
    folder = os.environ.get("nnUNet_preprocessed")
    if not folder:
        raise UserError(
            "the environment variable nnUNet_preprocessed is not set: point it to nnU-Net's folder of "
            "preprocessed datasets"
        )
    return _full_name(Path(folder), dataset, f"run 'nnUNetv2_plan_and_preprocess -d {dataset}'")


def results_folder() -> Path:
    """nnU-Net's folder of trained models."""
    folder = os.environ.get("nnUNet_results")
    if not folder:
        raise UserError(
            "the environment variable nnUNet_results is not set: point it to nnU-Net's folder of trained models"
        )
    return Path(folder)


def trained_dataset_name(dataset: str) -> str:
    """The folder name of a dataset with trained models given by id or name."""
    return _full_name(results_folder(), dataset, "train it")


def _full_name(folder: Path, dataset: str, remedy: str) -> str:
    if dataset.startswith("Dataset"):
        return dataset
    if not dataset.isdigit():
        raise UserError(f"a dataset is an id such as 27 or a name such as Dataset027_ACDC, got {dataset!r}")
    names = sorted(path.name for path in folder.glob(f"Dataset{int(dataset):03d}_*") if path.is_dir())
    if len(names) != 1:
        found = f"{len(names)} datasets have the id {dataset}" if names else f"there is no dataset {dataset}"
        raise UserError(f"{found} in {folder}: {remedy}, or give the full name")
    return names[0]


def plans_file(dataset_name: str, plans: str) -> Path:
    """A plans file of a preprocessed dataset.

    Raises:
        UserError: there is none of that name.
    """
    file = Path(os.environ["nnUNet_preprocessed"]) / dataset_name / f"{plans}.json"
    if not file.is_file():
        others = sorted(other.stem for other in file.parent.glob("*.json") if "configurations" in _keys(other))
        raise UserError(
            f"dataset {dataset_name!r} has no plans {plans!r}, but {', '.join(others)}: name one with -p"
            if others
            else f"dataset {dataset_name!r} is not preprocessed with plans {plans!r} (no {file}): run "
            f"'{plan_command(dataset_name)}'"
        )
    return file


def _keys(file: Path) -> set[str]:
    """The keys of a dictionary in a JSON file, none where it is anything else."""
    try:
        return set(read_json(file, "look at it"))
    except (UserError, TypeError):
        return set()


def read_plans_or_dataset(file: Path) -> dict[str, Any]:
    """What nnU-Net's planning wrote."""
    return read_json(file, "run 'nnUNetv2_plan_and_preprocess' for this dataset again")
