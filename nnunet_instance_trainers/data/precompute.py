"""Make the instance maps of a preprocessed dataset; what became of every instance is counted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunet_instance_trainers.configuration import PLANS_KEY, Settings
from nnunet_instance_trainers.data.case_map import Job, map_case, source_digest
from nnunet_instance_trainers.data.label_folders import read_dataset
from nnunet_instance_trainers.data.map_store import (
    Manifest,
    is_current,
    maps_folder,
    remove_unfinished,
)
from nnunet_instance_trainers.data.preprocessed_files import preprocess_command, preprocessed_cases
from nnunet_instance_trainers.data.workers import over_cases
from nnunet_instance_trainers.errors import UserError, writing

__all__ = ["precompute", "precompute_configuration"]


def precompute(dataset_name: str, configurations: Sequence[str] | None, plans_name: str, n_processes: int) -> None:
    """Make the maps of some configurations of a dataset; what is there and current is kept.

    Args:
        dataset_name: the folder's name, ``DatasetXXX_Name``.
        configurations: their names; None for all that are preprocessed.
        plans_name: the name of the plans file without ending.
        n_processes: worker processes.

    Raises:
        UserError: nothing is preprocessed, or a case cannot be mapped.
    """
    base = Path(os.environ["nnUNet_preprocessed"]) / dataset_name
    if not (base / f"{plans_name}.json").is_file():
        raise UserError(
            f"dataset {dataset_name!r} is not preprocessed with plans {plans_name!r}: run "
            f"'nnUNetv2_plan_and_preprocess -d {int(dataset_name[7:10])}'"
        )
    manager = PlansManager(load_json(str(base / f"{plans_name}.json")))
    preprocessed = {
        name: base / manager.get_configuration(name).data_identifier
        for name in configurations or manager.available_configurations
        if name in manager.available_configurations
    }
    unknown = sorted(set(configurations or ()) - set(preprocessed))
    if unknown:
        raise UserError(
            f"plans {plans_name!r} have no configuration {unknown[0]!r}: there are "
            f"{', '.join(manager.available_configurations)}"
        )
    present = {name: folder for name, folder in preprocessed.items() if folder.is_dir()}
    absent = [name for name in preprocessed if name not in present]
    if not present or (configurations and absent):
        raise UserError(
            f"configuration {absent[0]!r} of dataset {dataset_name!r} is not preprocessed: run "
            f"'{preprocess_command(dataset_name, absent[0], plans_name)}'"
        )
    done = set()
    for name, folder in present.items():
        if folder not in done:  # a cascade's second stage shares the data of 3d_fullres
            print(precompute_configuration(dataset_name, name, manager, n_processes))
            done.add(folder)


def precompute_configuration(dataset_name: str, configuration: str, manager: PlansManager, n_processes: int) -> str:
    """Make the maps of one configuration and return the closing line about them."""
    job = _job(dataset_name, configuration, manager)
    cases = preprocessed_cases(job.preprocessed)
    folder = maps_folder(job.preprocessed)
    with writing(folder):
        folder.mkdir(exist_ok=True)
        remove_unfinished(folder)
    origin = "components" if job.annotated is None else "instancesTr"
    fresh = Manifest(origin=origin, channels=job.channels, per_slice=job.per_slice, cases={})
    manifest = Manifest.read(folder)
    if manifest is not None and manifest.origin == "instancesTr" and job.annotated is None:
        raise UserError(
            f"the maps in {folder} were made from instancesTr, which is not there now: set nnUNet_raw, or delete the "
            "folder of maps to use components"
        )
    if manifest is None or replace(manifest, cases={}) != fresh:
        manifest = fresh
    current = [case for case in cases if is_current(manifest, job.preprocessed, case, source_digest(job, case))]
    manifest = replace(manifest, cases={case: manifest.cases[case] for case in current})
    remaining = [case for case in cases if case not in manifest.cases]
    with tqdm(total=len(cases), initial=len(current), desc=f"instance maps, {configuration}", unit="case") as bar:
        for case, record in over_cases(map_case, job, remaining, n_processes):
            manifest = replace(manifest, cases={**manifest.cases, case: record})
            manifest.write(folder)
            bar.update()
    manifest.write(folder)
    found = sum(record.found for record in manifest.cases.values())
    lost = sum(record.lost for record in manifest.cases.values())
    return (
        f"{configuration}: {found} instances in {len(cases)} cases (from {origin}), {lost} lost to resampling; "
        f"maps in {folder}"
    )


def _job(dataset_name: str, configuration: str, manager: PlansManager) -> Job:
    preprocessed_base = Path(os.environ["nnUNet_preprocessed"]) / dataset_name
    dataset = read_dataset(preprocessed_base / "dataset.json", "run 'nnUNetv2_plan_and_preprocess' again")
    plan = manager.get_configuration(configuration)
    labels = manager.get_label_manager(dataset)
    where = f"configuration {configuration!r} of plans {manager.plans_name!r}"
    settings = Settings.resolve(object, plan.configuration.get(PLANS_KEY, {}), where=where)
    raw = os.environ.get("nnUNet_raw")
    annotated = Path(raw) / dataset_name / "instancesTr" if raw else None
    return Job(
        preprocessed=preprocessed_base / plan.data_identifier,
        ground_truth=preprocessed_base / "gt_segmentations",
        annotated=annotated if annotated is not None and annotated.is_dir() else None,
        plans=manager.plans,
        dataset=dataset,
        per_slice=len(plan.patch_size) == 2,
        channels=tuple(settings.channels(dataset["labels"], labels.has_regions)),
        remedy=preprocess_command(dataset_name, configuration, manager.plans_name),
    )
