"""The instance map of one case.

The ids are taken on the raw grid, from the annotators' map in ``instancesTr/`` or else from the connected
components of the label, and sent the way that nnU-Net sent the label: transposed, cropped to nonzero, resampled.
Ids can only be resampled nearest, nnU-Net resamples labels linearly, so a repair makes both agree again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_instance_trainers.data.label_reading import check_ids, read_labels, same_geometry
from nnunet_instance_trainers.data.map_store import (
    CaseRecord,
    digest,
    map_file,
    maps_folder,
    segmentation_file,
    table_file,
    write_atomically,
    write_map,
)
from nnunet_instance_trainers.data.preprocessed_files import check_preprocessed
from nnunet_instance_trainers.data.repair import repair_ids
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.instances import label_components, renumber

__all__ = ["Job", "map_case", "source_digest"]

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


def map_case(job: Job, case: str) -> CaseRecord:
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
        source=source_digest(job, case),
        found=found,
        lost=lost,
    )


def source_digest(job: Job, case: str) -> str:
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
