"""The table and the figure of the demo."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_instance_trainers.data.text_tables import aligned
from nnunet_instance_trainers.demonstration.small_plans import PLANS
from nnunet_instance_trainers.evaluation import Counts, Detection, detect
from nnunet_instance_trainers.evaluation.object_pictures import compare_models, is_merged
from nnunet_instance_trainers.instances import label_components

__all__ = ["write_comparison"]

_MOST_CASES_IN_FIGURE = 4
_NOTE = "A few minutes of training on a few images prove that the plumbing works, not that a method is better."


def write_comparison(folder: Path, raw: Path, images: Path, truth: Mapping[str, Path], trainers: Sequence[str]) -> None:
    """Score the predictions of ``folder / trainer`` on held-out images, and draw a few of them."""
    plans = PlansManager(str(folder / "nnUNet_preprocessed" / raw.name / f"{PLANS}.json"))
    dataset = json.loads((raw / "dataset.json").read_text())
    manager = plans.get_label_manager(dataset)
    reader = plans.image_reader_writer_class()
    classes = [
        np.atleast_1d(c) for c in (manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    ]

    def read(path: Path) -> np.ndarray:
        return np.rint(reader.read_seg(str(path))[0][0]).astype(np.int64)

    pictures: dict[str, np.ndarray] = {}
    detections: dict[str, dict[str, list[Detection]]] = {trainer: {} for trainer in trainers}
    for case, path in truth.items():
        label = read(path)
        annotated = path.parent.with_name(path.parent.name.replace("labels", "instances")) / path.name
        channels = sorted(images.glob(f"{case}_????{dataset['file_ending']}"))
        if len(pictures) < _MOST_CASES_IN_FIGURE:
            pictures[case] = reader.read_images([str(channels[0])])[0][0].squeeze()
        for trainer in trainers:
            prediction = read(folder / trainer / path.name)
            of_case = []
            for labels in classes:
                target = np.isin(label, labels)
                ids = np.where(target, read(annotated), 0) if annotated.is_file() else label_components(target)[0]
                of_case.append(detect(ids.squeeze(), np.isin(prediction, labels).squeeze()))
            detections[trainer][case] = of_case
    table = _table(detections)
    (folder / "table.txt").write_text(f"{table}\n\n{_NOTE}\n")
    compare_models(folder / "figure.png", pictures, detections, _NOTE)
    print(f"\n{len(truth)} held-out images, all classes pooled\n\n{table}\n\n{_NOTE}\n")
    print(f"table:  {folder / 'table.txt'}\nfigure: {folder / 'figure.png'}")


def _table(detections: Mapping[str, Mapping[str, Sequence[Detection]]]) -> str:
    names = ("trainer", "Dice", "volume ratio", "sensitivity", "precision", "F1", "F1 IoU>=0.5")
    rows = [(*names, "missed", "false", "merged")]
    for trainer, cases in detections.items():
        of_all = [detection for of_case in cases.values() for detection in of_case]
        c = sum((detection.counts for detection in of_all), Counts())
        ratios = (c.dice, c.volume_ratio, c.sensitivity, c.precision, c.f1, c.f1_iou50)
        merged = sum(int(is_merged(detection).sum()) for detection in of_all)
        shares = (f"{c.missed}/{c.instances}", f"{c.false}/{c.components}", f"{merged}/{c.components}")
        rows.append((trainer, *(f"{ratio:.3f}" for ratio in ratios), *shares))
    return aligned(rows)
