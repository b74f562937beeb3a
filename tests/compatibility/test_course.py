"""What surrounds a training: nnU-Net's own functions behind its commands, with the checkpoints of these trainers.

Worker processes that would import nnU-Net anew, ten seconds each, are threads here; the real commands run in
tests/test_nnunet_commands.py.
"""

from __future__ import annotations

import json
import shutil
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunet_datasets import Folders, make_trainer

pytestmark = pytest.mark.nnunet

DATASET, TRAINER, CPU = "Dataset913_Regions", "nnUNetTrainerBlob", torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    import nnunetv2.ensembling.ensemble as ensemble
    import nnunetv2.evaluation.evaluate_predictions as evaluate
    import nnunetv2.postprocessing.remove_connected_components as postprocessing
    import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as training

    import nnunet_instance_trainers.training.instance_scoring as scored

    pools = SimpleNamespace(get_context=lambda method: SimpleNamespace(Pool=ThreadPool))
    for module in (ensemble, evaluate, postprocessing, training):
        monkeypatch.setattr(module, "multiprocessing", pools)
    for module in (training, scored):
        monkeypatch.setattr(module, "default_num_processes", 1)


@pytest.fixture
def home(_corners, tmp_path, monkeypatch):
    """A private copy of one dataset of the matrix with plans of one epoch."""
    from feature_matrix import Corners

    folders = Folders(tmp_path / "nnunet")
    shutil.copytree(_corners.folders.raw / DATASET, folders.raw / DATASET)
    shutil.copytree(_corners.folders.preprocessed / DATASET, folders.preprocessed / DATASET)
    folders.results.mkdir()
    for name, value in Corners(folders, {}).environment.items():
        monkeypatch.setenv(name, value)
    write_plans(folders, num_epochs=1)
    return folders


def write_plans(folders: Folders, **settings) -> dict:
    from feature_matrix import configurations

    tiny = {"num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
    base = folders.preprocessed / DATASET
    plans = json.loads((base / "precomputed.json").read_text())
    plans = {**plans, "plans_name": "nnUNetPlans", "configurations": configurations("precomputed", **tiny, **settings)}
    (base / "nnUNetPlans.json").write_text(json.dumps(plans))
    return plans


def train(configuration="2d", fold="0", trainer=TRAINER, **options):
    """What nnUNetv2_train calls."""
    from nnunetv2.run.run_training import run_training

    run_training("913", configuration, fold, trainer, device=CPU, **options)


def fold_folder(folders: Folders, configuration="2d", fold="0", trainer=TRAINER) -> Path:
    return folders.results / DATASET / f"{trainer}__nnUNetPlans__{configuration}" / f"fold_{fold}"


def call(monkeypatch, entry, *arguments) -> None:
    """A command of nnU-Net by its entry point."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    entry()


# --- nnUNetv2_train -------------------------------------------------------------------------------------------


def test_a_training_goes_on_and_validates_again_without_maps(home):
    train(export_validation_probabilities=True)
    folder = fold_folder(home)
    assert (folder / "validation" / "case_2.npz").is_file()
    write_plans(home, num_epochs=3)
    train(continue_training=True)
    epochs = [line.split(",")[0] for line in (folder / "instance_losses.csv").read_text().splitlines()]
    assert epochs == ["epoch", "0", "1", "2"]
    shutil.rmtree(home.preprocessed / DATASET / "nnUNetPlans_2d_instances")
    shutil.rmtree(folder / "validation")
    train(only_run_validation=True)
    assert (folder / "validation" / "instance_scores" / "summary.json").is_file()
    train(only_run_validation=True, val_with_best=True)


def test_fold_all_trains_and_validates_on_every_case(home):
    train(fold="all")
    folder = fold_folder(home, fold="all")
    assert {path.name for path in (folder / "validation").glob("*.nii.gz")} == {f"case_{n}.nii.gz" for n in range(3)}


def test_disabled_checkpointing_writes_none(home):
    train(disable_checkpointing=True)
    assert (fold_folder(home) / "validation" / "summary.json").is_file()
    assert not list(fold_folder(home).glob("*.pth"))


@pytest.mark.parametrize("source, target", [("nnUNetTrainer", TRAINER), (TRAINER, TRAINER), (TRAINER, "nnUNetTrainer")])
def test_weights_are_taken_over_from_a_pretrained_checkpoint(home, source, target):
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    giver = get_trainer_from_args("913", "2d", 0, source, device=CPU)
    giver.initialize()
    for parameter in giver.network.parameters():
        parameter.data.fill_(0.125)
    file = str(home.root / "pretrained.pth")
    giver.inference_allowed_mirroring_axes = None
    giver.save_checkpoint(file)
    taker = get_trainer_from_args("913", "2d", 0, target, device=CPU)
    maybe_load_checkpoint(taker, False, False, file)
    for name, parameter in taker.network.named_parameters():
        assert (parameter == 0.125).all() != ("seg_layers" in name)  # nnU-Net leaves these out
    if target == TRAINER:  # the stock trainer knows no setting that makes it short
        taker.run_training()


# --- the cascade ----------------------------------------------------------------------------------------------


def test_the_second_stage_sees_what_nnunet_predicted_with_the_first(home):
    """The real validation of the first stage; afterwards an exact copy of the labels shows the way into the image."""
    import blosc2

    with pytest.raises(SystemExit, match=r"case 'case_0': no prediction of the previous stage in .*train '3d_lowres'"):
        train("3d_cascade_fullres")
    train("3d_lowres", fold="all")
    predicted = fold_folder(home, "3d_lowres").parent / "predicted_next_stage" / "3d_cascade_fullres"
    assert {path.name for path in predicted.iterdir()} == {f"case_{n}.b2nd" for n in range(3)}
    train("3d_cascade_fullres")
    full = home.preprocessed / DATASET / "nnUNetPlans_3d_fullres"
    for path in predicted.iterdir():
        labels = blosc2.open(str(full / f"{path.stem}_seg.b2nd"))[:][0].clip(0).astype("uint8")
        blosc2.asarray(labels, urlpath=str(path), mode="w")
    trainer = make_trainer_of(home, "3d_cascade_fullres")
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_val)
    image, target = batch["data"], batch["target"][0]
    assert image.shape[1] == 3 and target.shape[1] == 4  # image, labels 1 and 2; two regions and their ids
    assert (image[:, 1:].sum(1) == target[:, 0]).all() and (image[:, 2] == target[:, 1]).all()
    assert ((target[:, 2:] > 0) == (target[:, :2] > 0)).all()


def make_trainer_of(folders: Folders, configuration: str):
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    plans = json.loads((folders.preprocessed / DATASET / "nnUNetPlans.json").read_text())
    return make_trainer(nnUNetTrainerBlob, folders, plans, configuration)


# --- after the training ---------------------------------------------------------------------------------------


def test_the_best_configuration_is_found_and_the_model_travels_in_a_zip(home, monkeypatch, tmp_path):
    from nnunetv2.evaluation.find_best_configuration import find_best_configuration_entry_point
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.model_sharing.entry_points import (
        export_pretrained_model_entry,
        install_from_zip_entry_point,
    )

    model = ["913", "-c", "2d", "3d_fullres", "-tr", TRAINER, "-f", "0"]
    for configuration in ("2d", "3d_fullres"):
        train(configuration, export_validation_probabilities=True)
    call(monkeypatch, find_best_configuration_entry_point, *model, "-np", "1")
    found = json.loads((home.results / DATASET / "inference_information.json").read_text())
    assert {m["trainer"] for m in found["best_model_or_ensemble"]["selected_model_or_models"]} == {TRAINER}
    assert len(found["all_results"]) == 3  # both configurations and their ensemble
    file = tmp_path / "model.zip"
    call(monkeypatch, export_pretrained_model_entry, "-d", *model, "-o", file)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("nnUNet_results", str(elsewhere))
    call(monkeypatch, install_from_zip_entry_point, file)
    installed = elsewhere / DATASET / f"{TRAINER}__nnUNetPlans__3d_fullres"
    predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(installed), (0,))
    image = home.raw / DATASET / "imagesTr" / "case_0_0000.nii.gz"
    (tmp_path / "predicted").mkdir()
    predictor.predict_from_files_sequential([[str(image)]], str(tmp_path / "predicted"))
    assert (tmp_path / "predicted" / "case_0.nii.gz").is_file()
