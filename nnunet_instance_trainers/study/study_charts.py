"""The charts that only a study has: learning curves, and sensitivity by size with seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_instance_trainers.evaluation import charts
from nnunet_instance_trainers.evaluation.chart_looks import AS_WRITTEN, style
from nnunet_instance_trainers.evaluation.charts import SizeCounts
from nnunet_instance_trainers.evaluation.report.pictures import Exhibit, model_keys, vector
from nnunet_instance_trainers.study.arm_comparison import SizeRow

__all__ = ["learning_curves", "sensitivity_of_sizes"]


def sensitivity_of_sizes(rows: Sequence[SizeRow], beside: Mapping[str, str]) -> Exhibit:
    """Sensitivity against the size of instances, from the rows of one class."""
    own = [row for row in rows if row.score == "sensitivity"]
    bins = list(dict.fromkeys(row.size for row in own))
    counts, words = {}, []
    for arm in dict.fromkeys(row.arm for row in own):
        mine = [row for row in own if row.arm == arm]
        instances, value, low, high = np.array([[r.instances, r.value, r.low, r.high] for r in mine], float).T
        found = instances * np.nan_to_num(value)
        counts[arm] = SizeCounts(found, instances - found, np.zeros(len(bins)), value, low, high)
        parts = [f"{row.size} mL: {row.value:.2f}" for row in mine if not np.isnan(row.value)]
        words.append(f"{arm} ({beside[arm]}): {'; '.join(parts)}.")
    figure = charts.sensitivity_by_size(bins, list(counts.values()))
    alternative = f"Lines of sensitivity against the size of the instance. {' '.join(words)}"
    return Exhibit([vector(figure, alternative)], model_keys({arm: (beside[arm],) for arm in counts}), wide=True)


def learning_curves(arms: Sequence[str], trainings: Sequence[Mapping[str, Any]]) -> Exhibit:
    """Losses and pseudo Dice per epoch, a line per training and a look per arm.

    Args:
        arms: all of them, so that their looks are those of the other charts.
        trainings: with ``training``, ``train_loss``, ``val_loss`` and ``pseudo_dice``.
    """
    there = [arm for arm in arms if any(own["training"]["arm"] == arm for own in trainings)]
    ends = [
        f"{own['training']['arm']}, seed {own['training']['seed']}, fold {own['training']['fold']}: "
        f"{own['pseudo_dice'][-1]:.2f} after {len(own['pseudo_dice'])} epochs"
        for own in trainings
    ]
    words = f"Lines of training loss, validation loss and pseudo Dice per epoch. Pseudo Dice: {'; '.join(ends)}."
    keys = model_keys({arm: () for arm in there}, arms)
    return Exhibit([vector(_curves(arms, trainings), words)], keys, wide=True)


@AS_WRITTEN
def _curves(arms: Sequence[str], trainings: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(8.6, 2.9), layout="constrained")
    panels = {"train_loss": "training loss", "val_loss": "validation loss", "pseudo_dice": "pseudo Dice"}
    for axis, (name, label) in zip(figure.subplots(1, 3), panels.items()):
        for own in trainings:
            colour, _, dashes = style(arms.index(own["training"]["arm"]))
            axis.plot(own[name], color=colour, linestyle=dashes, linewidth=1, alpha=0.8)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlabel("epoch", fontsize=9)
        axis.set_ylabel(label, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
