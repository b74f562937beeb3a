"""The arms of a study held against the trainers that nnU-Net finds, their settings and the dataset."""

from __future__ import annotations

import re
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.study.study_file import ALL, Arm, Study
from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = ["check_arms", "takes_settings"]


def check_arms(study: Study, plans: dict[str, Any] | None) -> dict[str, bool]:
    """Check every arm, and say which take settings: those of this package, whose seeds are seeds too.

    Args:
        study: with its arms.
        plans: the base plans; None before nnU-Net has planned the dataset.

    Raises:
        UserError: no such trainer or configuration, a setting that is wrong or does not fit the data, or a fold that
            the splits do not have.
    """
    labels = read_json(study.raw / "dataset.json", "restore it")["labels"]
    has_regions = any(isinstance(label, list) and len(label) > 1 for label in labels.values())
    if plans is None:
        dim = 2 if study.configuration.startswith("2d") else 3
    elif study.configuration not in plans["configurations"]:
        raise UserError(
            f"plans {study.plans!r} have no configuration {study.configuration!r}: there are "
            f"{', '.join(plans['configurations'])}"
        )
    else:
        dim = len(PlansManager(plans).get_configuration(study.configuration).patch_size)
    _check_folds(study)
    takes = {}
    for arm in study.arms:
        where = f"arm {arm.name!r} of {study.file}"
        trainer = _trainer(arm, where)
        takes[arm.name] = takes_settings(trainer)
        if takes[arm.name]:
            settings = Settings.resolve(trainer, arm.settings, where=where)
            settings.check_for_training(has_regions=has_regions, dim=dim, where=where)
            settings.channels(labels, has_regions)
        elif arm.settings:
            raise UserError(
                f"{where}: {arm.trainer} takes no settings, and it has {next(iter(arm.settings))!r}: use "
                "nnUNetTrainerInstanceBaseline, which is nnU-Net's own training with settings, or give them to the "
                "other arms only"
            )
    return takes


def takes_settings(trainer: type) -> bool:
    """Whether a trainer reads ``instance_training``."""
    return issubclass(trainer, nnUNetTrainerInstanceBase)


def _trainer(arm: Arm, where: str) -> type:
    if not re.fullmatch(r"[A-Za-z_]\w*", arm.trainer):
        raise UserError(f"{where}: {arm.trainer!r} is no name of a trainer")
    try:
        return recursive_find_trainer_class_by_name(arm.trainer)
    except RuntimeError:
        raise UserError(
            f"{where}: nnU-Net finds no trainer {arm.trainer!r}: 'nnunet-instance trainers' lists this package's"
        ) from None


def _check_folds(study: Study) -> None:
    file = study.preprocessed / "splits_final.json"
    if study.folds == (ALL,) or not file.is_file():
        return
    n = len(read_json(file, "restore it, or delete it and nnU-Net makes it again", list))
    beyond = [fold for fold in study.folds if int(fold) >= n]
    if beyond:
        raise UserError(f"'folds' of {study.file} names fold {beyond[0]}: {file} has {n}, 0 to {n - 1}")
