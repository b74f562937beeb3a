"""The instance scores of the validation patches per epoch, in a CSV and a figure, and which epoch is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.training.file_faults import GO_ON
from nnunet_instance_trainers.training.loss_csv import EpochTable
from nnunet_instance_trainers.training.patch_counts import as_counts

__all__ = ["ScoreRecord", "moving_average"]

# Okabe and Ito's colours, which colour-blind readers tell apart; the dashes are a second cue.
_CURVES: dict[str, dict[str, Any]] = {
    "f1": {"label": "instance F1", "color": "#d55e00", "linewidth": 2.5},
    "f1_iou50": {"label": "F1 one-to-one, IoU 0.5", "color": "#cc79a7"},
    "sensitivity": {"label": "sensitivity", "color": "#0072b2", "linestyle": "--"},
    "precision": {"label": "precision", "color": "#009e73", "linestyle": "-."},
    "pseudo_dice": {"label": "pseudo Dice", "color": "#000000", "linestyle": ":", "linewidth": 2.5},
}


def moving_average(average: float, value: float) -> float:
    """nnU-Net's: 0.9 of the old average and 0.1 of the new value; nan changes nothing.

    Example:
        >>> moving_average(nan, 0.5), moving_average(0.5, nan), moving_average(0.5, 1.0)
        (0.5, 0.5, 0.55)
    """
    if isnan(value):
        return average
    return value if isnan(average) else average * 0.9 + 0.1 * value


class ScoreRecord:
    """The instance scores of the validation patches, epoch by epoch, and which epoch is the best.

    Everything that a resumed training needs to go on is in the CSV, so checkpoints stay as nnU-Net writes them.

    Args:
        file: the CSV; the figure lies beside it.
        classes: names of the foreground classes or regions.
        chosen: indices of those that enter the mean over classes.
        metric: the setting ``checkpoint_metric``.
        first_epoch: the epoch with which this run starts.

    Attributes:
        averages: moving averages of nnU-Net's pseudo Dice and of the mean instance F1, nan before their first value.
        best: the metric in the epoch of checkpoint_best.pth, nan where there is none.
    """

    ratios = ("f1", "sensitivity", "precision", "f1_iou50", "volume_ratio")
    numbers = ("instances", "found", "missed", "components", "hits", "false")

    def __init__(
        self, file: Path, classes: Sequence[str], chosen: Sequence[int], metric: str, first_epoch: int
    ) -> None:
        self.classes, self.chosen, self.metric = list(classes), list(chosen), metric
        columns = ["best", "pseudo_dice", "pseudo_dice_average", "f1_average", *self.ratios]
        columns += [f"{name}_{score}" for name in classes for score in (*self.numbers, *self.ratios)]
        self._table = EpochTable(file, columns, first_epoch)
        rows = self._table.rows
        self.averages = self._averages(rows[-1]) if rows else {"dice": nan, "f1": nan}
        best = [row for row in rows if row.get("best")]
        # Of the epoch and not its value: a training may be resumed with another metric.
        self.best = self._value(self._averages(best[-1])) if best else nan

    def end_epoch(
        self, epoch: int, counts: np.ndarray, pseudo_dice: float, *, best_dice: bool, write: bool = True
    ) -> tuple[dict[str, list[float]], bool]:
        """Add the row of an epoch; only one of several processes should write.

        Args:
            epoch: its number.
            counts: (classes, columns) of :func:`~nnunet_instance_trainers.training.patch_counts.count_objects`, over
                all validation patches of the epoch and all processes.
            pseudo_dice: nnU-Net's mean over classes.
            best_dice: whether nnU-Net takes this epoch for the best.

        Returns:
            The scores by name, a list over the classes; and whether this epoch is the best by the metric.
        """
        per_class = [as_counts(row) for row in counts]
        scores = {name: [getattr(one, name) for one in per_class] for name in (*self.numbers, *self.ratios)}
        means = {name: _mean([scores[name][i] for i in self.chosen]) for name in self.ratios}
        for name, value in (("dice", pseudo_dice), ("f1", means["f1"])):
            self.averages[name] = moving_average(self.averages[name], float(value))
        is_best = best_dice if self.metric == "dice" else self._is_best(self._value(self.averages))
        row = {
            # Averages in full, for a resumed training goes on with them.
            **{"pseudo_dice_average": repr(self.averages["dice"]), "f1_average": repr(self.averages["f1"])},
            **{"pseudo_dice": f"{pseudo_dice:.6g}", **{name: f"{mean:.6g}" for name, mean in means.items()}},
            **{f"{c}_{name}": f"{scores[name][i]:.6g}" for name in scores for i, c in enumerate(self.classes)},
        }
        defined = {name: cell for name, cell in row.items() if cell != "nan"}
        self._table.rows.append({"epoch": str(epoch), "best": "1" if is_best else "", **defined})
        if write:
            self._table.write()
            self._draw()
        return scores, is_best

    def _is_best(self, value: float) -> bool:
        """Whether a value beats the best so far; as with nnU-Net there is always one, be it nan."""
        if not (isnan(self.best) or value > self.best):
            return False
        self.best = value
        return True

    def _value(self, averages: Mapping[str, float]) -> float:
        return (averages["dice"] + averages["f1"]) / 2 if self.metric == "mean" else averages[self.metric]

    @staticmethod
    def _averages(row: Mapping[str, str]) -> dict[str, float]:
        return {"dice": float(row["pseudo_dice_average"] or nan), "f1": float(row["f1_average"] or nan)}

    @style.context("default")  # nnU-Net's progress.png leaves its huge fonts to all later figures
    def _draw(self) -> None:
        """Draw the scores over the epochs into a PNG beside the CSV."""
        figure = Figure(figsize=(9, 7), layout="constrained")
        shares, volume = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for column, look in _CURVES.items():
            _curve(shares, *self._table.points(column), **look)
        shares.set(ylim=(-0.02, 1.02), ylabel="mean over classes", title="objects in the validation patches")
        epochs, ratios = self._table.points("volume_ratio")
        _curve(volume, epochs, [min(max(ratio, 0.1), 10) for ratio in ratios], color="#000000")
        volume.axhline(1, color="0.5", linewidth=1)
        ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10)
        volume.set(yscale="log", ylim=(0.09, 11), xlabel="epoch", ylabel="predicted / true volume")
        volume.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        volume.set_yticks([], minor=True)
        volume.set_xlim(-0.5, int(self._table.rows[-1]["epoch"]) + 0.5)
        volume.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        best, _ = self._table.points("best")
        for axes in (shares, volume):
            axes.grid(alpha=0.3)
            if best:
                axes.axvline(best[-1], color="0.4", linestyle=(0, (1, 2)), label=f"checkpoint_best (epoch {best[-1]})")
        shares.legend(
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
            title="moving averages;\nfaint: epoch by epoch",
            alignment="left",
        )
        with write_atomically(self._table.file.with_suffix(".png"), GO_ON) as temporary:
            figure.savefig(temporary, dpi=100)


def _curve(axes: Axes, epochs: list[int], values: list[float], *, color: str, **style: Any) -> None:
    """Draw values faintly, their moving average over them, and a dot where it ends."""
    axes.plot(epochs, values, color=color, linewidth=0.8, alpha=0.3)
    averages = list(accumulate(values, moving_average))
    axes.plot(epochs, averages, color=color, marker="o", markersize=4, markevery=[-1] if epochs else None, **style)


def _mean(values: Sequence[float]) -> float:
    """The mean of what is not nan, nan where nothing is left."""
    defined = [value for value in values if not isnan(value)]
    return sum(defined) / len(defined) if defined else nan
