"""The trainer that all others are settings of: nnU-Net's, with instance terms in the loss.

It overrides nnU-Net's narrowest hooks and calls ``super()`` in each, so it combines with other variants of
``nnUNetTrainer`` by inheriting from both.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_instance_trainers.configuration import PLANS_KEY, Settings
from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.errors import UserError, one_line_exit, writing
from nnunet_instance_trainers.instances import labeller
from nnunet_instance_trainers.losses.class_problems import ClassProblems
from nnunet_instance_trainers.losses.compound import CompoundLoss
from nnunet_instance_trainers.losses.modules import PixelLoss
from nnunet_instance_trainers.losses.named_terms import make_term
from nnunet_instance_trainers.losses.target_side import TargetSide
from nnunet_instance_trainers.training.file_faults import GO_ON, explained
from nnunet_instance_trainers.training.instance_loading import nnUNetTrainerWithInstances
from nnunet_instance_trainers.training.loss_csv import LossRecord
from nnunet_instance_trainers.training.other_loggers import log_epoch

__all__ = ["nnUNetTrainerInstanceBase"]


class LossBesideTarget(nn.Module):
    """Gives a compound loss the ids of the batch at hand, since nnU-Net calls ``loss(output, target)``.

    The ids never sit inside the target that nnU-Net sees: a binary output and a target [class, ids] have the
    same shape, and its Dice would take the target for one-hot without a word.
    """

    def __init__(self, compound: CompoundLoss) -> None:
        super().__init__()
        self.compound = compound
        self.forget()

    def forget(self) -> None:
        """The ids of a batch that is done, or it would stay in the loaders' shared memory."""
        self.instances: Tensor | list[Tensor] | None = None
        self._target_side: TargetSide | None = None

    def expect(self, target: Tensor | list[Tensor], instances: Tensor | list[Tensor], n_channels: int) -> None:
        """The target of the next call and its ids; what the terms need of them is computed now.

        The network has not been started yet, so a GPU is not waited for until it has made its output.
        """
        self.instances = instances
        self._target_side = self.compound.target_side(target, instances, n_channels)

    def forward(self, output: Tensor | list[Tensor], target: Tensor | list[Tensor]) -> Tensor:
        return self.compound(output, target, self.instances if self._target_side is None else self._target_side)


class nnUNetTrainerInstanceBase(nnUNetTrainerWithInstances):
    """Base of this package's trainers; not a published method.

    Class attributes named like a field of :class:`~nnunet_instance_trainers.configuration.Settings` are the
    settings of a trainer; ``instance_training`` in the plans overrides them.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's own default
    ) -> None:
        # Checked first: nnU-Net's __init__ already makes the results folder.
        with one_line_exit():
            where = f"configuration {configuration!r} of plans {plans['plans_name']!r}"
            own = PlansManager(plans).get_configuration(configuration).configuration.get(PLANS_KEY, {})
            self.settings = Settings.resolve(type(self), own, where=where)
            has_regions = PlansManager(plans).get_label_manager(dataset_json).has_regions
            dim = len(PlansManager(plans).get_configuration(configuration).patch_size)
            self.settings.check_for_training(has_regions=has_regions, dim=dim, where=where)
            self.instance_channels = self.settings.channels(dataset_json["labels"], has_regions)
        self.is_resumed = plans.get("continue_training", False)
        results = Path(nnUNet_results) if nnUNet_results.is_set() else Path()
        with one_line_exit(), writing(results):
            super().__init__(plans, configuration, fold, dataset_json, device)
        for name in ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "initial_lr"):
            value = getattr(self.settings, name)
            if value is not None:
                setattr(self, name, value)

    def initialize(self) -> None:
        if self.settings.seed is not None:
            seed = self.settings.seed + self.local_rank  # processes must not draw the same patches
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        with one_line_exit():  # nnUNetv2_train calls it itself before it loads a checkpoint
            super().initialize()

    # --- loss ---------------------------------------------------------------------------------------------

    def _build_loss(self) -> LossBesideTarget:
        loss = super()._build_loss()
        has_scales = isinstance(loss, DeepSupervisionWrapper)
        scale_weights = loss.weight_factors if has_scales else None
        if self.settings.scales != "all" and scale_weights is not None:
            scale_weights = [w if i < self.settings.scales else 0.0 for i, w in enumerate(scale_weights)]
        problem = {"regions": self.label_manager.has_regions, "ignore_label": self.label_manager.ignore_label}
        inner = loss.loss if has_scales else loss
        if self.settings.pixel_loss in ("nnunet_ce", "nnunet_dice") and not hasattr(inner, "weight_dice"):
            raise UserError(
                f"setting 'pixel_loss' cannot be {self.settings.pixel_loss!r} in {type(self).__name__}, whose loss "
                f"{type(inner).__name__} has no Dice and cross-entropy to choose from: use 'nnunet'"
            )
        if self.settings.pixel_loss == "nnunet_ce":
            inner.weight_dice = 0
        elif self.settings.pixel_loss == "nnunet_dice":
            inner.weight_ce = 0
        elif self.settings.pixel_loss != "nnunet":
            inner = PixelLoss(criterion=self.settings.pixel_loss, **problem)
            if has_scales:
                loss.loss = inner
            else:
                loss = inner
        terms = {name: make_term(name, vars(self.settings)) for name in self.settings.terms}
        problems = ClassProblems(
            classes=self.instance_channels,
            components_from=self.settings.components_from,
            spacing=self.configuration_manager.spacing,
            **problem,
        )
        weights = self.settings.weights_in(self.current_epoch)
        return LossBesideTarget(CompoundLoss(loss, terms, weights, problems=problems, scale_weights=scale_weights))

    def train_step(self, batch: dict) -> dict:
        result = super().train_step(self._take_instances(batch))
        self.loss.forget()
        self.loss_record.add("train", self.loss.compound.values)
        return result

    def validation_step(self, batch: dict) -> dict:
        result = super().validation_step(self._take_instances(batch))
        self.loss.forget()
        self.loss_record.add("val", self.loss.compound.values)
        return result

    def _take_instances(self, batch: dict) -> dict:
        """Hand the id channels to the loss and nnU-Net's own target to nnU-Net."""
        if not self.settings.needs_ids:
            return batch
        scales = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        scales = [scale.to(self.device, non_blocking=True) for scale in scales]
        n_ids = max(self.n_regions, 1)
        n_channels = self.n_regions + self.label_manager.has_ignore_label + n_ids if self.n_regions else 1 + n_ids
        if scales[0].shape[1] != n_channels:
            raise UserError(
                f"{type(self).__name__} feeds targets of {scales[0].shape[1]} channels, expected {n_channels} with the "
                "instance ids: its loaders must be those of nnU-Net's get_dataloaders, with this package's transforms"
            )
        instances = [scale[:, -n_ids:] for scale in scales]
        targets = [scale[:, :-n_ids].bool() if self.n_regions else scale[:, :-n_ids] for scale in scales]
        target, ids = (targets, instances) if isinstance(batch["target"], list) else (targets[0], instances[0])
        self.loss.expect(target, ids, self.label_manager.num_segmentation_heads)
        return {**batch, "target": target}

    # --- a training's course ------------------------------------------------------------------------------

    def run_training(self) -> None:
        with (
            one_line_exit(),
            explained(Path(self.output_folder), lambda: self._check_files(self.cases), self.print_to_log_file),
        ):
            super().run_training()

    def on_train_start(self) -> None:
        super().on_train_start()
        file = Path(self.output_folder) / "instance_losses.csv"
        self.loss_record = LossRecord(file, self.settings.parts, self.current_epoch)
        if self.local_rank == 0:
            with write_atomically(self._record, GO_ON) as temporary:
                temporary.write_text(json.dumps({"source": self.instance_source}))
        self.print_to_log_file(f"instance ids: {self.instance_source}; {self.settings}")
        self.print_to_log_file(f"components of predictions on {self.device}: {labeller(self.device)}")

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.loss.compound.weights = self.settings.weights_in(self.current_epoch)

    def on_epoch_end(self) -> None:
        means = self.loss_record.end_epoch(
            self.current_epoch, of_all_processes=self._of_all_processes, write=self.local_rank == 0
        )
        self.print_to_log_file("loss parts:", ", ".join(f"{name} {value:.4f}" for name, value in means.items()))
        log_epoch(self.logger, "instance_losses", means, self.current_epoch, self.print_to_log_file)
        super().on_epoch_end()
