"""nnU-Net's folders, and what a study takes from them: the dataset, and folders of test images and labels."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError

__all__ = ["dataset_name", "folder", "labelled_folders"]


def folder(variable: str) -> Path:
    """One of nnU-Net's three folders."""
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"the environment variable {variable} is not set: point it to nnU-Net's folder of that name")
    return Path(value)


def dataset_name(dataset: Any, where: str) -> str:
    """The full name of a dataset that was given by its id or name; its raw folder is there."""
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        folder(variable)
    raw, name = folder("nnUNet_raw"), str(dataset)
    if name.isdigit():
        found = sorted(path.name for path in raw.glob(f"Dataset{int(name):03d}_*") if path.is_dir())
        if len(found) != 1:
            raise UserError(
                f"dataset {name} in {where}: {len(found) or 'no'} datasets of that id are in {raw}: put one there, "
                "or give the full name"
            )
        name = found[0]
    if not re.fullmatch(r"Dataset\d+_\w[\w.-]*", name) or not (raw / name / "dataset.json").is_file():
        raise UserError(f"dataset {dataset!r} in {where}: there is no {raw / name / 'dataset.json'}: put it there")
    return name


def labelled_folders(folders: Any, dataset: str, where: str) -> dict[str, Path]:
    """The folders of test images and labels, with a label for every image."""
    if not isinstance(folders, dict) or {*folders} != {"images", "labels"}:
        raise UserError(f"'test' in {where} must have 'images' and 'labels', folders in the raw dataset")
    raw = folder("nnUNet_raw") / dataset
    paths = {key: raw / str(name) for key, name in folders.items()}
    for key, path in paths.items():
        if not path.is_dir():
            raise UserError(f"'test' in {where}: there is no folder of {key} {path}")
    ending = read_json(raw / "dataset.json", "restore it")["file_ending"]
    labels = {file.name for file in paths["labels"].glob(f"*{ending}")}
    images = sorted(file.name.removesuffix(f"_0000{ending}") for file in paths["images"].glob(f"*_0000{ending}"))
    unlabelled = [case for case in images if f"{case}{ending}" not in labels]
    if unlabelled or not images:
        what = f"case {unlabelled[0]!r} has no label in {paths['labels']}" if images else f"{paths['images']} is empty"
        raise UserError(f"'test' in {where}: {what}: add it, or train with 'folds'")
    return paths
