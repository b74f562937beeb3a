"""nnU-Net's dataset with instance maps beside the segmentation, and centres of patches drawn by instance."""

from __future__ import annotations

from functools import cached_property

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_instance_trainers.data.instance_sampling import InstanceSampler, LocationsWhenAsked
from nnunet_instance_trainers.data.map_store import Manifest, decode_map, digest, map_file, maps_folder
from nnunet_instance_trainers.data.transforms import MAX_IDS
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.instances import renumber

__all__ = ["InstanceDataset", "SampledDataset", "SegmentationWithInstances"]


class SampledDataset(nnUNetDatasetBlosc2):
    """A preprocessed dataset that hands out the centres of patches that a sampler draws, without one nnU-Net's."""

    sampler: InstanceSampler | None = None

    def load_case(self, identifier: str):
        data, segmentation, previous, properties = super().load_case(identifier)
        if self.sampler is not None:
            locations = LocationsWhenAsked(self.sampler, identifier, properties["class_locations"])
            properties = {**properties, "class_locations": locations}
        return data, segmentation, previous, properties


class InstanceDataset(SampledDataset):
    """A preprocessed dataset whose segmentations have instance ids as channels 1..n.

    The maps are read from the sibling folder ``<data identifier>_instances``. A map takes some hundred kilobytes, so
    it is read whole and compared with its digest each time: about a fifth of flipped bits change ids without an
    error from blosc2 (4.14).
    """

    def load_case(self, identifier: str):
        data, segmentation, previous, properties = super().load_case(identifier)
        path = map_file(maps_folder(self.source_folder), identifier)
        content = path.read_bytes() if path.is_file() else b""
        if digest(content) != self._digests[identifier]:
            raise UserError(
                f"case {identifier!r}: {path} went missing or was damaged since the training began: run "
                "'nnunet-instance precompute' again"
            )
        ids = decode_map(content, path)
        return data, SegmentationWithInstances(identifier, segmentation, ids), previous, properties

    @cached_property
    def _digests(self) -> dict[str, str]:
        manifest = Manifest.read(maps_folder(self.source_folder))
        return {case: record.map for case, record in manifest.cases.items()}


class SegmentationWithInstances:
    """A segmentation and its ids, read lazily; nnU-Net's loader crops it as it crops an array.

    Ids that do not fit the int16 to which the loader casts are made consecutive inside the crop, so a case may hold
    any number of instances as long as no crop holds more than 32,767.
    """

    def __init__(self, identifier: str, segmentation: blosc2.NDArray, ids: blosc2.NDArray) -> None:
        self.identifier = identifier
        self.segmentation = segmentation
        self.ids = ids
        self.shape = (segmentation.shape[0] + ids.shape[0], *segmentation.shape[1:])
        self.dtype = np.dtype(np.int16)

    def __getitem__(self, index) -> np.ndarray:
        segmentation, ids = self.segmentation[index], self.ids[index]
        both = np.empty((len(segmentation) + len(ids), *segmentation.shape[1:]), dtype=np.int16)
        both[: len(segmentation)] = segmentation
        both[len(segmentation) :] = ids if ids.max(initial=0) <= MAX_IDS else [*map(self._consecutive, ids)]
        return both

    def _consecutive(self, ids: np.ndarray) -> np.ndarray:
        consecutive, n = renumber(ids)
        if n > MAX_IDS:
            raise UserError(
                f"case {self.identifier!r}: a crop holds {n} instances, more than the {MAX_IDS} that "
                "nnU-Net's int16 segmentations can carry: use a smaller patch size in the plans"
            )
        return consecutive
