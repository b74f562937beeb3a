"""An oracle of instance ids: the raw map itself, sent as an image with nearest sampling through the same augmentation.

It shares the random numbers of the sample, but not the way that ids take.
"""

from __future__ import annotations

import numpy as np
import torch


def forced(transforms):
    """The transforms with rotation, scaling and mirroring always on, without any that changes intensities."""
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    kept = [_forced(transform) for transform in transforms.transforms]
    return ComposeTransforms([transform for transform in kept if transform is not None])


def _forced(transform):
    from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform

    from nnunet_instance_trainers.data.transforms import SpatialWithInstances

    class AlwaysMirror(MirrorTransform):
        def get_parameters(self, **_):
            return {"axes": list(self.allowed_axes)}

    if isinstance(transform, ImageOnlyTransform):
        return None
    if isinstance(transform, ComposeTransforms):
        return forced(transform)
    if isinstance(transform, RandomTransform):
        return _forced(transform.transform)
    if isinstance(transform, OneOfTransform):
        inner = [_forced(one) for one in transform.list_of_transforms]
        return OneOfTransform([one for one in inner if one is not None]) if any(inner) else None
    if isinstance(transform, SpatialWithInstances):
        transform.spatial.p_rotation = transform.spatial.p_scaling = 1
        transform.spatial.mode_image = "nearest"  # the image is the oracle
    return AlwaysMirror(transform.allowed_axes) if isinstance(transform, MirrorTransform) else transform


class Spy:
    """Stands where the repair stands and keeps what arrives there."""

    def __init__(self, repair):
        self.repair = repair
        self.seen = []

    def __call__(self, **data_dict):
        ids = data_dict["regression_target"].clone()
        data_dict = self.repair(**data_dict)
        n_ids = len(ids)
        segmentation = data_dict["segmentation"]
        segmentation = segmentation[0] if isinstance(segmentation, list) else segmentation
        self.seen.append(
            (
                data_dict["image"].clone(),
                ids,
                segmentation[:-n_ids].clone(),
                segmentation[-n_ids:].clone(),
            )
        )
        return data_dict


def loader_with_oracle(folders, plans, configuration, raw_map, trainer=None):
    """A trainer's training loader whose images are raw maps; returns it and the spy before the repair."""
    from nnunet_datasets import make_trainer

    from nnunet_instance_trainers.data.instance_dataset import InstanceDataset
    from nnunet_instance_trainers.data.precompute import precompute
    from nnunet_instance_trainers.data.transforms import RepairInstances
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    precompute(plans["dataset_name"], [configuration], plans["plans_name"], 1)

    class OracleDataset(InstanceDataset):
        def load_case(self, identifier):
            _, segmentation, previous, properties = super().load_case(identifier)
            box = tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])
            ids = raw_map(identifier)[box].astype(np.float32)[None]
            assert ids.shape[1:] == segmentation.shape[1:]
            return ids, segmentation, previous, properties

    trainer = make_trainer(trainer or nnUNetTrainerBlob, folders, plans, configuration)
    trainer.initialize()
    np.random.seed(0)
    torch.manual_seed(0)
    loader = trainer.get_dataloaders()[0].data_loader
    data = loader._data
    loader._data = OracleDataset(data.source_folder, data.identifiers)
    loader.transforms = forced(loader.transforms)
    position = next(i for i, t in enumerate(loader.transforms.transforms) if isinstance(t, RepairInstances))
    spy = loader.transforms.transforms[position] = Spy(loader.transforms.transforms[position])
    return loader, spy


def agreement(spy):
    """Share of the foreground voxels that hold the same object as the oracle, before the repair.

    Precomputed ids are other numbers than the raw map's, so an id is the same object as the oracle's where most of
    its voxels are.
    """
    same = total = 0
    for image, ids, segmentation, _ in spy.seen:
        for channel, carried in enumerate(ids):
            regions = segmentation.shape[0] if len(ids) > 1 else None
            foreground = (segmentation[channel] if regions else segmentation[0] > 0).bool().numpy()
            carried, oracle = carried.numpy()[foreground].astype(int), image[0].numpy()[foreground].astype(int)
            total += len(oracle)
            for instance in np.unique(carried[carried > 0]):
                under = oracle[carried == instance]
                same += np.bincount(under[under > 0]).max(initial=0) if (under > 0).any() else 0
    return same / total


def raw_boxes(folders, dataset):
    import SimpleITK as sitk

    return lambda case: sitk.GetArrayFromImage(
        sitk.ReadImage(str(folders.raw / dataset / "instancesTr" / f"{case}.nii.gz"))
    )
