"""Ids reach the loss under the right objects, through nnU-Net's real loader and augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from id_oracle import agreement, loader_with_oracle, raw_boxes

pytestmark = pytest.mark.nnunet

BOXES, CLASSES, REGIONS, IGNORE = "Dataset901_Boxes", "Dataset902_Classes", "Dataset903_Regions", "Dataset904_Ignore"


def check_repaired(spy, channels_of):
    for _, _, segmentation, repaired in spy.seen:
        for channel, ids in enumerate(repaired):
            assert ((ids > 0) == channels_of(segmentation, channel)).all()


def nuclei(real):
    from nnunet_datasets import configuration, preprocess, write_plans
    from skimage.io import imread

    name = "Dataset501_Nuclei2D"
    folders = real(name, 8)
    plans = write_plans(folders, name, {"2d": configuration("2d", [128, 128], [1.0, 1.0])}, reader="NaturalImage2DIO")
    preprocess(folders, plans, "2d")
    return folders, plans, lambda case: imread(folders.raw / name / "instancesTr" / f"{case}.png")[None]


def test_real_touching_nuclei_keep_their_ids_in_2d(real):
    folders, plans, raw_map = nuclei(real)
    loader, spy = loader_with_oracle(folders, plans, "2d", raw_map)
    for _ in range(12):
        next(loader)
    assert len(spy.seen) >= 24 and agreement(spy) >= 0.97
    check_repaired(spy, lambda segmentation, channel: segmentation[0] > 0)


@pytest.mark.parametrize(
    "dataset, configuration",
    [
        (BOXES, "3d_fullres"),
        (BOXES, "3d_flat"),
        (BOXES, "2d"),
        (CLASSES, "3d_fullres"),
        (REGIONS, "3d_fullres"),
        (REGIONS, "3d_flat"),
        (REGIONS, "2d"),
        (IGNORE, "3d_fullres"),
    ],
)
def test_synthetic_touching_boxes_keep_their_ids(boxes, dataset, configuration):
    folders, plans = boxes
    loader, spy = loader_with_oracle(folders, plans[dataset], configuration, raw_boxes(folders, dataset))
    for _ in range(20):
        next(loader)
    if dataset == IGNORE:  # the oracle knows no ignored voxels
        spy.seen = [(image, ids, torch.where(seg == 2, 0, seg), repaired) for image, ids, seg, repaired in spy.seen]
    assert agreement(spy) >= 0.97
    if dataset == REGIONS:
        check_repaired(spy, lambda segmentation, channel: segmentation[channel] > 0)
    else:
        check_repaired(spy, lambda segmentation, channel: segmentation[0] > 0)


@pytest.mark.parametrize("dataset", [CLASSES, REGIONS, IGNORE])
@pytest.mark.parametrize("source", ["patch", "precomputed"])
def test_ids_lie_where_the_foreground_is_at_every_scale(boxes, dataset, source):
    from nnunet_datasets import make_trainer

    from nnunet_instance_trainers.data.precompute import precompute
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    folders, plans = boxes
    plan = plans[dataset]["configurations"]["3d_fullres"]
    plan["instance_training"] = {"source": source}
    if source == "precomputed":
        precompute(dataset, ["3d_fullres"], "nnUNetPlans", 1)
    trainer = make_trainer(nnUNetTrainerBlob, folders, plans[dataset], "3d_fullres")
    trainer.initialize()
    for loader in trainer.get_dataloaders():
        for _ in range(4):
            scales = next(loader)["target"]
            assert len(scales) == 2  # three stages
            for target in scales:
                if dataset == REGIONS:
                    assert target.shape[1] == 4 and ((target[:, 2:] > 0) == (target[:, :2] > 0)).all()
                else:
                    foreground = (target[:, 0] == 1) | (target[:, 0] == 2 if dataset == CLASSES else False)
                    assert target.shape[1] == 2 and ((target[:, 1] > 0) == foreground).all()
                assert (target[:, -1] > 0).any() or target.shape[2] < 16


def test_maps_that_take_another_way_than_the_image_stop_the_training(real):
    """Flip the maps on purpose: the repair notices, and the agreement with the oracle is gone."""
    folders, plans, raw_map = nuclei(real)
    loader, spy = loader_with_oracle(folders, plans, "2d", raw_map)
    transforms = loader.transforms.transforms

    class Flip:
        def __call__(self, **data_dict):
            data_dict["regression_target"] = data_dict["regression_target"].flip(1)
            return data_dict

    transforms.insert(transforms.index(spy), Flip())
    with pytest.raises(RuntimeError, match="lie apart from all instance ids.*source"):
        for _ in range(12):
            next(loader)
    spy.repair.max_astray = 1  # without the guard the repair makes even these fit
    for _ in range(12):
        next(loader)
    assert agreement(spy) < 0.5
    check_repaired(spy, lambda segmentation, channel: segmentation[0] > 0)


def test_the_smallest_objects_are_never_taken_for_a_mistake():
    """Single voxels under rotation and scaling: nearest and linear sampling disagree most, none is astray."""
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    from nnunet_instance_trainers.data.id_repair import repair_ids
    from nnunet_instance_trainers.data.transforms import SpatialWithInstances

    random = np.random.default_rng(0)
    ids = np.zeros((40, 40, 40), dtype=np.float32)
    ids[tuple(random.integers(0, 40, (3, 300)))] = np.arange(1, 301)
    spatial = SpatialTransform(
        (40, 40, 40),
        0,
        False,
        p_rotation=1,
        rotation=(-0.5, 0.5),
        p_scaling=1,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    for _ in range(5):
        out = SpatialWithInstances(spatial)(
            image=torch.zeros(1, 40, 40, 40),
            segmentation=torch.from_numpy((ids > 0).astype(np.int16))[None],
            regression_target=torch.from_numpy(ids)[None],
        )
        labels = out["segmentation"][0].clamp(min=0).numpy()
        carried = out["regression_target"][0].numpy().astype(np.int32)
        assert np.count_nonzero((carried > 0) != (labels > 0)) > 0.2 * np.count_nonzero(carried)
        assert repair_ids(carried, labels)[1] == 0


def test_components_of_a_patch_are_those_of_each_class():
    from nnunet_instance_trainers.data.transforms import LabelInstances

    labels = torch.zeros(1, 8, 8, dtype=torch.int16)
    labels[0, :2, :2], labels[0, 2:4, 2:4], labels[0, 6, 6], labels[0, 0, 7] = 1, 1, 2, 3
    both = LabelInstances([1, 2])(image=None, segmentation=labels)["segmentation"]
    assert both.dtype == torch.int16 and both.shape == (2, 8, 8)
    assert both[1, 0, 0] == both[1, 3, 3] > 0 and both[1, 6, 6] > 0 and both[1, 6, 6] != both[1, 0, 0]
    assert both[1, 0, 7] == 0  # class 3 does not get the term
    regions = torch.stack((labels[0] > 0, labels[0] == 2))
    ids = LabelInstances([1], regions=2)(image=None, segmentation=regions)["segmentation"]
    assert ids.shape == (4, 8, 8) and not ids[2].any() and ((ids[3] > 0) == (labels[0] == 2)).all()


@pytest.mark.parametrize("shape", [(17, 9), (8, 31, 12), (64, 64)])
def test_ids_are_downsampled_as_nnunet_downsamples_labels(shape):
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    from nnunet_instance_trainers.data.transforms import downsample_nearest

    ids = torch.randint(0, 30_000, (2, *shape), dtype=torch.int16)
    for scale in (1, 0.5, 0.25, 0.4, 0.7, 0.125):
        (expected,) = DownsampleSegForDSTransform([[scale] * len(shape)])(segmentation=ids)["segmentation"]
        assert torch.equal(downsample_nearest(ids, expected.shape[1:]), expected)


def test_too_many_components_in_a_patch_are_refused():
    from nnunet_instance_trainers.data.transforms import LabelInstances
    from nnunet_instance_trainers.errors import UserError

    dots = torch.zeros(1, 400, 400, dtype=torch.int16)
    dots[0, ::2, ::2] = 1  # 40,000
    with pytest.raises(UserError, match="40000 components, more than 32767"):
        LabelInstances([1])(image=None, segmentation=dots)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_transforms_survive_the_way_into_a_worker(boxes, method):
    """A dataset and transforms are pickled into processes that start from nothing."""
    from multiprocessing import get_context

    from nnunet_datasets import make_trainer

    from nnunet_instance_trainers.data.precompute import precompute
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    folders, plans = boxes
    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    trainer = make_trainer(nnUNetTrainerBlob, folders, plans[BOXES], "3d_fullres")
    trainer.initialize()
    loader = trainer.get_dataloaders()[0].data_loader
    with get_context(method).Pool(1) as pool:
        batch = pool.apply(next, (loader,))
    assert batch["target"][0].shape == (2, 2, 24, 32, 32)
