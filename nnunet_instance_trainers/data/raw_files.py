"""Where nnU-Net keeps the raw files of a dataset: labels, copies of labels, and annotators' maps beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.data.map_store import digest

__all__ = ["RawFiles"]


@dataclass(frozen=True)
class RawFiles:
    """The files that the ids of a dataset come from.

    Attributes:
        ground_truth: the folder of raw labels that nnU-Net keeps beside its preprocessed cases.
        raw: the dataset's folder in ``nnUNet_raw``; None where that is not set.
        dataset: the contents of dataset.json.
    """

    ground_truth: Path
    raw: Path | None
    dataset: Mapping[str, Any]

    @property
    def annotated(self) -> Path | None:
        """The folder ``instancesTr``, None where there is none."""
        folder = None if self.raw is None else self.raw / "instancesTr"
        return folder if folder is not None and folder.is_dir() else None

    def name(self, case: str) -> str:
        return f"{case}{self.dataset['file_ending']}"

    def kept_label(self, case: str) -> Path:
        """nnU-Net's copy of the label."""
        return self.ground_truth / self.name(case)

    def label(self, case: str) -> Path | None:
        """The label itself, where dataset.json says it is or else in ``labelsTr``; None where it is not there."""
        if self.raw is None:
            return None
        listed = self.dataset.get("dataset", {}).get(case)
        # nnU-Net takes paths relative to the folder of the dataset, absolute ones, and variables in them.
        file = self.raw / (os.path.expandvars(listed["label"]) if listed else f"labelsTr/{self.name(case)}")
        return file if file.is_file() else None

    def sources(self, case: str) -> dict[Path, str]:
        """The files that the ids of a case come from and their digests; files that are not there are left out."""
        files = [self.kept_label(case)]
        if self.annotated is not None:
            files.append(self.annotated / self.name(case))
        return {file: digest(file) for file in files if file.is_file()}
