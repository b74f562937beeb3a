"""The instance map of one case.

The ids are taken on the raw grid, from the annotators' map in ``instancesTr/`` or else from the connected
components of the label, and sent the way that nnU-Net sent the label: transposed, cropped to nonzero, resampled.
Ids can only be resampled nearest, nnU-Net resamples labels linearly, so a repair makes both agree again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_instance_trainers.data.id_repair import repair_ids
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
from nnunet_instance_trainers.data.raw_files import RawFiles
from nnunet_instance_trainers.data.raw_instances import raw_instances, read_label
from nnunet_instance_trainers.data.resampled_labels import count_impossible, outdated, to_grid
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.instances import label_components, renumber

__all__ = ["Job", "map_case"]

_VOXELS_PER_INSTANCE = 50


@dataclass(frozen=True)
class Job:
    """What is the same for all cases of a configuration; travels to the workers.

    Attributes:
        preprocessed: nnU-Net's folder of preprocessed cases.
        files: the raw files of the dataset, and its dataset.json.
        plans: the contents of the plans file.
        per_slice: whether slices are images of their own, as in a 2D configuration of 3D data.
        channels: the labels or region channels that get the instance terms.
        remedy: the command that preprocesses the configuration again.
    """

    preprocessed: Path
    files: RawFiles
    plans: dict
    per_slice: bool
    channels: tuple[int, ...]
    remedy: str

    @property
    def reader(self) -> BaseReaderWriter:
        return PlansManager(self.plans).image_reader_writer_class()

    def masks(self, labels: np.ndarray) -> list[np.ndarray]:
        """Per id channel, the chosen classes (*S) of a label image; all else, ignored voxels too, is 0."""
        manager = PlansManager(self.plans).get_label_manager(self.files.dataset)
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
    label, geometry = read_label(job.files, job.reader, case, job.remedy)
    raw_masks = job.masks(label)
    crop = partial(_as_cropped, properties=properties, transpose_forward=job.plans["transpose_forward"])
    differing = sum(map(count_impossible, map(crop, raw_masks), masks))
    if differing:
        files = job.files.kept_label(case), segmentation_file(job.preprocessed, case)
        raise UserError(outdated(*files, case, differing, job.remedy))
    raw_ids, in_pieces = raw_instances(job.files, job.reader, case, label, geometry, raw_masks, job.plans["plans_name"])
    channels, found, lost = [], 0, 0
    for ids, raw_mask, mask in zip(raw_ids, raw_masks, masks):
        original = _instances(ids, raw_mask)
        carried = to_grid(crop(ids), mask.shape)
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
        source=" ".join(job.files.sources(case).values()),
        found=found,
        lost=lost,
        in_pieces=in_pieces,
    )


def _as_cropped(image: np.ndarray, properties: dict, transpose_forward: Sequence[int]) -> np.ndarray:
    """A raw image (*S) as nnU-Net has it before it resamples: transposed and cropped to nonzero."""
    image = image.transpose(transpose_forward)
    return image[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])]


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
