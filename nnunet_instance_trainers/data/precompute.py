"""Make the instance maps of a preprocessed dataset.

For each case the ids are taken on the raw grid, from the annotators' map in ``instancesTr/`` or else from
the connected components of the label, and sent the way that nnU-Net sent the label: transposed, cropped to
nonzero, resampled. Ids can only be resampled nearest, nnU-Net resamples labels linearly, so a repair makes
both agree again. What became of every instance is counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunet_instance_trainers.configuration import PLANS_KEY, Settings
from nnunet_instance_trainers.data.folders import read_dataset
from nnunet_instance_trainers.data.maps import (
    CaseRecord,
    Manifest,
    digest,
    is_current,
    map_file,
    maps_folder,
    remove_unfinished,
    segmentation_file,
    table_file,
    write_atomically,
    write_map,
)
from nnunet_instance_trainers.data.preprocessed import check_preprocessed, preprocess_command
from nnunet_instance_trainers.data.reading import check_ids, read_labels, same_geometry
from nnunet_instance_trainers.data.repair import repair_ids
from nnunet_instance_trainers.data.workers import over_cases
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.instances import label_components, renumber

__all__ = ["Job", "precompute", "precompute_configuration"]

_VOXELS_PER_INSTANCE = 50


@dataclass(frozen=True)
class Job:
    """What is the same for all cases of a configuration; travels to the workers.

    Attributes:
        preprocessed: nnU-Net's folder of preprocessed cases.
        ground_truth: the folder of raw labels that nnU-Net keeps beside it.
        annotated: the folder ``instancesTr``, None where the dataset has none.
        plans, dataset: the contents of the plans file and of dataset.json.
        per_slice: whether slices are images of their own, as in a 2D configuration of 3D data.
        channels: the labels or region channels that get the instance terms.
        remedy: the command that preprocesses the configuration again.
    """

    preprocessed: Path
    ground_truth: Path
    annotated: Path | None
    plans: dict
    dataset: dict
    per_slice: bool
    channels: tuple[int, ...]
    remedy: str

    @property
    def reader(self) -> BaseReaderWriter:
        return PlansManager(self.plans).image_reader_writer_class()

    def masks(self, labels: np.ndarray) -> list[np.ndarray]:
        """Per id channel, the chosen classes (*S) of a label image; all else, ignored voxels too, is 0."""
        manager = PlansManager(self.plans).get_label_manager(self.dataset)
        if not manager.has_regions:
            return [np.where(np.isin(labels, self.channels), labels, 0).astype(np.int16)]
        regions = [
            np.atleast_1d(region) if c in self.channels else () for c, region in enumerate(manager.foreground_regions)
        ]
        return [np.isin(labels, region).astype(np.int16) for region in regions]


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
    cases = _cases(job.preprocessed)
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
    current = [case for case in cases if is_current(manifest, job.preprocessed, case, _source_digest(job, case))]
    manifest = replace(manifest, cases={case: manifest.cases[case] for case in current})
    remaining = [case for case in cases if case not in manifest.cases]
    with tqdm(total=len(cases), initial=len(current), desc=f"instance maps, {configuration}", unit="case") as bar:
        for case, record in over_cases(_map_case, job, remaining, n_processes):
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


def _cases(preprocessed: Path) -> list[str]:
    if any(preprocessed.glob("*.npz")):
        raise UserError(
            f"{preprocessed} is in nnU-Net's old numpy format, which carries no instance maps: run "
            "'nnUNetv2_preprocess' again with nnU-Net 2.8 or newer"
        )
    cases = sorted(nnUNetDatasetBlosc2.get_identifiers(str(preprocessed)))
    if not cases:
        raise UserError(f"no preprocessed cases in {preprocessed}: run 'nnUNetv2_preprocess' first")
    return cases


def _map_case(job: Job, case: str) -> CaseRecord:
    """Make, check and write the map of one case."""
    check_preprocessed(job.preprocessed, [case], job.remedy)
    _, segmentation, _, properties = nnUNetDatasetBlosc2(str(job.preprocessed), [case]).load_case(case)
    masks = job.masks(segmentation[0])
    raw_ids, raw_masks = _raw_instances(job, case)
    channels, found, lost = [], 0, 0
    for ids, raw_mask, mask in zip(raw_ids, raw_masks, masks):
        original = _instances(ids, raw_mask)
        carried = _to_preprocessed_grid(ids, properties, mask.shape, job.plans["transpose_forward"])
        found += len(original)
        lost += len(original - _instances(carried, mask))
        repaired, _ = repair_ids(carried, mask)
        channels.append(renumber(_per_slice(repaired) if job.per_slice else repaired)[0])
    folder = maps_folder(job.preprocessed)
    write_map(map_file(folder, case), np.stack(channels), like=segmentation)
    with write_atomically(table_file(folder, case)) as temporary:
        np.savez_compressed(temporary, **_table(channels, masks))
    return CaseRecord(
        segmentation=digest(segmentation_file(job.preprocessed, case)),
        map=digest(map_file(folder, case)),
        table=digest(table_file(folder, case)),
        source=_source_digest(job, case),
        found=found,
        lost=lost,
    )


def _source_digest(job: Job, case: str) -> str:
    """A checksum of the raw label and, where there is one, of the annotators' map."""
    name = f"{case}{job.dataset['file_ending']}"
    files = [folder / name for folder in (job.ground_truth, job.annotated) if folder is not None]
    return " ".join(digest(file) for file in files if file.is_file())


def _raw_instances(job: Job, case: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The ids and classes (*S) of each channel on the raw grid."""
    file_name = f"{case}{job.dataset['file_ending']}"
    label_path = job.ground_truth / file_name
    label, geometry = read_labels(job.reader, label_path, case)
    masks = job.masks(label)
    if job.annotated is None:
        return [label_components(mask)[0].astype(np.int64) for mask in masks], masks
    path = job.annotated / file_name
    if not path.is_file():
        raise UserError(f"case {case!r}: {path} is missing: add it, or remove the folder instancesTr to use components")
    ids, map_geometry = read_labels(job.reader, path, case)
    if ids.shape != label.shape:
        raise UserError(
            f"case {case!r}: {path} has shape {ids.shape}, its label {label.shape}: save it on the label's grid"
        )
    raw_label = job.annotated.with_name("labelsTr") / file_name
    if not same_geometry(geometry, map_geometry) and raw_label.is_file():
        # nnU-Net copies labels without what lies beside them, such as the spacing of a TIFF.
        geometry = read_labels(job.reader, raw_label, case)[1]
    if not same_geometry(geometry, map_geometry):
        raise UserError(
            f"case {case!r}: {path} differs from its label in spacing, origin or direction: copy the "
            "label's header into it"
        )
    check_ids(ids, path, case)
    ids = np.where(label == job.dataset["labels"].get("ignore", -1), 0, ids)
    stray = np.count_nonzero((ids > 0) & (label == 0))
    if stray:
        raise UserError(
            f"case {case!r}: {path} has ids in {stray} voxels that the label calls background: set them "
            "to 0, or mend the label"
        )
    bare = sum(np.count_nonzero((mask > 0) & (ids <= 0)) for mask in masks)
    if bare:
        raise UserError(
            f"case {case!r}: {path} has no id in {bare} foreground voxels: add them, or name the classes "
            "that have instances in the setting 'classes'"
        )
    return [np.where(mask > 0, ids, 0) for mask in masks], masks


def _to_preprocessed_grid(
    ids: np.ndarray, properties: dict, shape: Sequence[int], transpose_forward: Sequence[int]
) -> np.ndarray:
    """Send ids the way of nnU-Net's preprocessing: transpose, crop to nonzero, resample (nearest)."""
    ids = ids.transpose(transpose_forward)
    ids = ids[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])]
    # nnU-Net's resampling aligns the outer edges of the grids, so voxel i of the new grid has its centre at
    # (i + 0.5) * old / new in units of old voxels.
    nearest = [((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(ids.shape, shape)]
    return ids[np.ix_(*nearest)]


def _instances(ids: np.ndarray, mask: np.ndarray) -> set[tuple[int, int]]:
    """Every id with each class that it touches."""
    both = (ids > 0) & (mask > 0)
    return set(zip(*np.unique(np.stack((ids[both], mask[both])), axis=1).tolist()))


def _per_slice(ids: np.ndarray) -> np.ndarray:
    """Ids of the pieces of each object in each slice, for a 2D configuration; a 2D image stays as it is."""
    if len(ids) == 1:
        return ids
    pieces, n = np.zeros_like(ids), 0
    for index, slice_ids in enumerate(ids):
        numbered, in_slice = label_components(slice_ids)
        pieces[index] = np.where(numbered > 0, numbered + np.int64(n), 0)
        n += in_slice
    return pieces


def _table(channels: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Per instance (and class that it touches): channel, id, label, size, box [low, high), a few of its voxels.

    ``voxels`` (M, d) lists the sampled voxels of all instances, instance i from ``first_voxel[i]`` on.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("channel", "id", "label", "size", "box", "voxels")}
    taken: list[np.ndarray] = [np.zeros(1, dtype=np.int64)]
    random = np.random.default_rng(0)
    for channel, (ids, mask) in enumerate(zip(channels, masks)):
        voxels = random.permutation(np.argwhere(ids > 0).astype(np.int32))
        at = tuple(voxels.T)
        order = np.lexsort((mask[at], ids[at]))
        voxels = voxels[order]
        at = tuple(voxels.T)
        keys = np.stack((ids[at].astype(np.int64), mask[at].astype(np.int64)))
        first = (
            np.flatnonzero(np.append(True, (keys[:, 1:] != keys[:, :-1]).any(0))) if len(voxels) else np.zeros(0, int)
        )
        size = np.diff(np.append(first, len(voxels)))
        sampled = np.arange(len(voxels)) - np.repeat(first, size) < _VOXELS_PER_INSTANCE
        low, high = (reduce.reduceat(voxels, first) if len(first) else voxels for reduce in (np.minimum, np.maximum))
        rows["channel"].append(np.full(len(first), channel, dtype=np.int32))
        rows["id"].append(keys[0, first])
        rows["label"].append(keys[1, first])
        rows["size"].append(size)
        rows["box"].append(np.stack((low, high + 1), axis=-1))
        rows["voxels"].append(voxels[sampled])
        taken.append(np.minimum(size, _VOXELS_PER_INSTANCE))
    table = {name: np.concatenate(parts) for name, parts in rows.items()}
    return {**table, "first_voxel": np.cumsum(np.concatenate(taken))[:-1]}
