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
from nnunet_instance_trainers.data.case_map import Job, map_case
from nnunet_instance_trainers.data.case_workers import over_cases
from nnunet_instance_trainers.data.label_folders import read_dataset
from nnunet_instance_trainers.data.map_checks import is_current
from nnunet_instance_trainers.data.map_store import Manifest, maps_folder, remove_unfinished
from nnunet_instance_trainers.data.nnunet_commands import plan_command, preprocess_command
from nnunet_instance_trainers.data.preprocessed_files import preprocessed_cases
from nnunet_instance_trainers.data.raw_files import RawFiles
from nnunet_instance_trainers.errors import UserError, writing

__all__ = ["precompute", "precompute_configurations"]


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
            f"'{plan_command(dataset_name)}'"
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
    for folder in dict.fromkeys(present.values()):  # a cascade's second stage shares the data of 3d_fullres
        together = [name for name in present if present[name] == folder]
        print(precompute_configurations(dataset_name, together, manager, n_processes))


def precompute_configurations(
    dataset_name: str, configurations: Sequence[str], manager: PlansManager, n_processes: int
) -> str:
    """Make the maps of configurations that share their data and return the closing line about them.

    They hold the classes of these configurations. Maps from components, which every class has, also keep the classes
    that they held before: other configurations, and other plans, use the same folder.
    """
    configuration = configurations[0]
    job = _job(dataset_name, configurations, manager)
    cases = preprocessed_cases(job.preprocessed)
    folder = maps_folder(job.preprocessed)
    with writing(folder):
        folder.mkdir(exist_ok=True)
        remove_unfinished(folder)
    origin = "components" if job.files.annotated is None else "instancesTr"
    manifest = Manifest.read(folder)
    if manifest is not None and manifest.origin == "instancesTr" and job.files.annotated is None:
        raise UserError(
            f"the maps in {folder} were made from instancesTr, which is not there now: set nnUNet_raw, or delete the "
            "folder of maps to use components"
        )
    if manifest is not None and manifest.origin == origin == "components":
        job = replace(job, channels=tuple(sorted({*job.channels, *manifest.channels})))
    fresh = Manifest(origin=origin, channels=job.channels, per_slice=job.per_slice, cases={})
    if manifest is None or replace(manifest, cases={}) != fresh:
        manifest = fresh
    current = [case for case in cases if is_current(manifest, job.preprocessed, case, job.files)]
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
    pieces = sum(record.in_pieces for record in manifest.cases.values())
    warning = f"; {pieces} ids are in several pieces each: are these instance maps?" if pieces else ""
    return (
        f"{configuration}: {found} instances in {len(cases)} cases (from {origin}), {lost} lost to resampling; "
        f"maps in {folder}{warning}"
    )


def _job(dataset_name: str, configurations: Sequence[str], manager: PlansManager) -> Job:
    preprocessed_base = Path(os.environ["nnUNet_preprocessed"]) / dataset_name
    dataset = read_dataset(preprocessed_base / "dataset.json", "run 'nnUNetv2_plan_and_preprocess' again")
    plan = manager.get_configuration(configurations[0])
    labels = manager.get_label_manager(dataset)
    channels: set[int] = set()
    for name in configurations:
        own = manager.get_configuration(name).configuration.get(PLANS_KEY, {})
        settings = Settings.resolve(object, own, where=f"configuration {name!r} of plans {manager.plans_name!r}")
        channels.update(settings.channels(dataset["labels"], labels.has_regions))
    raw = os.environ.get("nnUNet_raw")
    return Job(
        preprocessed=preprocessed_base / plan.data_identifier,
        files=RawFiles(preprocessed_base / "gt_segmentations", Path(raw) / dataset_name if raw else None, dataset),
        plans=manager.plans,
        per_slice=len(plan.patch_size) == 2,
        channels=tuple(sorted(channels)),
        remedy=preprocess_command(dataset_name, configurations[0], manager.plans_name),
    )
