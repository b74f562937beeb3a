"""What a training would meet: settings, preprocessed data, instance maps, the previous stage, the next command."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_instance_trainers.checking.findings import OK, PROBLEM, WARNING, Finding
from nnunet_instance_trainers.configuration import PLANS_KEY, Settings
from nnunet_instance_trainers.data.map_checks import verify
from nnunet_instance_trainers.data.map_store import Manifest, maps_folder
from nnunet_instance_trainers.data.nnunet_commands import precompute_command, preprocess_command
from nnunet_instance_trainers.data.preprocessed_files import (
    check_preprocessed,
    check_previous_stage,
    check_splits,
    preprocessed_cases,
)
from nnunet_instance_trainers.data.raw_files import RawFiles
from nnunet_instance_trainers.errors import UserError

__all__ = ["check_training"]


def check_training(plans: dict[str, Any], dataset: dict[str, Any], configuration: str, trainer: type) -> list[Finding]:
    """Look at what a training of one configuration would load, without making anything.

    Files are looked for, not opened; instance maps and the segmentations that they belong to are compared with their
    checksums too.

    Args:
        plans: the content of the plans file.
        dataset: the content of the dataset.json of the preprocessed dataset.
        configuration: such as ``"3d_fullres"``.
        trainer: the trainer's class.
    """
    run = _Training(PlansManager(plans), dataset, configuration, trainer)
    findings: list[Finding] = []
    for topic, look, is_needed_by_the_rest in (
        ("settings", run.look_at_settings, True),
        ("preprocessed", run.look_at_cases, True),
        ("maps", run.look_at_maps, False),
        ("previous stage", run.look_at_previous_stage, False),
    ):
        try:
            findings.append(look())
        except UserError as error:
            findings.append(Finding.of_error(topic, error))
            if is_needed_by_the_rest:
                break
    if any(finding.level == PROBLEM for finding in findings):
        command = "mend the problem above, then check again"
    else:
        plans_name = run.manager.plans_name
        command = f"nnunet-instance train {run.name} {configuration} 0 -tr {trainer.__name__} -p {plans_name}"
    return [*findings, Finding(OK, "next", command)]


@dataclass(frozen=True)
class _Training:
    manager: PlansManager
    dataset: dict[str, Any]
    configuration: str
    trainer: type

    @property
    def name(self) -> str:
        return self.manager.dataset_name

    @property
    def base(self) -> Path:
        return Path(os.environ["nnUNet_preprocessed"]) / self.name

    @cached_property
    def plan(self):
        known = self.manager.available_configurations
        if self.configuration not in known:
            raise UserError(
                f"plans {self.manager.plans_name!r} have no configuration {self.configuration!r}: "
                f"there are {', '.join(known)}"
            )
        return self.manager.get_configuration(self.configuration)

    @cached_property
    def settings(self) -> Settings:
        where = f"configuration {self.configuration!r} of plans {self.manager.plans_name!r}"
        settings = Settings.resolve(self.trainer, self.plan.configuration.get(PLANS_KEY, {}), where=where)
        settings.check_for_training(has_regions=self.has_regions, dim=len(self.plan.patch_size), where=where)
        return settings

    @cached_property
    def has_regions(self) -> bool:
        return self.manager.get_label_manager(self.dataset).has_regions

    @property
    def channels(self) -> list[int]:
        return self.settings.channels(self.dataset["labels"], self.has_regions)

    @property
    def folder(self) -> Path:
        return self.base / self.plan.data_identifier

    @cached_property
    def cases(self) -> list[str]:
        return preprocessed_cases(self.folder)

    @property
    def again(self) -> str:
        """The command that preprocesses."""
        return preprocess_command(self.name, self.configuration, self.manager.plans_name)

    def look_at_settings(self) -> Finding:
        default = Settings()
        pairs = ((setting.name, getattr(self.settings, setting.name)) for setting in fields(Settings))
        changed = [f"{name}={value!r}" for name, value in pairs if value != getattr(default, name)]
        text = f"classes in channels {self.channels}; not at their defaults: {', '.join(changed) or 'none'}"
        return Finding(OK, "settings", text)

    def look_at_cases(self) -> Finding:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is missing: run '{self.again}'")
        check_splits(self.base, self.folder)
        check_preprocessed(self.folder, self.cases, self.again, read=False)
        return Finding(OK, "preprocessed", f"{len(self.cases)} cases in {self.folder}")

    def look_at_maps(self) -> Finding:
        needs_tables = self.settings.sampling_power is not None
        if not self.settings.needs_ids and not needs_tables:
            return Finding(OK, "maps", "not needed: no term uses instances")
        if not needs_tables and self.settings.source == "patch":
            return Finding(OK, "maps", "not used: components of each patch, as source='patch' says")
        remedy = precompute_command(self.name, self.configuration, self.manager.plans_name)
        manifest = Manifest.read(maps_folder(self.folder))
        raw = os.environ.get("nnUNet_raw")
        files = RawFiles(self.base / "gt_segmentations", Path(raw) / self.name if raw else None, self.dataset)
        if manifest is None and not needs_tables and self.settings.source is None:
            if files.annotated is not None:
                raise UserError(
                    f"there are annotators' maps in {files.annotated}, but none are precomputed: run '{remedy}'"
                )
            return Finding(OK, "maps", "none, so components of each patch are used")
        verify(self.folder, self.cases, self.channels, files, remedy, self.again)
        records = [manifest.cases[case] for case in self.cases]
        found, lost = sum(record.found for record in records), sum(record.lost for record in records)
        text = f"current, {found} instances in {len(records)} cases (from {manifest.origin}), {lost} lost to resampling"
        if lost:
            return Finding(WARNING, "maps", text, "a finer spacing in the plans keeps more")
        return Finding(OK, "maps", text)

    def look_at_previous_stage(self) -> Finding:
        stage = self.plan.previous_stage_name
        if stage is None:
            return Finding(OK, "previous stage", "none")
        name = self.trainer.__name__
        model = Path(os.environ.get("nnUNet_results", "")) / self.name / f"{name}__{self.manager.plans_name}__{stage}"
        check_previous_stage(model / "predicted_next_stage" / self.configuration, self.cases, stage, name)
        return Finding(OK, "previous stage", f"{stage} predicted all {len(self.cases)} cases")
