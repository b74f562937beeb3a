"""The jobs that call nnU-Net: prepare, train, predict. Each looks at what is there first, and takes over what fits."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.nnunet_commands import dataset_id
from nnunet_instance_trainers.data.precompute import precompute
from nnunet_instance_trainers.data.preprocessed_files import preprocessed_cases
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.data.whole_files import check_whole
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.study.job_plan import Training, same_plans
from nnunet_instance_trainers.study.locks import only_one
from nnunet_instance_trainers.study.study_file import ALL, Study

__all__ = ["predict", "prepare", "train"]

_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")


def prepare(study: Study, plan: Any, job: Any, threads: int) -> dict[str, Any]:
    """Plan, preprocess, make instance maps and folds, each where it is missing."""
    number = int(dataset_id(study.dataset))
    file = study.preprocessed / f"{study.plans}.json"
    if not file.is_file():
        extract_fingerprints([number], num_processes=threads)
        plan_experiments([number])
    manager = PlansManager(str(file))
    if study.configuration not in manager.available_configurations:
        raise UserError(
            f"plans {study.plans!r} have no configuration {study.configuration!r}: there are "
            f"{', '.join(manager.available_configurations)}"
        )
    folder = study.preprocessed / manager.get_configuration(study.configuration).data_identifier
    ending = read_json(study.raw / "dataset.json", "restore it")["file_ending"]
    raw = {path.name.removesuffix(ending) for path in (study.raw / "labelsTr").glob(f"*{ending}")}
    there = set(preprocessed_cases(folder)) if folder.is_dir() and any(folder.glob("*.pkl")) else set()
    if raw - there:
        preprocess([number], study.plans, (study.configuration,), (threads,))
    if job["maps"]:
        precompute(study.dataset, [study.configuration], study.plans, threads)
    splits = study.preprocessed / "splits_final.json"
    if study.folds != (ALL,) and not splits.is_file():
        with write_atomically(splits) as temporary:  # as nnU-Net does, before many trainings do it at once
            temporary.write_text(json.dumps(generate_crossval_split(preprocessed_cases(folder)), indent=4))
    return {"cases": len(preprocessed_cases(folder))}


def train(study: Study, plan: Any, job: Any, threads: int) -> dict[str, Any]:
    """Train, or go on, or take over a training that was finished with equal plans; the learning curves."""
    training, plans = Training(**job["training"]), job["plans"]
    folder = training.folder(study)
    _write_plans(study, training, plans)
    with only_one(study.output / ".locks" / f"{training.plans}-fold_{training.fold}"):
        _set_aside_others(folder, training, plans)
        if not (folder / _CHECKPOINTS[0]).is_file():
            trainer = _trainer(study, training, threads, resume=any(folder.glob("checkpoint_*.pth")))
            trainer.run_training()
        checkpoint = _load(folder / _CHECKPOINTS[0])
    log = checkpoint["logging"]
    seconds = [end - start for start, end in zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"])]
    curves = {"train_loss": log["train_losses"], "val_loss": log["val_losses"], "pseudo_dice": log["mean_fg_dice"]}
    return {
        "training": job["training"],
        "seconds_per_epoch": [float(value) for value in seconds],
        **{name: [float(value) for value in values] for name, values in curves.items()},
    }


def predict(study: Study, plan: Any, job: Any, threads: int) -> dict[str, Any]:
    """Predict the cases that are scored: the fold's own with cross-validation, else those of the test folder."""
    training = Training(**job["training"])
    with only_one(study.output / ".locks" / f"{training.plans}-fold_{training.fold}"):
        if study.test is None:
            _validate(study, training, threads)
        else:
            _predict_test(study, training, threads)
    return {"training": job["training"], "predictions": str(training.predictions(study))}


# --- trainings ---------------------------------------------------------------------------------------------


def _write_plans(study: Study, training: Training, plans: dict[str, Any]) -> None:
    file = study.preprocessed / f"{training.plans}.json"
    if file.is_file() and same_plans(read_json(file, "delete it"), plans):
        return
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps(plans, indent=4))


def _trainer(study: Study, training: Training, threads: int, *, resume: bool, finished: bool = False) -> nnUNetTrainer:
    """nnU-Net's trainer, as its own command makes it, with its checkpoint."""
    torch.set_num_threads(threads)
    device = torch.device(study.device)
    trainer = get_trainer_from_args(
        study.dataset, study.configuration, training.fold, training.trainer, training.plans, resume, device
    )
    maybe_load_checkpoint(trainer, resume, finished, None)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return trainer


def _set_aside_others(folder: Path, training: Training, plans: dict[str, Any]) -> None:
    """Rename what was trained with other plans, and checkpoints that a kill cut short; nothing is deleted."""
    for file in [folder / name for name in _CHECKPOINTS if (folder / name).is_file()]:
        try:
            checkpoint = _load(file)
        except (RuntimeError, EOFError, zipfile.BadZipFile, OSError):
            print(f"{file} is cut off: set aside", flush=True)
            file.rename(file.with_suffix(".damaged"))
            continue
        own = checkpoint["trainer_name"] == training.trainer and same_plans(checkpoint["init_args"]["plans"], plans)
        if not own:
            n = sum(1 for _ in folder.parent.glob(f"replaced_*_{folder.name}"))
            aside = folder.with_name(f"replaced_{n}_{folder.name}")
            print(f"{folder} was trained with other plans: kept as {aside.name}", flush=True)
            folder.rename(aside)
        return


def _load(file: Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net's: tensors, plain values, and the NumPy numbers of its log; nothing in it is executed."""
    numbers = np.float32(0).__reduce__()[0], np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8"))
    with torch.serialization.safe_globals(list(numbers)):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(
                f"{file} holds more than nnU-Net's checkpoints do, so it is not read: move its folder away"
            ) from None


# --- predictions -------------------------------------------------------------------------------------------


def _validate(study: Study, training: Training, threads: int) -> None:
    folder = training.predictions(study)
    if (folder / "summary.json").is_file() and (not study.ensemble or any(folder.glob("*.npz"))):
        return
    trainer = _trainer(study, training, threads, resume=False, finished=True)
    trainer.perform_actual_validation(study.ensemble)


def _predict_test(study: Study, training: Training, threads: int) -> None:
    folder, images = training.predictions(study), study.test["images"]
    ending = read_json(study.raw / "dataset.json", "restore it")["file_ending"]
    cases = [path.name.removesuffix(f"_0000{ending}") for path in images.glob(f"*_0000{ending}")]
    model = training.folder(study).parent
    plans = read_json(model / "plans.json", "train again")
    if _is_whole(folder, cases, ending, plans, study.ensemble):
        return
    working = folder.with_name(f".unfinished_{folder.name}")
    for there in (working, folder):
        file = there / "plans.json"
        if there.is_dir() and not (file.is_file() and same_plans(read_json(file, "delete it"), plans)):
            shutil.rmtree(there)  # of an arm that was changed since
    if folder.is_dir() and not working.is_dir():
        folder.rename(working)
    for case in cases:  # what a kill cut off would be kept
        _remove_damaged(working, case, ending)
    torch.set_num_threads(threads)
    device = torch.device(study.device)
    predictor = nnUNetPredictor(device=device, perform_everything_on_device=device.type == "cuda", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (training.fold,), _CHECKPOINTS[0])
    predictor.predict_from_files(
        str(images),
        str(working),
        save_probabilities=study.ensemble,
        overwrite=False,
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )
    working.rename(folder)


def _is_whole(folder: Path, cases: list[str], ending: str, plans: dict[str, Any], probabilities: bool) -> bool:
    """Whether a folder has every case, predicted by a model with equal plans."""
    endings = [ending, ".npz"] if probabilities else [ending]
    if not (folder / "plans.json").is_file() or not same_plans(read_json(folder / "plans.json", "delete it"), plans):
        return False
    return all((folder / f"{case}{end}").is_file() for case in cases for end in endings)


def _remove_damaged(folder: Path, case: str, ending: str) -> None:
    image, probabilities = folder / f"{case}{ending}", folder / f"{case}.npz"
    try:
        if image.is_file():
            check_whole(image)
        if probabilities.is_file() and zipfile.ZipFile(probabilities).testzip() is not None:
            raise zipfile.BadZipFile
    except (UserError, zipfile.BadZipFile):
        for file in (image, probabilities, folder / f"{case}.pkl"):
            file.unlink(missing_ok=True)
