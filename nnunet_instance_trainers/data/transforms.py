"""Transforms that bring instance ids to the loss, as the last channels of nnU-Net's segmentation.

Two sources, one result (ids > 0 exactly where a chosen class or region is foreground):

- :class:`LabelInstances` numbers the components of the augmented patch;
- :class:`TakeInstances` takes precomputed ids off the loaded crop, :class:`SpatialWithInstances` carries
  them through the spatial transform, and :class:`RepairInstances` puts them back, repaired.

In between the ids travel under batchgeneratorsv2's key ``regression_target``, which the mirror and 2D/3D
transforms carry along and the others leave alone. They must never be a segmentation channel while the
spatial transform runs: it resamples label by label (22 s for 500 ids at 96^3), the region conversion drops
channels, and the cascade reads channel 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cache, reduce

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch import Tensor
from torch.nn.functional import interpolate

from nnunet_instance_trainers.data.id_repair import repair_ids
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.instances import label_components

__all__ = [
    "MAX_IDS",
    "LabelInstances",
    "RepairInstances",
    "SpatialWithInstances",
    "TakeInstances",
    "with_labelled_instances",
    "with_precomputed_instances",
]

MAX_IDS = np.iinfo(np.int16).max
"""nnU-Net casts segmentations to int16; larger ids would wrap to negative, 65,535 to -1, which is padding."""

_KEY = "regression_target"


class _InstanceChannels(BasicTransform):
    """Appends one id channel (labels) or one per region to the segmentation, at every scale of deep supervision.

    Args:
        channels: the labels, or with ``regions`` the region channels, that get ids.
        regions: number of regions, 0 for labels.
    """

    def __init__(self, channels: Sequence[int], regions: int = 0) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.regions = regions

    def apply(self, data_dict: dict, **params) -> dict:
        segmentation = data_dict["segmentation"]
        scales = segmentation if isinstance(segmentation, list) else [segmentation]
        ids = torch.from_numpy(
            np.stack(self._ids(data_dict, self._classes(scales[0])), dtype=np.int16, casting="unsafe")
        )
        with_ids = [torch.cat((scale.to(torch.int16), downsample_nearest(ids, scale.shape[1:]))) for scale in scales]
        data_dict["segmentation"] = with_ids if isinstance(segmentation, list) else with_ids[0]
        return data_dict

    def _classes(self, segmentation: Tensor) -> list[np.ndarray]:
        """Per id channel, the classes (*S) whose voxels need an id."""
        if self.regions:
            return [segmentation[c].numpy().astype(np.int16) * (c in self.channels) for c in range(self.regions)]
        labels = segmentation[0].numpy()
        return [labels * reduce(np.logical_or, (labels == channel for channel in self.channels))]

    @abstractmethod
    def _ids(self, data_dict: dict, classes: list[np.ndarray]) -> list[np.ndarray]:
        """The ids (*S) of each channel."""


class LabelInstances(_InstanceChannels):
    """Source ``patch``: ids are the connected components of each class or region in the augmented patch.

    An object that the patch border cuts into two pieces becomes two.
    """

    def _ids(self, data_dict: dict, classes: list[np.ndarray]) -> list[np.ndarray]:
        numbered = [label_components(labels) for labels in classes]
        most = max(n for _, n in numbered)
        if most > MAX_IDS:
            raise UserError(
                f"a patch holds {most} components, more than {MAX_IDS}: choose fewer 'classes' "
                "in the settings or a smaller patch in the plans"
            )
        return [ids for ids, _ in numbered]


class RepairInstances(_InstanceChannels):
    """Source ``precomputed``, last step: the carried ids become channels and are made to agree with the classes.

    A patch in which more than ``max_astray`` of the foreground is astray (see
    :func:`~nnunet_instance_trainers.data.id_repair.repair_ids`) raises: its ids must have taken another way than
    the image. Patches with less foreground than ``min_voxels`` are not judged.
    """

    max_astray = 0.1
    min_voxels = 100

    def _ids(self, data_dict: dict, classes: list[np.ndarray]) -> list[np.ndarray]:
        carried = data_dict.pop(_KEY).numpy().astype(np.int16)
        repaired = []
        for channel, labels in zip(carried, classes):
            ids, astray = repair_ids(channel, labels)
            n_foreground = np.count_nonzero(labels)
            if n_foreground >= self.min_voxels and astray > self.max_astray * n_foreground:
                raise RuntimeError(
                    f"{astray} of {n_foreground} foreground voxels of a patch lie apart from all instance ids: a "
                    "transform of this trainer moves the segmentation but not 'regression_target'. Leave it out, "
                    'or set "source": "patch" in instance_training.'
                )
            repaired.append(ids)
        return repaired


class TakeInstances(BasicTransform):
    """Source ``precomputed``, first step: takes the id channels 1..n off the loaded segmentation.

    With a cascade the previous stage follows them and becomes channel 1, where nnU-Net expects it.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.n_channels = n_channels

    def apply(self, data_dict: dict, **params) -> dict:
        segmentation = data_dict["segmentation"]
        last = 1 + self.n_channels
        # The loader pads with -1.
        data_dict[_KEY] = segmentation[1:last].float().clamp_(min=0)
        data_dict["segmentation"] = torch.cat((segmentation[:1], segmentation[last:]))
        return data_dict


class SpatialWithInstances(BasicTransform):
    """Runs a spatial transform and carries the ids along its very grid, sampled nearest.

    The transform itself would interpolate them like an image.
    """

    def __init__(self, spatial: SpatialTransform) -> None:
        super().__init__()
        self.spatial = spatial
        self.nearest = copy(spatial)
        self.nearest.mode_image = "nearest"
        self.nearest.padding_mode_image = "zeros"

    def get_parameters(self, **data_dict) -> dict:
        return self.spatial.get_parameters(**data_dict)

    def apply(self, data_dict: dict, **params) -> dict:
        ids = data_dict.pop(_KEY)
        data_dict = self.spatial.apply(data_dict, **params)
        data_dict[_KEY] = self.nearest._apply_to_image(ids, **params)
        return data_dict


def downsample_nearest(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Ids (K, *S) at the voxels that nnU-Net's deep supervision takes for a scale of a shape, without its detour over
    floats."""
    for axis, (size, new_size) in enumerate(zip(ids.shape[1:], shape), start=1):
        if size != new_size:
            ids = ids[(slice(None),) * axis + (_nearest(size, new_size),)]
    return ids


@cache
def _nearest(size: int, new_size: int) -> slice | Tensor:
    """The places along an axis that ``interpolate(mode="nearest-exact")`` takes; evenly spaced ones as a slice."""
    places = interpolate(torch.arange(size, dtype=torch.float32)[None, None], new_size, mode="nearest-exact")[
        0, 0
    ].long()
    steps = places.diff().unique()
    return slice(int(places[0]), int(places[-1]) + 1, int(steps[0])) if len(steps) == 1 else places


def with_labelled_instances(transforms: ComposeTransforms, channels: Sequence[int], regions: int) -> ComposeTransforms:
    """nnU-Net's transforms with instances of the source ``patch``."""
    return ComposeTransforms([*transforms.transforms, LabelInstances(channels, regions)])


def with_precomputed_instances(
    transforms: ComposeTransforms, channels: Sequence[int], regions: int
) -> ComposeTransforms:
    """nnU-Net's transforms with instances of the source ``precomputed``."""
    carrying = [_carrying(transform) for transform in transforms.transforms]
    return ComposeTransforms([TakeInstances(max(regions, 1)), *carrying, RepairInstances(channels, regions)])


def _carrying(transform: BasicTransform) -> BasicTransform:
    """The transform with every spatial one in it, however deep, carrying ids along.

    Raises:
        UserError: it, or one in it, would lose them.
    """
    if isinstance(transform, SpatialTransform):
        return SpatialWithInstances(transform)
    # What a transform does not override replaces the ids by None in batchgeneratorsv2 0.3.6.
    kind = type(transform)
    if all(getattr(kind, n) is getattr(BasicTransform, n) for n in ("__call__", "apply", "_apply_to_regr_target")):
        raise UserError(
            f"the transform {kind.__name__} loses instance ids, for it has no '_apply_to_regr_target': add one, leave "
            'the transform out, or set "source": "patch" in instance_training'
        )
    outer = copy(transform)
    for name in ("transform", "transforms", "list_of_transforms"):  # of one, of all, of one among many
        inner = getattr(transform, name, None)
        if isinstance(inner, BasicTransform):
            setattr(outer, name, _carrying(inner))
        elif isinstance(inner, (list, tuple)):
            setattr(outer, name, [_carrying(one) for one in inner])
    return outer
