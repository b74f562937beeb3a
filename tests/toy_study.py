"""A study of seconds: touching boxes in 2D, a tiny network, a few epochs of one batch."""

from __future__ import annotations

import json
from pathlib import Path

from nnunet_datasets import Folders, boxes_dataset, configuration, preprocess, write_plans

DATASET = "Dataset901_Boxes"
EPOCHS = 4

STUDY = f"""\
dataset: 901
configuration: 2d
folds: [0, 1]
seeds: [0, 1]
settings: {{num_epochs: {EPOCHS}, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 1}}
arms:
  - {{name: Baseline, trainer: nnUNetTrainerInstanceBaseline}}
  - {{name: Blob, trainer: nnUNetTrainerBlob}}
reference: Baseline
device: cpu
memory_gb: 1
hours: 0.2
"""


def make_toy(root: Path) -> Path:
    """Preprocessed data in nnU-Net's folders below ``root``, with two folds; returns a file of 2 arms and 2 seeds."""
    folders = Folders(root)
    boxes_dataset(folders, DATASET, {"background": 0, "box": 1}, lambda ids: ids > 0, n_cases=6)
    plans = write_plans(folders, DATASET, {"2d": configuration("2d", [32, 32], [1.0, 1.0])})
    preprocess(folders, plans, "2d")
    cases = [f"case_{number}" for number in range(6)]
    splits = [{"train": cases[3:], "val": cases[:3]}, {"train": cases[:3], "val": cases[3:]}]
    (folders.preprocessed / DATASET / "splits_final.json").write_text(json.dumps(splits))
    folders.results.mkdir()
    file = root / "toy.yaml"
    file.write_text(STUDY)
    return file
