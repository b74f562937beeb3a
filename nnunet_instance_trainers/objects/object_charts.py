"""The charts of the page of objects, and how states of change look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from nnunet_instance_trainers.evaluation.chart_looks import AS_WRITTEN, style
from nnunet_instance_trainers.evaluation.charts import clean, printed

__all__ = ["CHANGE_LOOKS", "Look", "before_and_after", "class_looks", "size_bars"]


class Look(NamedTuple):
    """How a class or a state is drawn: its colour, what marks its objects' places ("" for nothing), its hatching."""

    colour: str
    marker: str
    hatch: str


# The rarer covers the commoner in pictures, so the order is not that of the tables. The colours are Okabe and Ito's.
CHANGE_LOOKS = {
    "unchanged": Look("#9aa0a6", "", ""),
    "shrinking": Look("#56b4e9", "v", "\\\\\\\\"),
    "growing": Look("#e69f00", "^", "...."),
    "split": Look("#009e73", "s", "----"),
    "merged": Look("#cc79a7", "D", "++++"),
    "complex": Look("#000000", "*", "oooo"),
    "vanished": Look("#0072b2", "o", "////"),
    "new": Look("#d55e00", "x", "xxxx"),
}

_HATCHES = ("", "////", "....", "xxxx", "----", "++++", "oooo")


def class_looks(classes: Sequence[str]) -> dict[str, Look]:
    """Colours and hatchings of classes, in their order."""
    return {name: Look(style(k)[0], "", _HATCHES[k % len(_HATCHES)]) for k, name in enumerate(classes)}


@AS_WRITTEN
def size_bars(bins: Sequence[str], counts: Mapping[str, np.ndarray], looks: Mapping[str, Look], unit: str) -> Figure:
    """Objects per size bin as bars, those of each group stacked on the others.

    Args:
        bins: names of the size bins.
        counts: by group, a number for each bin.
        looks: of the groups.
        unit: of the bins' edges.
    """
    figure = Figure(figsize=(8.6, 3), layout="constrained")
    axis = figure.subplots()
    base = np.zeros(len(bins))
    for group, number in counts.items():
        colour, _, hatch = looks[group]
        axis.bar(range(len(bins)), number, 0.78, base, color=colour, hatch=hatch, edgecolor="white", linewidth=0.6)
        base = base + number
    for x, height in enumerate(base):
        if height:
            place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center"}
            axis.annotate(f"{height:.0f}", (x, height), fontsize=8, color="#5a5f66", **place)
    axis.set_xticks(range(len(bins)), list(map(printed, bins)))
    axis.set_ylim(0, 1.12 * max(base.max(), 1))
    clean(axis)
    axis.set_xlabel(f"size, {unit}", fontsize=9)
    axis.set_ylabel("objects", fontsize=9)
    return figure


def before_and_after(sizes: Mapping[str, tuple[np.ndarray, np.ndarray]], edges: Sequence[float], unit: str) -> Figure:
    """A mark for each change that has objects at both time points: its size before to the right, now upwards.

    Args:
        sizes: by state, the sizes before and now.
        edges: the ratios of now to before from which on an object is not unchanged, drawn as dashed lines.
        unit: of sizes.
    """
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axis = figure.subplots()
    everything = np.concatenate([np.concatenate(pair) for pair in sizes.values()])
    ends = np.array([everything.min() / 1.5, everything.max() * 1.5])
    axis.plot(ends, ends, color="#5a5f66", linewidth=0.9)
    for edge in edges:
        axis.plot(ends, ends * edge, color="#5a5f66", linewidth=0.9, linestyle="--")
    for state, (before, now) in sizes.items():
        colour, marker, _ = CHANGE_LOOKS[state]
        axis.plot(before, now, marker or ".", color=colour, markersize=5, linestyle="", markerfacecolor="none")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(*ends)
    axis.set_ylim(*ends)
    clean(axis)
    axis.set_xlabel(f"size before, {unit}", fontsize=9)
    axis.set_ylabel(f"size now, {unit}", fontsize=9)
    return figure
