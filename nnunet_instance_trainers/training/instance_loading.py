"""What a trainer of this package loads: instance ids beside nnU-Net's targets, from files that are checked first."""

from __future__ import annotations

import json
from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from torch import distributed

from nnunet_instance_trainers.data.instance_dataset import InstanceDataset, SampledDataset
from nnunet_instance_trainers.data.instance_sampling import InstanceSampler
from nnunet_instance_trainers.data.map_checks import verify
from nnunet_instance_trainers.data.map_store import Manifest, maps_folder
from nnunet_instance_trainers.data.nnunet_commands import precompute_command, preprocess_command
from nnunet_instance_trainers.data.preprocessed_files import check_preprocessed, check_previous_stage, check_splits
from nnunet_instance_trainers.data.transforms import with_labelled_instances, with_precomputed_instances
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.training.instance_scoring import nnUNetTrainerScored

__all__ = ["nnUNetTrainerWithInstances"]


class nnUNetTrainerWithInstances(nnUNetTrainerScored):
    """nnU-Net's trainer with loaders that bring instance ids; base of this package's base.

    A subclass sets ``settings``, ``instance_channels`` and ``is_resumed`` before nnU-Net's ``__init__``. The ids are
    the last channels of the target; where no term needs them nothing is added.
    """

    is_resumed: bool
    instance_source: str | None = None
    """Where ids come from, ``"patch"``, ``"precomputed"`` or ``"none"``; known once there are loaders."""
    cases: list[str] = []
    """The cases whose files can be looked at when something fails; known once the first check has passed."""

    def get_dataloaders(self):
        """nnU-Net's, of the source; a mistake that one process finds stops all, with its line."""
        loaders, mistake = None, None
        try:
            self._check_shares()
            self.instance_source = self._choose_source()
            loaders = super().get_dataloaders()
        except UserError as error:
            mistake = str(error)
        first = next(filter(None, self._of_all_processes(mistake)), None)
        if first is not None:
            raise UserError(first)
        return loaders

    def _check_shares(self) -> None:
        """Refuse what nnU-Net's batch Dice cannot gather: shares of the batch of different sizes."""
        plan, pixel_loss = self.configuration_manager, self.settings.pixel_loss
        if not self.is_ddp or not plan.batch_dice or "pixel" not in self.settings.parts:
            return
        # With regions nnU-Net computes its Dice at weight 0 too.
        has_dice = pixel_loss in ("nnunet", "nnunet_dice") or (pixel_loss == "nnunet_ce" and self.n_regions > 0)
        n_processes = distributed.get_world_size()
        if has_dice and plan.batch_size % n_processes:
            raise UserError(
                f"nnU-Net's batch Dice cannot share a batch of {plan.batch_size} between {n_processes} GPUs: set "
                f"batch_size of configuration {self.configuration_name!r} to a multiple in the plans, or give another "
                "-num_gpus"
            )

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
        cases = sorted(map(str, {*training.identifiers, *validation.identifiers}))  # nnU-Net's may be NumPy's
        if self.is_cascaded:
            check_previous_stage(
                self.folder_with_segs_from_previous_stage,
                cases,
                self.configuration_manager.previous_stage_name,
                type(self).__name__,
            )
        if not is_current_format and (self._needs_tables or self.instance_source == "patch"):
            raise UserError(
                f"{self.preprocessed_dataset_folder} is in nnU-Net's old numpy format: run "
                "'nnUNetv2_preprocess' again with nnU-Net 2.8 or newer"
            )
        if self._needs_tables:
            training, validation = self._with_maps_or_tables((training, validation), cases)
        self.cases = cases if is_current_format else []
        return training, validation

    def _with_maps_or_tables(
        self, datasets: tuple[nnUNetDatasetBlosc2, nnUNetDatasetBlosc2], cases: list[str]
    ) -> tuple[SampledDataset, ...]:
        sampler = self._sampler()
        # Each process checks its share.
        share = cases[self.local_rank :: distributed.get_world_size()] if self.is_ddp else cases
        self._check_files(share, read=False)
        dataset_class = InstanceDataset if self.instance_source == "precomputed" else SampledDataset
        with_ids = tuple(
            dataset_class(d.source_folder, d.identifiers, d.folder_with_segs_from_previous_stage) for d in datasets
        )
        for dataset in with_ids:
            dataset.sampler = sampler
        return with_ids

    @property
    def _needs_tables(self) -> bool:
        """Whether the training reads what ``precompute`` made: maps, or tables to draw centres of patches from."""
        return self.instance_source == "precomputed" or self.settings.sampling_power is not None

    def _sampler(self) -> InstanceSampler | None:
        """What draws the centres of patches by instance, None where nnU-Net draws them by voxel."""
        power = self.settings.sampling_power
        if power is None:
            return None
        folder = maps_folder(self.preprocessed_dataset_folder)
        if not Manifest.file(folder).is_file():
            raise UserError(
                f"setting 'sampling' needs the tables of instances, and there are none in {folder}: run "
                f"'{self._precompute_command}', or set it to 'voxel'"
            )
        regions = self.label_manager.foreground_regions if self.n_regions else None
        keys = {channel: regions[channel] if regions else channel for channel in self.instance_channels}
        return InstanceSampler(folder, keys, regions is not None, power)

    def _check_files(self, cases: list[str], *, read: bool = True) -> None:
        """Check the files that the training reads; with ``read`` nnU-Net's are opened too."""
        manager, folder = self.plans_manager, self.preprocessed_dataset_folder
        again = preprocess_command(manager.dataset_name, self.configuration_name, manager.plans_name)
        check_splits(self.preprocessed_dataset_folder_base, folder)
        check_preprocessed(folder, cases, again, read=read)
        if self._needs_tables and cases:
            verify(folder, cases, self.instance_channels, self._raw_files, self._precompute_command, again)

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
        if self.settings.source is None and not has_maps and self._raw_files.annotated is not None:
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
        return precompute_command(manager.dataset_name, self.configuration_name, manager.plans_name)

    @property
    def n_regions(self) -> int:
        """Number of regions, 0 where the dataset has labels."""
        return len(self.label_manager.foreground_regions) if self.label_manager.has_regions else 0
