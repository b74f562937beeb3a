"""The pictures of the report and what stands beside them, with text alternatives: what is to be seen, in numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nnunet_instance_trainers.evaluation import chart_looks, charts
from nnunet_instance_trainers.evaluation.charts import SizeCounts
from nnunet_instance_trainers.evaluation.comparing.model_comparison import Table
from nnunet_instance_trainers.evaluation.report.projections import CaseView, draw_case
from nnunet_instance_trainers.evaluation.report.tables import number
from nnunet_instance_trainers.evaluation.resampling import bootstrap, interval
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation, bin_names

__all__ = [
    "Exhibit",
    "Picture",
    "bitmap",
    "case_pictures",
    "count_sizes",
    "dice_against_f1",
    "froc",
    "model_keys",
    "notes",
    "objects_by_size",
    "sensitivity_by_size",
    "vector",
]


@dataclass(frozen=True)
class Picture:
    """A picture and what stands beside it.

    Attributes:
        source: the picture as a data URI.
        alternative: the text that stands for it.
        name: of the model or state that it shows; empty for one of all models.
        lines: below the name.
    """

    source: str
    alternative: str = ""
    name: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exhibit:
    """Pictures that belong together.

    Attributes:
        pictures: one of all models, or one of each.
        legend: keys and what they mean.
        wide: whether each picture takes a row of the page.
        heading: above them.
    """

    pictures: list[Picture]
    legend: list[Picture]
    wide: bool = False
    heading: str = ""


def notes(table: Table) -> dict[str, str]:
    """By model, what must stand beside every overlap score."""
    ratio, one_to_one = table.mean["volume_ratio"], table.mean["f1_iou50"]
    return {
        model: f"volume ratio {number(ratio[m], 2)} · F1 at IoU 0.5 {number(one_to_one[m], 2)}"
        for m, model in enumerate(table.models)
    }


def count_sizes(models: Sequence[Evaluation]) -> tuple[list[str], dict[str, SizeCounts]]:
    """The size bins in ascending order, and each model's objects in them, over all cases and classes."""
    bins = bin_names(models[0].summary["settings"]["bins_ml"])
    cases = sorted({row["case"] for model in models for row in model.sizes})
    at_bin, at_case = ({key: i for i, key in enumerate(keys)} for keys in (bins, cases))
    numbers = np.zeros((3, len(models), len(bins), len(cases)))
    for m, model in enumerate(models):
        for row in model.sizes:
            place = m, at_bin[row["bin"]], at_case[row["case"]]
            for k, name in enumerate(("found", "missed", "false")):
                numbers[k][place] += row[name]
    instances = numbers[0] + numbers[1]
    low, high = interval(bootstrap(numbers[0], instances))
    total = numbers.sum(-1)
    whole = total[0] + total[1]
    sensitivity = np.divide(total[0], whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    rows = zip(*total, sensitivity, low, high)
    return bins, {model.name: SizeCounts(*row) for model, row in zip(models, rows)}


def objects_by_size(bins: Sequence[str], counts: Mapping[str, SizeCounts], beside: Mapping[str, str]) -> Exhibit:
    pictures, top = [], charts.tallest(counts)
    for model, own in counts.items():
        parts = [
            f"{name} mL: {found:.0f} found, {missed:.0f} missed, {false:.0f} false"
            for name, found, missed, false in zip(bins, own.found, own.missed, own.false)
            if found + missed + false
        ]
        words = f"Stacked bars of objects per size. {model} ({beside[model]}): {'; '.join(parts) or 'no objects'}."
        pictures.append(vector(charts.object_bars(bins, own, top), words, model, (beside[model],)))
    return Exhibit(pictures, [vector(chart_looks.state_key(state), name=state) for state in chart_looks.STATES])


def sensitivity_by_size(bins: Sequence[str], counts: Mapping[str, SizeCounts], beside: Mapping[str, str]) -> Exhibit:
    words = []
    for model, own in counts.items():
        parts = [f"{name} mL: {value:.2f}" for name, value in zip(bins, own.sensitivity) if not np.isnan(value)]
        words.append(f"{model} ({beside[model]}): {'; '.join(parts) or 'no instances'}.")
    figure = charts.sensitivity_by_size(bins, list(counts.values()))
    alternative = f"Lines of sensitivity against the size of the instance. {' '.join(words)}"
    return Exhibit([vector(figure, alternative)], model_keys({m: (beside[m],) for m in counts}), wide=True)


def froc(models: Sequence[Evaluation], label: str, beside: Mapping[str, str]) -> Exhibit | None:
    """The FROC of one class for the models that have one; None if none has."""
    curves = {}
    for model in models:
        rows = [row for row in model.froc if row["class"] == label]
        x, y = (np.array([row[name] for row in rows], float) for name in ("false_positives_per_image", "sensitivity"))
        known = ~np.isnan(x) & ~np.isnan(y)
        curves[model.name] = x[known], y[known]
    averages = {model.name: _average(model, label) for model in models if len(curves[model.name][0])}
    if not averages:
        return None
    words = []
    for model, average in averages.items():
        x, y = curves[model]
        one = max((value for false, value in zip(x, y) if false <= 1), default=0)
        note = f"{model}: {one:.2f} at 1 false positive per image, at most {y.max():.2f}, {average}"
        words.append(f"{note} ({beside[model]}).")
    figure = charts.froc_curves(list(curves.values()))
    alternative = f"Curves of sensitivity against false positives per image. {' '.join(words)}"
    lines = {model.name: (averages[model.name], beside[model.name]) for model in models if model.name in averages}
    names = [model.name for model in models]
    return Exhibit([vector(figure, alternative)], model_keys(lines, names), wide=True)


def _average(model: Evaluation, label: str) -> str:
    """The average sensitivity of a class at 1/8 to 8 false positives per image, in words."""
    keys = {name: key for key, name in model.summary["settings"]["classes"].items()}
    own = model.summary["froc"][keys[label]]
    low, high = own["average_sensitivity_interval"]
    text = f"average sensitivity {own['average_sensitivity']:.2f}"
    return text if np.isnan([low, high]).any() else f"{text} ({low:.2f} to {high:.2f})"


def dice_against_f1(table: Table, beside: Mapping[str, str]) -> Exhibit:
    pictures = []
    for m, model in enumerate(table.models):
        dice, f1 = table.values["dice"][m], table.values["f1"][m]
        known = ~np.isnan(dice) & ~np.isnan(f1)
        words = f"Scatter of Dice against F1. {model} ({beside[model]}): {known.sum()} cases"
        if known.any():
            words += (
                f", median Dice {np.median(dice[known]):.2f}, median F1 {np.median(f1[known]):.2f}, "
                f"lowest F1 {f1[known].min():.2f}"
            )
        pictures.append(vector(charts.case_scatter(m, dice, f1), f"{words}.", model, (beside[model],)))
    return Exhibit(pictures, [])


def case_pictures(
    heading: str,
    case: str,
    views: Mapping[str, CaseView],
    image: Sequence[np.ndarray] | None,
    spacing: Sequence[float],
    scores: Mapping[str, tuple[str, str]],
) -> Exhibit:
    """The objects of one case, a picture for each model.

    Args:
        heading: above the pictures.
        case: its name.
        views: by model.
        image: of each view grey values, or None.
        spacing: of the picture's axes.
        scores: by model, its scores in this case in two phrases.
    """
    flat = len(next(iter(views.values())).codes) == 1
    kind = "Image" if flat else "Maximum-intensity projections in three views"
    pictures = []
    for model, one in views.items():
        counts = ", ".join(f"{n} {state}" for state, n in one.counts.items())
        objects = f"{model}: {counts}; {', '.join(scores[model])}."
        words = f"{kind} of case {case} with found, missed and false objects. {objects}"
        pictures.append(bitmap(draw_case(one, image, spacing), words, model, (counts, *scores[model])))
    legend = [vector(chart_looks.state_key(state, marked=True), name=state) for state in chart_looks.STATES]
    return Exhibit(pictures, legend, wide=not flat, heading=heading)


def model_keys(lines: Mapping[str, tuple[str, ...]], models: Sequence[str] | None = None) -> list[Picture]:
    """Keys of models, which keep their looks where some are left out."""
    places = {model: k for k, model in enumerate(models or lines)}
    return [vector(chart_looks.model_key(places[model]), name=model, lines=own) for model, own in lines.items()]


def vector(figure: Figure, alternative: str = "", name: str = "", lines: tuple[str, ...] = ()) -> Picture:
    """A figure as SVG."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"hatch.linewidth": 0.7, "svg.hashsalt": "report", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None})
    return Picture(_uri("svg+xml", buffer.getvalue()), alternative, name, lines)


def bitmap(figure: Figure, alternative: str, name: str, lines: tuple[str, ...]) -> Picture:
    """A PNG with a palette of 256 colours, a third of the size of one with all of them."""
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight", pad_inches=0.04)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return Picture(_uri("png", small.getvalue()), alternative, name, lines)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
