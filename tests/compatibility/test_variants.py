"""Trainers combined with nnU-Net's own variants, other plans, and transforms of a user's own."""

from __future__ import annotations

import importlib.util
import pkgutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from feature_matrix import SOURCES, TARGETS, combined_trainer
from id_oracle import agreement, loader_with_oracle, raw_boxes
from nnunet_datasets import make_trainer, preprocess, save

pytestmark = pytest.mark.nnunet

BOXES, REGIONS = "Dataset901_Boxes", "Dataset903_Regions"


# --- ids through other augmentations --------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["DA5", "NoDA", "NoMirroring"])
@pytest.mark.parametrize("dataset, configuration", [(BOXES, "3d_fullres"), (BOXES, "3d_flat"), (REGIONS, "2d")])
def test_ids_keep_their_objects_in_nnunets_variants_of_augmentation(boxes, variant, dataset, configuration):
    folders, plans = boxes
    trainer = combined_trainer(f"nnUNetTrainerBlob{variant}")
    loader, spy = loader_with_oracle(folders, plans[dataset], configuration, raw_boxes(folders, dataset), trainer)
    names = repr(loader.transforms)
    assert ("Rot90" in names and "TransposeAxes" in names) == (variant == "DA5")
    assert ("SpatialWithInstances" in names) == (variant != "NoDA")
    assert ("Mirror" in names) == (variant == "DA5")
    for _ in range(20):
        next(loader)
    assert agreement(spy) >= (0.97 if variant != "NoDA" else 1)


def _nested(kind):
    """A trainer whose spatial transform stands inside another one, as a user may write it."""
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    wrap = {
        "random": lambda spatial: RandomTransform(spatial, 1),
        "one of": lambda spatial: OneOfTransform([spatial, spatial]),
        "composed": lambda spatial: ComposeTransforms([RandomTransform(spatial, 1)]),
    }[kind]

    class Nested(nnUNetTrainer):
        @staticmethod
        def get_training_transforms(*args, **kwargs):
            transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
            spatial = transforms.transforms[0]
            spatial.p_rotation = spatial.p_scaling = 1
            transforms.transforms[0] = wrap(spatial)
            return transforms

    return type("nnUNetTrainerBlobNested", (nnUNetTrainerBlob, Nested), {})


@pytest.mark.parametrize("kind", ["random", "one of", "composed"])
def test_ids_keep_their_objects_where_the_spatial_transform_is_nested(boxes, kind):
    folders, plans = boxes
    raw_map = raw_boxes(folders, BOXES)
    loader, spy = loader_with_oracle(folders, plans[BOXES], "3d_fullres", raw_map, _nested(kind))
    for _ in range(20):
        next(loader)
    assert all((ids == ids.round()).all() for _, ids, _, _ in spy.seen)  # interpolated ids are not
    assert agreement(spy) >= 0.97


def test_a_transform_that_loses_ids_is_refused_at_start(corners):
    from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    class Roll(BasicTransform):
        def _apply_to_image(self, img, **_):
            return img.roll(1, -1)

        _apply_to_segmentation = _apply_to_image

    class Rolled(nnUNetTrainer):
        @staticmethod
        def get_training_transforms(*args, **kwargs):
            transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
            transforms.transforms.insert(1, Roll())
            return transforms

    trainer = type("nnUNetTrainerBlobRolled", (nnUNetTrainerBlob, Rolled), {})
    plans = {source: corners.plans[TARGETS["binary"], source] for source in SOURCES}
    with pytest.raises(SystemExit, match="transform Roll loses instance ids.*'_apply_to_regr_target'.*\"patch\""):
        make_trainer(trainer, corners.folders, plans["precomputed"], "2d").run_training()
    make_trainer(trainer, corners.folders, plans["patch"], "2d").on_train_start()


# --- every variant of nnU-Net ---------------------------------------------------------------------------------


def every_variant() -> list[type]:
    """nnU-Net's trainers, but for benchmarks of a GPU and, where its package is missing, the optimiser Adan."""
    import nnunetv2.training.nnUNetTrainer.variants as variants
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    found = {}
    for module in pkgutil.walk_packages(variants.__path__, variants.__name__ + "."):
        if not module.ispkg and "benchmarking" not in module.name:
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, type) and issubclass(value, nnUNetTrainer) and value is not nnUNetTrainer:
                    found[name] = value
    has_adan = importlib.util.find_spec("adan_pytorch") is not None
    return [variant for name, variant in found.items() if has_adan or "Adan" not in name]


def one_step(trainer) -> None:
    """A step of training and one of validation, both with ids."""
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(batch for batch in trainer.dataloader_train if _full(batch["target"])[:, -1].any())
    assert np.isfinite(trainer.train_step(batch)["loss"])
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)
    assert trainer.loss.compound.values["blob"] > 0
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert trainer.validation_step(next(trainer.dataloader_val))["objects"].any()


def _full(target):
    return target[0] if isinstance(target, list) else target


@pytest.mark.parametrize("source", SOURCES)
def test_every_variant_of_nnunet_combines(corners, source):
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    variants = every_variant()
    assert len(variants) > 20
    for variant in variants:
        try:
            combined = type(f"nnUNetTrainerBlob_{variant.__name__}", (nnUNetTrainerBlob, variant), {})
            plans = corners.plans[TARGETS["three classes"], source]
            one_step(make_trainer(combined, corners.folders, plans, "3d_fullres"))
        except Exception as error:
            raise AssertionError(f"{variant.__name__} does not combine") from error


def test_half_of_a_loss_that_has_no_halves_is_refused_at_start(corners):
    from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    trainer = type("nnUNetTrainerBlobCE", (nnUNetTrainerBlob, nnUNetTrainerCELoss), {"pixel_loss": "nnunet_dice"})
    plans = corners.plans[TARGETS["binary"], "patch"]
    with pytest.raises(SystemExit, match="'pixel_loss' cannot be 'nnunet_dice' in nnUNetTrainerBlobCE, whose loss Rob"):
        make_trainer(trainer, corners.folders, plans, "2d").run_training()


def test_targets_without_ids_are_refused(corners):
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    trainer = make_trainer(nnUNetTrainerBlob, corners.folders, corners.plans[TARGETS["nested regions"], "patch"], "2d")
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    batch["target"] = [target[:, :2] for target in batch["target"]]
    trainer.dataloader_train = iter([batch])
    trainer.on_train_start = lambda: None
    with pytest.raises(SystemExit, match="feeds targets of 2 channels, expected 4 with the instance ids"):
        trainer.run_training()


# --- other plans ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_residual_encoders_train(corners, configuration):
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    plans = corners.plans[TARGETS["regions with ignore label"], "precomputed"]
    plan = plans["configurations"][configuration]
    network = {**plan["architecture"]["arch_kwargs"], "n_blocks_per_stage": [1, 2, 2]}
    del network["n_conv_per_stage"]
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    residual = {**plan, "architecture": {**plan["architecture"], "network_class_name": name, "arch_kwargs": network}}
    plans = {**plans, "plans_name": "residual", "configurations": {configuration: residual}}
    trainer = make_trainer(nnUNetTrainerBlob, corners.folders, plans, configuration)
    one_step(trainer)
    assert type(trainer.network).__name__ == "ResidualEncoderUNet"


def test_a_transformer_of_nnunets_trains(corners):
    """Primus has no deep supervision and steps of its own."""
    from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_S_Trainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    trainer = type("nnUNetTrainerBlobPrimus", (nnUNetTrainerBlob, nnUNet_Primus_S_Trainer), {})
    plans = corners.plans[TARGETS["binary"], "precomputed"]
    one_step(make_trainer(trainer, corners.folders, plans, "3d_fullres"))


@pytest.mark.parametrize("source", SOURCES)
def test_voxels_outside_a_mask_for_normalisation_have_no_ids(boxes, source):
    """With such a mask nnU-Net's preprocessed segmentations hold -1 outside it."""
    from nnunet_instance_trainers.data.precompute import precompute
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    folders, plans = boxes
    for path in (folders.raw / BOXES / "imagesTr").iterdir():
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        image[:, :10, :10] = 0  # a corner that cropping leaves in
        save(image, path)
    plan = plans[BOXES]["configurations"]["3d_fullres"]
    plan.update(use_mask_for_norm=[True], instance_training={"source": source, "seed": 0})
    preprocess(folders, plans[BOXES], "3d_fullres")
    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    trainer = make_trainer(nnUNetTrainerBlob, folders, plans[BOXES], "3d_fullres")
    one_step(trainer)
    assert (trainer.dataloader_train.data_loader._data.load_case("case_0")[1][:] < 0).any()
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        for target in next(loader)["target"]:
            assert ((target[:, 1] > 0) == (target[:, 0] > 0)).all()
