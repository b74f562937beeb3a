"""Whether two copies of a model predict the same: their networks on noise, and whole predictions of images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from glob import escape
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from tqdm import tqdm

from nnunet_instance_trainers.data.label_reading import read_labels
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.release.trained_models import TrainedModel

__all__ = ["agree", "compare_predictions", "load"]


def load(model: TrainedModel, folds: Sequence[int | str], device: str = "cpu") -> nnUNetPredictor:
    """nnU-Net's predictor of some folds of a model.

    Raises:
        UserError: nnU-Net cannot load them, or another trainer wrote them.
    """
    with redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(device=torch.device(device), allow_tqdm=False)
        try:
            predictor.initialize_from_trained_model_folder(str(model.folder), tuple(folds), model.checkpoint)
        except Exception as error:  # a damaged file raises many kinds
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            where = f"{model.checkpoint} of fold {folds[0]} in {model.folder}"
            raise UserError(
                f"nnU-Net cannot load {where} ({reason[0]}): train again, or name another with -chk"
            ) from None
    if predictor.trainer_name != model.trainer:
        raise UserError(f"{model.file(folds[0])} was written by {predictor.trainer_name}: give that with -tr")
    return predictor


def agree(a: nnUNetPredictor, b: nnUNetPredictor) -> bool:
    """Whether two predictors mirror alike and their networks give equal outputs for a patch of noise."""
    channels = determine_num_input_channels(a.plans_manager, a.configuration_manager, a.dataset_json)
    patch = (1, channels, *a.configuration_manager.patch_size)
    noise = torch.randn(patch, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first, second = (predictor.network.eval()(noise) for predictor in (a, b))
    same = torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)  # a training may have diverged
    return same and a.allowed_mirroring_axes == b.allowed_mirroring_axes


def compare_predictions(
    pairs: Sequence[tuple[TrainedModel, TrainedModel]], images: Path, work: Path, device: str
) -> None:
    """Predict images with the folds of two models together, and compare.

    Args:
        pairs: of models, the stages of a cascade one after the other.
        images: in nnU-Net's naming.
        work: a folder for the predictions, made here.
        device: where to predict.

    Raises:
        UserError: there are no images, one cannot be predicted, or its predictions differ.
    """
    before: tuple[Path | None, Path | None] = (None, None)
    for pair in pairs:
        predictors = [load(model, model.folds, device) for model in pair]
        ending = predictors[0].dataset_json["file_ending"]
        folders = tuple(work / f"{model.trainer}_of_{k}_{model.configuration}" for k, model in enumerate(pair))
        for folder in folders:
            folder.mkdir(parents=True)
        reader = predictors[0].plans_manager.image_reader_writer_class()
        for case, files in tqdm(_cases(images, ending).items(), desc=f"compare, {pair[0].configuration}", unit="case"):
            for predictor, folder, previous in zip(predictors, folders, before):
                _predict(predictor, case, files, folder, previous)
            a, b = (read_labels(reader, folder / f"{case}{ending}", case)[0] for folder in folders)
            if not np.array_equal(a, b):
                raise UserError(
                    f"case {case!r}: the copy predicts otherwise than {pair[0].folder}: nothing was released"
                )
        before = folders


def _cases(images: Path, ending: str) -> dict[str, list[str]]:
    """The files of each case, a channel each."""
    channel = "_[0-9][0-9][0-9][0-9]"
    names = sorted({file.name[: -len(ending) - 5] for file in images.glob(f"[!.]*{channel}{ending}")})
    if not names:
        raise UserError(f"-i {images} has no images named CASE_0000{ending}: give a folder as for nnUNetv2_predict")
    return {name: sorted(map(str, images.glob(f"{escape(name)}{channel}{ending}"))) for name in names}


def _predict(predictor: nnUNetPredictor, case: str, files: list[str], folder: Path, previous: Path | None) -> None:
    with redirect_stdout(io.StringIO()), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
        try:
            predictor.predict_from_files_sequential(
                [files], str(folder), folder_with_segs_from_prev_stage=None if previous is None else str(previous)
            )
        except Exception as error:  # each reader raises its own kind
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise UserError(f"case {case!r}: nnU-Net cannot predict it ({reason[0]}): give other images") from None
