"""What a training writes per epoch beside nnU-Net's log, in CSVs keyed by epoch; the parts of the loss are here.

nnU-Net's own logger raises on keys that it does not know and is replaced when a checkpoint is loaded.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.text_tables import write_table
from nnunet_instance_trainers.training.file_faults import GO_ON

__all__ = ["EpochTable", "LossRecord"]


class EpochTable:
    """A CSV with one row per epoch.

    Args:
        file: rows of epochs before ``first_epoch`` in it are kept, later ones are dropped, so that a resumed
            training has each epoch once.
        columns: names of the columns after ``epoch``.
        first_epoch: the epoch with which this run starts.
    """

    def __init__(self, file: Path, columns: Sequence[str], first_epoch: int) -> None:
        self.file = file
        self.columns = ["epoch", *columns]
        self.rows: list[dict[str, str]] = []
        if first_epoch > 0 and file.is_file():
            with open(file, newline="") as stream:
                reader = csv.DictReader(stream)
                self.rows = [row for row in reader if int(row["epoch"]) < first_epoch]
            # A training may be resumed with other terms than it was started with.
            self.columns += [name for name in reader.fieldnames or () if name not in self.columns]

    def write(self) -> None:
        write_table(self.file, self.rows, self.columns, GO_ON)

    def points(self, column: str) -> tuple[list[int], list[float]]:
        """The epochs in which a column has a value, and the values."""
        rows = [row for row in self.rows if row.get(column)]
        return [int(row["epoch"]) for row in rows], [float(row[column]) for row in rows]


class LossRecord:
    """Collects the parts of the loss over the steps of an epoch; their means are a row of a CSV.

    Args:
        file: the CSV; the figure lies beside it.
        parts: names of the parts, in the order of the columns.
        first_epoch: the epoch with which this run starts.
    """

    def __init__(self, file: Path, parts: list[str], first_epoch: int) -> None:
        self._table = EpochTable(file, [f"{phase}_{part}" for phase in ("train", "val") for part in parts], first_epoch)
        self._steps: dict[str, list[Tensor]] = {}

    def add(self, phase: str, values: Mapping[str, Tensor]) -> None:
        """Note the parts of one step; nothing is copied from the device yet."""
        for part, value in values.items():
            self._steps.setdefault(f"{phase}_{part}", []).append(value)

    def end_epoch(
        self, epoch: int, *, of_all_processes: Callable[[Any], list[Any]] = lambda own: [own], write: bool = True
    ) -> dict[str, float]:
        """Return the means of this epoch over all steps of all processes, and write its row.

        Args:
            epoch: its number.
            of_all_processes: gives what every process handed to it; called once.
            write: only one of several processes should.
        """
        own = {name: (torch.stack(values).float().sum().item(), len(values)) for name, values in self._steps.items()}
        processes = of_all_processes(own)
        means = {name: sum(p[name][0] for p in processes) / sum(p[name][1] for p in processes) for name in own}
        self._steps = {}
        self._table.rows.append({"epoch": str(epoch), **{name: f"{mean:.6g}" for name, mean in means.items()}})
        if write:
            self._table.write()
            self._draw()
        return means

    @style.context("default")  # nnU-Net's progress.png leaves its huge fonts to all later figures
    def _draw(self) -> None:
        """Draw the parts over the epochs into a PNG beside the CSV, training solid and validation dashed."""
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        columns = self._table.columns[1:]
        parts = list(dict.fromkeys(name.partition("_")[2] for name in columns))
        for name in columns:
            phase, _, part = name.partition("_")
            epochs, values = self._table.points(name)
            if epochs:
                style = {"color": f"C{parts.index(part) % 10}", "linestyle": "-" if phase == "train" else "--"}
                axes.plot(epochs, values, label=f"{part} ({phase})", marker=".", **style)
        axes.set(xlabel="epoch", ylabel="mean before weighing", title="parts of the loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        with write_atomically(self._table.file.with_suffix(".png"), GO_ON) as temporary:
            figure.savefig(temporary, dpi=100)
