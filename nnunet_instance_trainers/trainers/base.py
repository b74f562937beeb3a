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
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_instance_trainers.configuration import PLANS_KEY, Settings
from nnunet_instance_trainers.data.dataset import InstanceDataset
from nnunet_instance_trainers.data.maps import Manifest, maps_folder, verify, write_atomically
from nnunet_instance_trainers.data.preprocessed import check_preprocessed, check_splits, preprocess_command
from nnunet_instance_trainers.data.transforms import with_labelled_instances, with_precomputed_instances
from nnunet_instance_trainers.errors import UserError, one_line_exit
from nnunet_instance_trainers.losses.compound import CompoundLoss
from nnunet_instance_trainers.losses.modules import PixelLoss
from nnunet_instance_trainers.losses.problems import ClassProblems
from nnunet_instance_trainers.losses.terms import make_term
from nnunet_instance_trainers.trainers.faults import explained
from nnunet_instance_trainers.trainers.monitoring import LossRecord
from nnunet_instance_trainers.trainers.scored import nnUNetTrainerScored

__all__ = ["nnUNetTrainerInstanceBase"]


class LossBesideTarget(nn.Module):
    """Gives a compound loss the ids of the batch at hand, since nnU-Net calls ``loss(output, target)``.

    The ids never sit inside the target that nnU-Net sees: a binary output and a target [class, ids] have the
    same shape, and its Dice would take the target for one-hot without a word.
    """

    def __init__(self, compound: CompoundLoss) -> None:
        super().__init__()
        self.compound = compound
        self.instances: Tensor | list[Tensor] | None = None

    def forward(self, output: Tensor | list[Tensor], target: Tensor | list[Tensor]) -> Tensor:
        return self.compound(output, target, self.instances)


class nnUNetTrainerInstanceBase(nnUNetTrainerScored):
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
        self.instance_source: str | None = None  # -> get_dataloaders
        self.cases: list[str] = []  # whose files can be checked -> get_tr_and_val_datasets
        self.is_resumed = plans.get("continue_training", False)
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
            classes=self.instance_channels, components_from=self.settings.components_from, **problem
        )
        weights = self.settings.effective_weights
        return LossBesideTarget(CompoundLoss(loss, terms, weights, problems=problems, scale_weights=scale_weights))

    def train_step(self, batch: dict) -> dict:
        result = super().train_step(self._take_instances(batch))
        self.loss.instances = None  # or the batch stays in the loaders' shared memory
        self.loss_record.add("train", self.loss.compound.values)
        return result

    def validation_step(self, batch: dict) -> dict:
        result = super().validation_step(self._take_instances(batch))
        self.loss.instances = None
        self.loss_record.add("val", self.loss.compound.values)
        return result

    def _take_instances(self, batch: dict) -> dict:
        """Hand the id channels to the loss and nnU-Net's own target to nnU-Net."""
        if not self.settings.needs_ids:
            return batch
        scales = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        scales = [scale.to(self.device, non_blocking=True) for scale in scales]
        n_ids = max(self.n_regions, 1)
        instances = [scale[:, -n_ids:] for scale in scales]
        targets = [scale[:, :-n_ids].bool() if self.n_regions else scale[:, :-n_ids] for scale in scales]
        has_scales = isinstance(batch["target"], list)
        self.loss.instances = instances if has_scales else instances[0]
        return {**batch, "target": targets if has_scales else targets[0]}

    @property
    def n_regions(self) -> int:
        """Number of regions, 0 where the dataset has labels."""
        return len(self.label_manager.foreground_regions) if self.label_manager.has_regions else 0

    # --- data ---------------------------------------------------------------------------------------------

    def get_dataloaders(self):
        self.instance_source = self._choose_source()
        return super().get_dataloaders()

    def get_training_transforms(self, *args, **kwargs):
        return self._with_instances(super().get_training_transforms(*args, **kwargs))

    def get_validation_transforms(self, *args, **kwargs):
        return self._with_instances(super().get_validation_transforms(*args, **kwargs))

    def _with_instances(self, transforms):
        if self.instance_source == "none":
            return transforms
        add = with_labelled_instances if self.instance_source == "patch" else with_precomputed_instances
        return add(transforms, self.instance_channels, self.n_regions)

    def get_tr_and_val_datasets(self):
        training, validation = super().get_tr_and_val_datasets()
        is_current_format = issubclass(self.dataset_class, nnUNetDatasetBlosc2)
        self.cases = sorted({*training.identifiers, *validation.identifiers}) if is_current_format else []
        if self.instance_source == "none":
            return training, validation
        if not is_current_format:
            raise UserError(
                f"{self.preprocessed_dataset_folder} is in nnU-Net's old numpy format: run "
                "'nnUNetv2_preprocess' again with nnU-Net 2.8 or newer"
            )
        if self.instance_source == "patch":
            return training, validation
        self._check_data(read=False)
        return tuple(
            InstanceDataset(d.source_folder, d.identifiers, d.folder_with_segs_from_previous_stage)
            for d in (training, validation)
        )

    def _check_data(self, *, read: bool = True) -> None:
        """Check the files that the training reads; with ``read`` nnU-Net's are opened too."""
        manager, folder = self.plans_manager, self.preprocessed_dataset_folder
        again = preprocess_command(manager.dataset_name, self.configuration_name, manager.plans_name)
        check_splits(self.preprocessed_dataset_folder_base)
        check_preprocessed(folder, self.cases, again, read=read)
        if self.instance_source == "precomputed":
            verify(folder, self.cases, self.instance_channels, self._precompute_command)

    def _choose_source(self) -> str:
        """``"patch"``, ``"precomputed"`` or ``"none"``: a resumed training's own, else as set, else as found."""
        if not self.settings.needs_ids:
            return "none"
        recorded = (
            json.loads(self._record.read_text())["source"] if self.is_resumed and self._record.is_file() else None
        )
        if recorded in ("patch", "precomputed"):
            return recorded
        has_maps = Manifest.file(maps_folder(self.preprocessed_dataset_folder)).is_file()
        if self.settings.source is None and not has_maps and self._annotated_maps() is not None:
            raise UserError(
                f"dataset {self.plans_manager.dataset_name!r} has annotators' maps in instancesTr, but none are "
                f"precomputed for configuration {self.configuration_name!r}: run '{self._precompute_command}', or "
                'set "source": "patch" in instance_training to use components'
            )
        return self.settings.source or ("precomputed" if has_maps else "patch")

    @property
    def _record(self) -> Path:
        return Path(self.output_folder) / "instance_training.json"

    @property
    def _precompute_command(self) -> str:
        manager = self.plans_manager
        return (
            f"nnunet-instance precompute -d {int(manager.dataset_name[7:10])} -c {self.configuration_name} "
            f"-p {manager.plans_name}"
        )

    # --- a training's course ------------------------------------------------------------------------------

    def run_training(self) -> None:
        with one_line_exit(), explained(Path(self.output_folder), self._check_data):
            super().run_training()

    def on_train_start(self) -> None:
        super().on_train_start()
        file = Path(self.output_folder) / "instance_losses.csv"
        self.loss_record = LossRecord(file, self.settings.parts, self.current_epoch)
        if self.local_rank == 0:
            with write_atomically(self._record) as temporary:
                temporary.write_text(json.dumps({"source": self.instance_source}))
        self.print_to_log_file(f"instance ids: {self.instance_source}; {self.settings}")

    def on_epoch_end(self) -> None:
        means = self.loss_record.end_epoch(self.current_epoch, write=self.local_rank == 0)
        self.print_to_log_file("loss parts:", ", ".join(f"{name} {value:.4f}" for name, value in means.items()))
        super().on_epoch_end()
