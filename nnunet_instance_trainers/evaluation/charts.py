"""The charts of the report, as :mod:`chart_looks` has it. Names of models stand in the page, for they may be long."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from nnunet_instance_trainers.evaluation.chart_looks import AS_WRITTEN, STATES, style
from nnunet_instance_trainers.evaluation.froc import RATES

__all__ = [
    "ObjectCounts",
    "SizeCounts",
    "case_scatter",
    "clean",
    "fold",
    "froc_curves",
    "object_bars",
    "objects_by_size",
    "printed",
    "sensitivity_by_size",
]

_GREY = "#5a5f66"
_WIDTH = 8.6
_PANEL = 4.2


@dataclass(frozen=True)
class ObjectCounts:
    """Objects of one model per size bin, over all cases; arrays have one number per bin.

    Attributes:
        found, missed: target instances by their size.
        false: components by theirs.
    """

    found: np.ndarray
    missed: np.ndarray
    false: np.ndarray


@dataclass(frozen=True)
class SizeCounts(ObjectCounts):
    """The same with the share that was found.

    Attributes:
        sensitivity, low, high: found over all, with its interval.
    """

    sensitivity: np.ndarray
    low: np.ndarray
    high: np.ndarray


@AS_WRITTEN
def objects_by_size(bins: Sequence[str], counts: Mapping[str, ObjectCounts], notes: Mapping[str, str]) -> Figure:
    """Found, missed and false objects per size bin as stacked bars, one panel per model, all on one scale.

    Args:
        bins: names of the size bins in mL.
        counts: by model.
        notes: by model, a line below its name.
    """
    columns = 2 if len(counts) in (1, 2, 4) else 3
    rows = -(-len(counts) // columns)
    figure = Figure(figsize=(_WIDTH, 2.7 * rows + 0.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (model, own) in zip(grid, counts.items()):
        _bars(axis, bins, own, tallest(counts))
        axis.set_title(fold(model), fontsize=9.5 if len(model) <= 30 else 8, fontweight="bold", loc="left", pad=18)
        axis.annotate(notes[model], (0, 1), (0, 7), "axes fraction", "offset points", fontsize=7, color=_GREY)
    for axis in grid[len(counts) :]:
        axis.remove()
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=state)
        for state, (colour, hatch) in STATES.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=9, handleheight=1.2)
    return figure


def object_bars(bins: Sequence[str], counts: ObjectCounts, top: float) -> Figure:
    """The bars of one model alone, on a scale up to ``top`` objects."""
    figure = Figure(figsize=(_PANEL, 2.7), layout="constrained")
    _bars(figure.subplots(), bins, counts, top)
    return figure


def tallest(counts: Mapping[str, ObjectCounts]) -> float:
    """The objects of the highest bar."""
    return max(float((own.found + own.missed + own.false).max()) for own in counts.values())


def _bars(axis: Axes, bins: Sequence[str], own: ObjectCounts, top: float) -> None:
    base = np.zeros(len(bins))
    for state, (colour, hatch) in STATES.items():
        number = getattr(own, state)
        axis.bar(range(len(bins)), number, 0.78, base, color=colour, hatch=hatch, edgecolor="white", linewidth=0.6)
        base += number
    for x, (height, false, instances) in enumerate(zip(base, own.false, own.found + own.missed)):
        if height:
            text = _bar_label(own.found[x], instances, false)
            place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center"}
            axis.annotate(text, (x, height), fontsize=6.5, color=_GREY, **place)
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(range(len(bins)), list(map(printed, bins)), **turned)
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_ylim(0, 1.2 * max(top, 1))
    clean(axis)
    axis.set_xlabel("size, mL", fontsize=9)
    axis.set_ylabel("objects", fontsize=9)


def sensitivity_by_size(bins: Sequence[str], counts: Sequence[SizeCounts]) -> Figure:
    """The share of instances found per size bin, with intervals; a bin without instances has no point."""
    figure = Figure(figsize=(_WIDTH, 3.3), layout="constrained")
    axis = figure.subplots()
    offsets = (np.arange(len(counts)) - (len(counts) - 1) / 2) * min(0.09, 0.7 / len(counts))
    for k, own in enumerate(counts):
        colour, marker, dashes = style(k)
        x = np.arange(len(bins)) + offsets[k]
        known = ~np.isnan(own.sensitivity)
        axis.vlines(x[known], own.low[known], own.high[known], color=colour, linewidth=1.2, alpha=0.55)
        axis.plot(
            x[known],
            own.sensitivity[known],
            color=colour,
            marker=marker,
            linestyle=dashes,
            markersize=5.5,
            linewidth=1.5,
        )
    instances = counts[0].found + counts[0].missed
    names = [f"{printed(name)}\n(n = {n:.0f})" for name, n in zip(bins, instances)]
    axis.set_xticks(range(len(bins)), names, fontsize=8)
    axis.set_xlim(-0.5, len(bins) - 0.5)
    axis.set_ylim(-0.03, 1.03)
    clean(axis)
    axis.set_xlabel("size of the instance, mL (n instances)", fontsize=9)
    axis.set_ylabel("sensitivity", fontsize=9)
    return figure


def froc_curves(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Sensitivity against false positives per image, from one point per threshold, on a scale of powers of two.

    Args:
        curves: of each model, false positives per image and sensitivity; empty for a model without.
    """
    figure = Figure(figsize=(_WIDTH, 3.5), layout="constrained")
    axis = figure.subplots()
    for k, (false_positives, sensitivity) in enumerate(curves):
        if not len(sensitivity):
            continue
        colour, marker, dashes = style(k)
        order = np.lexsort((sensitivity, false_positives))
        x, y = false_positives[order], np.maximum.accumulate(sensitivity[order])
        axis.step(np.append(x, max(x[-1], 16)), np.append(y, y[-1]), where="post", color=colour, linestyle=dashes)
        at = np.searchsorted(x, RATES, side="right") - 1
        axis.plot(RATES, np.where(at < 0, 0, y[at]), linestyle="", marker=marker, color=colour, markersize=5.5)
    axis.set_xscale("log", base=2)
    axis.set_xticks(RATES)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"1/{1 / x:.0f}" if x < 1 else f"{x:.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(RATES[0] / 1.2, RATES[-1] * 1.2)
    axis.set_ylim(-0.03, 1.03)
    clean(axis)
    axis.set_xlabel("false positives per image", fontsize=9)
    axis.set_ylabel("sensitivity", fontsize=9)
    return figure


def case_scatter(k: int, dice: np.ndarray, f1: np.ndarray) -> Figure:
    """One point per case of model k, Dice to the right and F1 upwards; dashed lines are the medians.

    Args:
        k: which model, for its look.
        dice, f1: of each case; cases with a nan are not drawn.
    """
    figure = Figure(figsize=(_PANEL, 3.4), layout="constrained")
    axis = figure.subplots()
    known = ~np.isnan(dice) & ~np.isnan(f1)
    n = int(known.sum())
    colour, marker, _ = style(k)
    size, alpha = (26, 0.75) if n <= 60 else (12, 0.45) if n <= 400 else (5, 0.25)
    look = {"s": size, "alpha": alpha, "linewidths": 0, "rasterized": n > 400, "clip_on": False}
    axis.scatter(dice[known], f1[known], color=colour, marker=marker, **look)
    if n:
        axis.axvline(np.median(dice[known]), color=_GREY, linewidth=0.9, linestyle="--", zorder=0)
        axis.axhline(np.median(f1[known]), color=_GREY, linewidth=0.9, linestyle="--", zorder=0)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_box_aspect(0.8)
    clean(axis)
    axis.set_xlabel("Dice", fontsize=9)
    axis.set_ylabel("F1", fontsize=9)
    return figure


def fold(name: str, width: int = 34) -> str:
    """A long name in lines, broken after "_", "/", "-" or a space where there is one."""
    lines = [""]
    for part in re.findall(r"[^_/ -]+[_/ -]*|[_/ -]+", name):
        for start in range(0, len(part), width):
            piece = part[start : start + width]
            if lines[-1] and len(lines[-1]) + len(piece) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)


def _bar_label(found: float, instances: float, false: float) -> str:
    """Found of all instances, as a share where numbers would run into the next bar, and false ones below."""
    share = f"{found:.0f}/{instances:.0f}" if instances < 100 else f"{100 * found / instances:.0f} %"
    return "\n".join([share] * bool(instances) + [f"+{false:.0f}"] * bool(false))


def printed(name: str) -> str:
    """The name of a size bin with true signs."""
    return name.replace(">=", "\N{GREATER-THAN OR EQUAL TO}").replace("-", "\N{EN DASH}")


def clean(axis: Axes) -> None:
    """No frame but thin lines left and below, and pale lines across."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#b8bcc2")
    axis.tick_params(labelsize=8, color="#b8bcc2")
    axis.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axis.set_axisbelow(True)
