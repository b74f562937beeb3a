"""A trained model as one that plain nnU-Net predicts with, where this package is not installed.

nnU-Net looks up the trainer that a checkpoint names, but asks it for the network only, and our trainers leave that to
nnU-Net. So a copy whose checkpoints name ``nnUNetTrainer`` predicts the same. It is laid out as nnU-Net's own results::

    OUT/DatasetXXX_Name/nnUNetTrainer__PLANS__CONFIGURATION/
        plans.json, dataset.json, dataset_fingerprint.json
        released_from.json              what it was made from
        fold_X/checkpoint_final.pth     weights and what prediction needs: no optimizer, no log
        fold_X/progress.png, fold_X/validation/summary.json and crossval_results_folds_.../, for nnU-Net's export

Checkpoints are read by nnU-Net alone. The copy is made under a temporary name, compared with the original, and renamed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.file_path_utilities import folds_tuple_to_string
from tqdm import tqdm

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.release.same_predictions import agree, compare_predictions, load
from nnunet_instance_trainers.release.trained_models import (
    CHECKPOINT,
    PUT_BACK,
    STOCK,
    TrainedModel,
    check_trainer,
    find_stages,
)

__all__ = ["release"]

_ORIGIN = "released_from.json"


def release(model: TrainedModel, output: Path, *, images: Path | None = None, device: str = "cpu") -> list[Path]:
    """Write a copy of a model that plain nnU-Net predicts with; of a cascade both stages.

    Args:
        model: what to copy.
        output: the folder of results to write to; may hold other models.
        images: a folder of images in nnU-Net's naming, whose predictions must be equal. Without it only the networks'
            outputs for a patch of noise are compared, which is always done.
        device: where the images are predicted.

    Returns:
        The folders of the copies.

    Raises:
        UserError: something is missing or unreadable, the network is not nnU-Net's own, the place is taken, or the
            copy predicts otherwise.
    """
    check_trainer(model.trainer)
    stages = find_stages(model)
    copies = [replace(stage, results=output, trainer=STOCK, checkpoint=CHECKPOINT) for stage in stages]
    for copy in copies:
        _check_place(copy.folder, model.trainer)
    with _workplace(output, model.folder.name) as work:
        made = [replace(copy, results=work) for copy in copies]
        for stage, copy in zip(stages, made):
            _copy(stage, copy)
        if images is not None:
            compare_predictions(list(zip(stages, made)), images, work / "predicted", device)
        for new, copy in zip(made, copies):
            _publish(new.folder, copy.folder, work / "replaced")
    return [copy.folder for copy in copies]


# --- before anything is written ----------------------------------------------------------------------------


def _check_place(place: Path, trainer: str) -> None:
    """Refuse to replace what is not an earlier release of the same trainer."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    try:
        origin = json.loads((place / _ORIGIN).read_text())["trainer"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{place} exists and was not made by 'release': give another folder with -o") from None
    if origin != trainer:
        raise UserError(f"{place} is the release of {origin}: give another folder with -o")


# --- the copy ----------------------------------------------------------------------------------------------


@contextmanager
def _workplace(output: Path, name: str) -> Iterator[Path]:
    """A hidden folder below the output, which is gone afterwards; so is the output where it was made in vain."""
    work, is_new = output / f".unfinished_{name}", not output.exists()
    try:
        with writing(output, "make room, or give another folder with -o"):
            shutil.rmtree(work, ignore_errors=True)  # a killed run's
            work.mkdir(parents=True)
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it holds the release
                output.rmdir()


def _copy(model: TrainedModel, copy: TrainedModel) -> None:
    """Write the copy and compare the outputs of the networks fold by fold."""
    copy.folder.mkdir(parents=True)
    for name in ("plans.json", "dataset_fingerprint.json"):
        _copy_file(model.folder / name, copy.folder / name)
    dataset = _without_cases(read_json(model.folder / "dataset.json", PUT_BACK))
    (copy.folder / "dataset.json").write_text(json.dumps(dataset, indent=4))
    estimate = f"crossval_results_folds_{folds_tuple_to_string(model.folds)}"
    # postprocessing.json, which nnU-Net writes for readers, names folders of this machine.
    _copy_file(model.folder / estimate / "postprocessing.pkl", copy.folder / estimate / "postprocessing.pkl")
    _copy_means(model.folder / estimate / "summary.json", copy.folder / estimate / "summary.json")
    origin = _origin(model)
    for fold in tqdm(model.folds, desc=f"release, {model.configuration}", unit="fold"):
        source, target = model.file(fold).parent, copy.file(fold).parent
        target.mkdir()
        _copy_file(source / "progress.png", target / "progress.png")
        _copy_means(source / "validation" / "summary.json", target / "validation" / "summary.json")
        original = load(model, [fold])
        _write_checkpoint(original, copy, fold, origin)
        if not agree(original, load(copy, [fold])):
            raise UserError(f"fold {fold}: the copy predicts otherwise than {model.file(fold)}: nothing was released")
    (copy.folder / _ORIGIN).write_text(json.dumps(origin, indent=4))


def _copy_file(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)


def _without_cases(dataset: dict[str, Any]) -> dict[str, Any]:
    """A dataset.json without its lists of cases, nnU-Net's ("dataset") and its predecessor's."""
    return {key: value for key, value in dataset.items() if key not in ("dataset", "training", "test")}


def _copy_means(source: Path, target: Path) -> None:
    """nnU-Net's summary without its list of cases: their names and folders stay at home."""
    if source.is_file():
        summary = read_json(source, PUT_BACK)
        target.parent.mkdir(exist_ok=True)
        means = {key: summary[key] for key in ("foreground_mean", "mean") if key in summary}
        target.write_text(json.dumps(means, indent=4))


def _origin(model: TrainedModel) -> dict[str, Any]:
    return {
        "trainer": model.trainer,
        "checkpoint": model.checkpoint,
        "folds": list(model.folds),
        "versions": {
            "nnunet-instance-trainers": __version__,
            **{name: version(name) for name in ("nnunetv2", "torch")},
        },
    }


def _write_checkpoint(predictor: nnUNetPredictor, copy: TrainedModel, fold: int | str, origin: dict[str, Any]) -> None:
    """What nnU-Net's predictor and its loading of pretrained weights ask for, and where it comes from.

    Tensors and plain values only, so that ``torch.load(..., weights_only=True)`` takes it too.
    """
    checkpoint = {
        "network_weights": predictor.list_of_parameters[0],
        "trainer_name": STOCK,
        "init_args": {
            "plans": predictor.plans_manager.plans,
            "configuration": copy.configuration,
            "fold": fold,
            "dataset_json": _without_cases(predictor.dataset_json),
        },
        "inference_allowed_mirroring_axes": predictor.allowed_mirroring_axes,
        "released_from": origin,
    }
    torch.save(checkpoint, copy.file(fold))


def _publish(new: Path, place: Path, aside: Path) -> None:
    """Put a whole copy in its place; an earlier release there is replaced."""
    place.parent.mkdir(parents=True, exist_ok=True)
    earlier = aside / place.name
    if place.exists():
        aside.mkdir(exist_ok=True)
        place.rename(earlier)
    try:
        new.rename(place)
    except OSError:
        if earlier.exists():
            earlier.rename(place)
        raise
