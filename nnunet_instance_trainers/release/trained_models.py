"""Trained models in nnU-Net's folder of results, and whether they can be released."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError

__all__ = ["CHECKPOINT", "PUT_BACK", "STOCK", "TrainedModel", "check_trainer", "find_stages"]

STOCK = nnUNetTrainer.__name__
CHECKPOINT = "checkpoint_final.pth"
PUT_BACK = "nnU-Net writes it when a training starts: put it back"


@dataclass(frozen=True)
class TrainedModel:
    """A model in nnU-Net's folder of results.

    Attributes:
        results: that folder.
        dataset: its full name.
        configuration, plans, trainer: names of nnU-Net's.
        folds: numbers or ``"all"``.
        checkpoint: the name of the file in each fold.
    """

    results: Path
    dataset: str
    configuration: str
    plans: str
    trainer: str
    folds: tuple[int | str, ...]
    checkpoint: str = CHECKPOINT

    @property
    def folder(self) -> Path:
        return self.results / self.dataset / f"{self.trainer}__{self.plans}__{self.configuration}"

    def file(self, fold: int | str) -> Path:
        return self.folder / f"fold_{fold}" / self.checkpoint


def check_trainer(name: str) -> None:
    """Refuse a trainer without which nnU-Net could not build the network.

    Raises:
        UserError: it has a network of its own, or cannot be found.
    """
    try:
        with redirect_stdout(io.StringIO()):
            trainer = recursive_find_trainer_class_by_name(name)
    except RuntimeError:
        raise UserError(
            f"nnU-Net finds no trainer {name!r}: check -tr, and name the folder of your own in nnUNet_extTrainer"
        ) from None
    if trainer.build_network_architecture is not nnUNetTrainer.build_network_architecture:
        raise UserError(
            f"{name} builds a network of its own, which plain nnU-Net cannot: give the class along with the model"
        )


def find_stages(model: TrainedModel) -> list[TrainedModel]:
    """The model, after the one whose predictions it takes if it is the second stage of a cascade.

    Raises:
        UserError: a model, a fold, a checkpoint or a file of nnU-Net's beside them is missing.
    """
    if not model.folder.is_dir():
        raise UserError(f"there is no trained model in {model.folder}: check -d, -c, -tr and -p")
    for fold in model.folds:
        if not model.file(fold).is_file():
            raise UserError(
                f"there is no {model.file(fold)}: finish the training of fold {fold}, leave it out of -f, or name "
                "another checkpoint with -chk"
            )
    read_json(model.folder / "dataset.json", PUT_BACK)
    file = model.folder / "plans.json"
    plans = read_json(file, PUT_BACK)
    if model.configuration not in plans.get("configurations", {}):
        raise UserError(f"{file} has no configuration {model.configuration!r}: train again")
    previous = PlansManager(plans).get_configuration(model.configuration).previous_stage_name
    return [*([] if previous is None else find_stages(replace(model, configuration=previous))), model]
