"""The datasets that commands name, in nnU-Net's folder of preprocessed ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.errors import UserError

__all__ = ["dataset_name", "plans_file", "read_json"]


def dataset_name(dataset: str) -> str:
    """The folder name of a preprocessed dataset given by id or name."""
    folder = os.environ.get("nnUNet_preprocessed")
    if not folder:
        raise UserError(
            "the environment variable nnUNet_preprocessed is not set: point it to nnU-Net's folder of "
            "preprocessed datasets"
        )
    if dataset.startswith("Dataset"):
        return dataset
    if not dataset.isdigit():
        raise UserError(f"a dataset is an id such as 27 or a name such as Dataset027_ACDC, got {dataset!r}")
    names = sorted(path.name for path in Path(folder).glob(f"Dataset{int(dataset):03d}_*") if path.is_dir())
    if len(names) != 1:
        found = f"{len(names)} datasets have the id {dataset}" if names else f"there is no dataset {dataset}"
        raise UserError(f"{found} in {folder}: run 'nnUNetv2_plan_and_preprocess -d {dataset}', or give the full name")
    return names[0]


def plans_file(dataset_name: str, plans: str) -> Path:
    file = Path(os.environ["nnUNet_preprocessed"]) / dataset_name / f"{plans}.json"
    if not file.is_file():
        raise UserError(
            f"dataset {dataset_name!r} is not preprocessed with plans {plans!r} (no {file}): run "
            f"'nnUNetv2_plan_and_preprocess -d {dataset_name[7:10].lstrip('0')}'"
        )
    return file


def read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        raise UserError(f"cannot read {file}: run 'nnUNetv2_plan_and_preprocess' for this dataset again") from None
