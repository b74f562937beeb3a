"""Evaluated folders for tests: of real masks on disk, and of any number of cases without masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK
from skimage.io import imsave

from nnunet_instance_trainers.evaluation.counts import SCORES
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation

BINS = (0.01, 0.05, 0.1, 0.5, 1, 5)
NAMES = ("<0.01", "0.01-0.05", "0.05-0.1", "0.1-0.5", "0.5-1", "1-5", ">=5")
COUNTS = ("instances", "components", "found", "missed", "hits", "false", "sensitivity", "precision", "f1")


def evaluate_masks(
    folder: Path, references: Mapping[str, np.ndarray], models: Mapping[str, Mapping[str, np.ndarray]], ending: str
) -> list[Path]:
    """Write masks of one class, and evaluate each model's with the package's own command; the evaluated folders.

    The ground truth lies in ``folder/labelsTs``, the masks of a model in ``folder/<model>_masks``.
    """
    from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate

    write_masks(folder / "labelsTs", references, ending)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cell": 1}, "file_ending": ending}))
    for model, masks in models.items():
        write_masks(folder / f"{model}_masks", masks, ending)
        evaluate(folder / f"{model}_masks", folder / "labelsTs", folder / model)
    return [folder / model for model in models]


def write_masks(folder: Path, masks: Mapping[str, np.ndarray], ending: str, suffix: str = "") -> None:
    """Write arrays (H, W) as PNG or (D, H, W) as NIfTI."""
    folder.mkdir(parents=True, exist_ok=True)
    for case, mask in masks.items():
        file = folder / f"{case}{suffix}{ending}"
        if ending == ".png":
            imsave(file, mask.astype(np.uint8), check_contrast=False)
        else:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask.astype(np.uint8)), str(file))


def synthetic(
    name: str, n_cases: int, skill: float, *, seed: int = 0, classes: tuple[str, ...] = ("lesion",)
) -> Evaluation:
    """Counts drawn at random for any number of cases; a higher skill finds more and invents less.

    The instances depend on the seed alone, so models of one seed were evaluated on the same references.
    """
    generator, own = np.random.default_rng(seed), np.random.default_rng([seed, int(skill * 1000)])
    cases, sizes = [], []
    for k in range(n_cases):
        for label in classes:
            key = {"case": f"case_{k:04d}", "class": label}
            instances = generator.poisson([6, 9, 5, 4, 2, 1, 0.3])
            found = own.binomial(instances, np.clip(skill + np.linspace(-0.35, 0.3, len(NAMES)), 0.02, 0.98))
            false = own.poisson((1 - skill) * np.array([4, 3, 1, 0.6, 0.2, 0.05, 0]))
            cases.append({**key, **_case(instances, found, false, skill, own)})
            sizes += [
                {**key, "bin": name, **_counts(n, hit, wrong)}
                for name, n, hit, wrong in zip(NAMES, instances, found, false)
            ]
    froc = [
        {
            "class": label,
            "threshold": t,
            "false_positives_per_image": 16 * (1 - t) ** 3,
            "sensitivity": skill * (1 - t**4),
        }
        for label in classes
        for t in np.linspace(0.01, 0.99, 40)
    ]
    evaluation = _evaluation(name, cases, sizes, [], ["labelsTr", name])
    average = {"average_sensitivity": skill * 0.8, "average_sensitivity_interval": [skill * 0.7, skill * 0.9]}
    summary = {**evaluation.summary, "froc": dict.fromkeys(evaluation.summary["settings"]["classes"], average)}
    return Evaluation(name, cases, sizes, evaluation.objects, summary, froc)


def _case(
    instances: np.ndarray, found: np.ndarray, false: np.ndarray, skill: float, generator: np.random.Generator
) -> dict[str, float]:
    counts = _counts(int(instances.sum()), int(found.sum()), int(false.sum()))
    volumes = np.array([0.005, 0.03, 0.08, 0.3, 0.7, 2, 8])
    target, predicted = float(instances @ volumes), float(found @ volumes * 1.05 + false @ volumes)
    row = dict.fromkeys(SCORES, 0.5) | counts
    dice = float(np.clip(skill + 0.1 * generator.standard_normal(), 0, 1)) if target else float("nan")
    return row | {
        "f1_iou50": 0.7 * counts["f1"],
        "dice": dice,
        "lesion_dice": 0.8 * counts["sensitivity"],
        "target_ml": target,
        "predicted_ml": predicted,
        "volume_difference_ml": predicted - target,
        "volume_ratio": predicted / target if target else float("nan"),
    }


def _counts(instances: int, found: int, false: int) -> dict[str, float]:
    nan = float("nan")
    sensitivity = found / instances if instances else nan
    precision = found / (found + false) if found + false else nan
    f1 = 2 * found / (instances + found + false) if instances + false else nan
    values = (instances, found + false, found, instances - found, found, false, sensitivity, precision, f1)
    return dict(zip(COUNTS, values))


def _evaluation(name: str, cases: list, sizes: list, entries: list, folders: list[str]) -> Evaluation:
    settings = {
        "match": "overlap",
        "threshold": 0.5,
        "bins_ml": list(BINS),
        "classes": {str(k): label for k, label in enumerate(dict.fromkeys(row["class"] for row in cases), start=1)},
        "ground_truth": folders[0],
        "predictions": folders[1],
        "instances": None,
        "version": "0",
    }
    summary = {"metric_per_case": entries, "mean": {}, "foreground_mean": {}, "pooled": {}, "settings": settings}
    one = {"case": "a", "class": "b", "side": "target", "id": 1, "volume_ml": 1.0, "state": "found"}
    return Evaluation(name, cases, sizes, [one], summary)
