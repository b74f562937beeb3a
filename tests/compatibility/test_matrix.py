"""Every cell of the feature matrix goes through nnU-Net's own classes, from the loader to the predicted image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from feature_matrix import CELLS, SUPERVISION, TARGETS, table
from nnunet_datasets import make_trainer

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def test_the_page_shows_the_cells_that_are_tested():
    assert f"\n{table()}\n" in PAGE.read_text()


def predict(model: Path, images: list[Path], output: Path, previous: Path | None = None) -> np.ndarray:
    """Sliding-window prediction of one case from a checkpoint, as nnUNetv2_predict makes it; the label image."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    output.mkdir(parents=True, exist_ok=True)
    options = {"tile_step_size": 1, "use_mirroring": False, "device": torch.device("cpu"), "allow_tqdm": False}
    predictor = nnUNetPredictor(**options)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    predictor.predict_from_files_sequential(
        [[str(image) for image in images]], str(output), folder_with_segs_from_prev_stage=previous and str(previous)
    )
    return sitk.GetArrayFromImage(sitk.ReadImage(str(output / f"{images[0].name[:-12]}.nii.gz")))


def step(trainer) -> dict:
    """One step of training, after which the checkpoint is written; returns the batch."""
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    assert np.isfinite(trainer.train_step(batch)["loss"])
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return batch


def check_batch(trainer, batch: dict, cell) -> None:
    """It is what the cell says it is: image channels, scales, augmentation, and ids exactly where objects are."""
    labels = trainer.label_manager
    assert batch["data"].shape[1] == (1 + len(labels.foreground_labels) if cell.geometry == "cascade" else 1)
    assert isinstance(batch["target"], list) == (SUPERVISION[cell.supervision] == "")
    pseudo_2d = "Convert3DTo2D" in repr(trainer.dataloader_train.data_loader.transforms)
    assert pseudo_2d == (cell.geometry == "anisotropic, pseudo-2D")
    for target in batch["target"] if isinstance(batch["target"], list) else [batch["target"]]:
        regions = trainer.n_regions
        masks = target[:, :regions] if regions else (target[:, :1] > 0) & (target[:, :1] != labels.ignore_label)
        assert ((target[:, -max(regions, 1) :] > 0) == masks.bool()).all()
        assert target.shape[1] == (2 * regions + labels.has_ignore_label if regions else 2)


@pytest.fixture(scope="session")
def first_stage(_corners):
    """Per target, predictions of a 3d_lowres model made by nnU-Net's export: for training and for predicting."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(target: str) -> tuple[Path, Path]:
        if target not in made:
            made[target] = _predict_first_stage(_corners, TARGETS[target])
        return made[target]

    return get


def _predict_first_stage(corners, dataset: str) -> tuple[Path, Path]:
    from nnunetv2.inference.export_prediction import resample_and_save
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlobTversky

    trainer = make_trainer(nnUNetTrainerBlobTversky, corners.folders, corners.plans[dataset, "patch"], "3d_lowres")
    step(trainer)
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    stage = Path(trainer.output_folder_base) / "predicted_next_stage" / "3d_cascade_fullres"
    stage.mkdir(parents=True)
    full = nnUNetDatasetBlosc2(trainer.preprocessed_dataset_folder.replace("lowres", "fullres"))
    low = nnUNetDatasetBlosc2(trainer.preprocessed_dataset_folder)
    for case in low.identifiers:
        data, _, _, properties = low.load_case(case)
        with torch.no_grad():
            padded = trainer.network(_padded(torch.from_numpy(data[:])[None]))[0]
        logits = padded[(slice(None), *(slice(0, extent) for extent in data.shape[1:]))]
        resample_and_save(
            logits,
            full.load_case(case)[0].shape[1:],
            str(stage / case),
            trainer.plans_manager,
            trainer.configuration_manager,
            properties,
            trainer.dataset_json,
            1,
        )
    image = corners.folders.raw / dataset / "imagesTr" / "case_0_0000.nii.gz"
    predict(Path(trainer.output_folder_base), [image], stage.parent / "images")
    return stage, stage.parent / "images"


def _padded(data: torch.Tensor) -> torch.Tensor:
    """To a multiple of 4, as three stages need it."""
    return torch.nn.functional.pad(data, [pad for extent in data.shape[:1:-1] for pad in (0, -extent % 4)])


@pytest.mark.nnunet
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(corners, first_stage, cell, tmp_path):
    trainer = corners.trainer(cell)
    stage, previous = first_stage(cell.target) if cell.geometry == "cascade" else (None, None)
    if stage:
        trainer.folder_with_segs_from_previous_stage = str(stage)
    check_batch(trainer, step(trainer), cell)
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]  # the coarsest scale has none
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)
    values = trainer.loss.compound.values
    assert list(values) == trainer.settings.parts and sum(values[term] for term in trainer.settings.terms) > 0
    assert trainer.instance_source == cell.source
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        result = trainer.validation_step(next(trainer.dataloader_val))
    assert np.isfinite(result["loss"]) and result["objects"].any()
    image = corners.folders.raw / TARGETS[cell.target] / "imagesTr" / "case_0_0000.nii.gz"
    labels = predict(Path(trainer.output_folder_base), [image], tmp_path, previous)
    assert labels.shape == sitk.GetArrayFromImage(sitk.ReadImage(str(image))).shape
    assert set(np.unique(labels)) <= set(trainer.label_manager.all_labels)
