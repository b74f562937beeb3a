"""``nnunet-instance report``: evaluated models in one self-contained HTML file that opens without a network."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from nnunet_instance_trainers.data.maps import write_atomically
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation import pictures
from nnunet_instance_trainers.evaluation.caseviews import CaseLoader
from nnunet_instance_trainers.evaluation.comparison import SCORES, Pair, Score, Table, compare, parse_pairs, read_models
from nnunet_instance_trainers.evaluation.files import Evaluation

__all__ = ["choose_cases", "report", "write_report"]

_NAMES = {
    "dice": "Dice",
    "volume_difference_ml": "volume error, mL",
    "volume_ratio": "volume ratio",
    "f1_iou50": "F1, IoU 0.5",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "lesion_dice": "lesion Dice",
    "missed": "missed",
    "false": "false",
}
_GROUPS = {"global": "global", "": "beside", "instance": "instance level"}
_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_SUSPECT = (0.67, 1.5)


def write_report(
    folders: Sequence[Path], file: Path, images: Path | None = None, pairs: Sequence[str] | None = None
) -> None:
    """Compare evaluated models and write the report.

    Args:
        folders: what ``evaluate`` wrote, one per model; the first is the one that cases are chosen by.
        file: the HTML file.
        images: a folder of images in nnU-Net's naming, drawn below the objects.
        pairs: "A:B" models to test; None tests each against the first.

    Raises:
        UserError: the folders do not fit together, or an image or mask that a picture needs is missing.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"-o {file} is no HTML file: give a name that ends in .html")
    if images is not None and not images.is_dir():
        raise UserError(f"--images {images} is no folder: give the folder of the cases' images, such as imagesTs")
    models = read_models(folders)
    chosen = None if pairs is None else parse_pairs(pairs, [model.name for model in models])
    page = report(models, compare(models, chosen), images)
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


def report(models: Sequence[Evaluation], tables: Sequence[Table], images: Path | None = None) -> str:
    """The page as text; arguments as :func:`compare` takes and returns them."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = _breakable
    template = environment.from_string((files(__package__) / "report.html").read_text(encoding="utf-8"))
    first, n = tables[0], len(models)
    classes = len(tables) - 1 if len(tables) > 1 else 1
    matching = models[0].summary["settings"]
    return template.render(
        title="Instance-level evaluation" if n == 1 else f"Instance-level comparison of {n} models",
        subtitle=f"{_plural(len(first.cases), 'case')}, {_plural(classes, 'class')}, {_plural(n, 'model')}: "
        + ", ".join(first.models),
        summary=_summary(first),
        warnings=_warnings(first),
        tables=[_table(table) for table in tables],
        resamples=2000,
        rule=_rule(matching),
        pairs=_pairs(first.pairs),
        pairs_of=first.label if len(tables) > 1 else "",
        sections=_sections(models, tables, images),
        settings=_settings(models, images),
    )


def choose_cases(table: Table) -> list[tuple[str, str]]:
    """The best, median and worst case by the first model's F1, each case once; ties go to the higher Dice, then name.

    Returns:
        Pairs of a word and a case: three, or as many as there are cases with an F1.
    """
    f1, dice = table.values["f1"][0], np.nan_to_num(table.values["dice"][0])
    known = [i for i in range(len(table.cases)) if not math.isnan(f1[i])]
    order = sorted(known, key=lambda i: (-f1[i], -dice[i], table.cases[i]))
    if not order:
        return []
    places = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}
    chosen: dict[int, str] = {}
    for word in ("best", "worst", "median"):  # of two cases neither is called the median
        chosen.setdefault(order[places[word]], word)
    return [(word, table.cases[i]) for i, word in sorted(chosen.items(), key=lambda item: places[item[1]])]


# --- words and numbers -------------------------------------------------------------------------------------


def _summary(table: Table) -> str:
    if len(table.models) == 1:
        return "One model; give several evaluated folders to see ranks."
    overall = table.mean_ranks["RA"]
    order = np.argsort(overall, kind="stable")
    return (
        "Mean rank over all scores, best first: "
        + ", ".join(f"{table.models[m]} {overall[m]:.2f}" for m in order if not math.isnan(overall[m]))
        + "."
    )


def _warnings(table: Table) -> list[str]:
    lines = []
    for model, ratio, one in zip(table.models, table.mean["volume_ratio"], table.mean["f1_iou50"]):
        if ratio > _SUSPECT[1] or ratio < _SUSPECT[0]:
            lines.append(
                f"{model} predicts {ratio:.2f} times the true volume; its F1 of one-to-one matches at IoU 0.5 is "
                f"{one:.2f}. Scores by overlap alone do not show that."
            )
    return lines


def _table(table: Table) -> dict[str, Any]:
    shown = [score for score in SCORES if score.name in _NAMES]
    edges = {score.name for k, score in enumerate(shown) if k == 0 or shown[k - 1].group != score.group}
    several = len(table.models) > 1
    rows = [
        {
            "model": model,
            "mean_ranks": [
                {
                    "text": _number(values[m], 2) if several else _DASH,
                    "best": several and values[m] == np.nanmin(values),
                }
                for values in table.mean_ranks.values()
            ],
            "cells": [_cell(table, score, m, score.name in edges, several) for score in shown],
        }
        for m, model in enumerate(table.models)
    ]
    fewer = [
        f"{_NAMES[score.name]} over {table.counted(score.name)}"
        for score in shown
        if score.kind != "pooled" and table.counted(score.name) < len(table.cases)
    ]
    widths = [(group, sum(score.group == group for score in shown)) for group in dict.fromkeys(s.group for s in shown)]
    return {
        "heading": table.label if table.label.startswith("all") else f"class {table.label}",
        "groups": [(_GROUPS[group], width) for group, width in widths],
        "columns": [
            {"name": _NAMES[score.name], "better": _better(score), "edge": score.name in edges} for score in shown
        ],
        "rows": rows,
        "note": f"Of {len(table.cases)} cases, those in which a score is defined for every model: {', '.join(fewer)}."
        if fewer
        else "",
    }


def _cell(table: Table, score: Score, m: int, edge: bool, several: bool) -> dict[str, Any]:
    name = score.name
    digits = 3 if score.kind == "mean" else 2
    fewer = min(digits, 2)
    rank = table.ranks[name][m] if name in table.ranks and several else math.nan
    low, high = table.low[name][m], table.high[name][m]
    return {
        "text": _number(table.mean[name][m], digits),
        "interval": "" if math.isnan(low) else f"{_number(low, fewer)}{_DASH}{_number(high, fewer)}",
        "rank": "" if math.isnan(rank) else f"{rank:.0f}",
        "best": rank == 1,
        "edge": edge,
    }


def _better(score: Score) -> str:
    return {"higher": "↑", "lower": "↓"}[score.better] if score.group else "→ 1"


def _pairs(pairs: Sequence[Pair]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each pair."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        rows.setdefault(f"{pair.first} {_MINUS} {pair.second}", []).append(_pair(pair))
    return rows


def _pair(pair: Pair) -> dict[str, Any]:
    digits = 3 if next(score.kind for score in SCORES if score.name == pair.score) == "mean" else 2
    return {
        "score": _NAMES[pair.score],
        "difference": _number(pair.difference, digits, "+"),
        "interval": f"{_number(pair.low, digits, '+')} to {_number(pair.high, digits, '+')}",
        "cases": pair.cases,
        "p": _p(pair.p),
        "p_holm": _p(pair.p_holm),
        "significant": pair.p_holm < 0.05,
    }


def _breakable(name: str) -> Markup:
    """A name that may be broken where its words end."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[a-z])(?=[A-Z])|(?<=[_/])(?![_/])", name))


def _number(value: float, digits: int, sign: str = "") -> str:
    """A number with a true minus sign; 0 has none."""
    if math.isnan(value):
        return _DASH
    rounded = round(float(value), digits)
    text = f"{rounded:{sign}.{digits}f}" if rounded else f"{0:.{digits}f}"
    return text.replace("-", _MINUS)


def _p(value: float) -> str:
    return _DASH if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}{'es' if word.endswith('s') else 's'}"


def _rule(settings: dict[str, Any]) -> str:
    rule = settings["match"]
    return "overlap (any shared voxel)" if rule == "overlap" else f"{rule} of at least {settings['threshold']}"


def _settings(models: Sequence[Evaluation], images: Path | None) -> list[tuple[str, str]]:
    own = [model.summary["settings"] for model in models]
    lines = [("matching rule", _rule(own[0])), ("size bins, mL", str(own[0]["bins_ml"]).strip("[]"))]
    lines += [(f"predictions of {model.name}", of["predictions"]) for model, of in zip(models, own)]
    lines.append(("ground truth", own[0]["ground_truth"]))
    if own[0]["instances"]:
        lines.append(("instance maps", str(own[0]["instances"])))
    if images is not None:
        lines.append(("images", str(images)))
    lines.append(("nnunet-instance-trainers", own[0]["version"]))
    return lines


# --- pictures ----------------------------------------------------------------------------------------------


def _sections(models: Sequence[Evaluation], tables: Sequence[Table], images: Path | None) -> list[dict[str, Any]]:
    beside = pictures.notes(tables[0])
    bins, counts = pictures.count_sizes(models)
    sections = [
        {
            "title": "Found, missed and false objects by size",
            "text": "All cases and classes together. Above a bar: found of all instances, and false components after "
            "the plus. Instances stand in the bin of their own volume, false components in that of theirs.",
            "pictures": [_item(pictures.objects_by_size(bins, counts, beside))],
        },
        {
            "title": "Sensitivity against size",
            "text": "Found instances over all instances, all cases and classes together, with 95 % intervals.",
            "pictures": [_item(pictures.sensitivity_by_size(bins, counts, beside))],
        },
    ]
    labels = list(dict.fromkeys(row["class"] for model in models for row in model.froc))
    curves = [(label, pictures.froc(models, label, beside)) for label in labels]
    curves = [_item(one, f"class {label}" if len(labels) > 1 else "") for label, one in curves if one]
    if curves:
        sections.append(
            {
                "title": "FROC",
                "text": "Sensitivity against false positives per image as the threshold falls; markers at 1/8 to 8.",
                "pictures": curves,
            }
        )
    sections.append(
        {
            "title": "Dice against F1, case by case",
            "text": "One mark per case; dashed lines are the medians.",
            "pictures": [_item(pictures.dice_against_f1(tables[0], beside))],
        }
    )
    chosen = choose_cases(tables[0])
    if chosen:
        sections.append(_case_section(models, tables[0], chosen, images))
    return sections


def _case_section(
    models: Sequence[Evaluation], table: Table, chosen: Sequence[tuple[str, str]], images: Path | None
) -> dict[str, Any]:
    items = []
    for word, case in chosen:
        n = table.cases.index(case)
        loader = CaseLoader(models, case)
        picture = pictures.case_picture(
            case, loader.views(), loader.image(images), loader.spacing, _scores(models, table, n)
        )
        items.append(_item(picture, f"{word.capitalize()}: {case}"))
    ground = "on the image" if images is not None else "without the image (--images adds it)"
    return {
        "title": "Cases: " + ", ".join(word for word, _ in chosen),
        "text": f"Chosen by the F1 of {table.models[0]}; ties go to the higher Dice. Components that hit are green, "
        f"missed instances blue with a circle, false components red with a cross, {ground}. Volumes are seen in "
        "maximum-intensity projections, where false covers missed, and missed covers found.",
        "pictures": items,
    }


def _scores(models: Sequence[Evaluation], table: Table, n: int) -> dict[str, tuple[str, str]]:
    """The scores of case n in two phrases, overlap scores with what must stand beside them."""
    words = {}
    for m, model in enumerate(models):
        own = {name: table.values[name][m, n] for name in ("f1", "f1_iou50", "volume_ratio", "dice")}
        words[model.name] = (
            f"F1 {_number(own['f1'], 2)}, F1 at IoU 0.5 {_number(own['f1_iou50'], 2)}",
            f"volume ratio {_number(own['volume_ratio'], 2)}, Dice {_number(own['dice'], 2)}",
        )
    return words


def _item(picture: pictures.Picture, heading: str = "", caption: str = "") -> dict[str, Any]:
    return {"picture": picture, "heading": heading, "caption": caption}
