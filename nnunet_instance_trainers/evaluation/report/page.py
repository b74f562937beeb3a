"""``nnunet-instance report``: evaluated models in one self-contained HTML file that opens without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.evaluation.comparing.evaluated_models import parse_pairs, read_models
from nnunet_instance_trainers.evaluation.comparing.model_comparison import Table, compare
from nnunet_instance_trainers.evaluation.report import pictures
from nnunet_instance_trainers.evaluation.report.case_images import CaseLoader
from nnunet_instance_trainers.evaluation.report.tables import breakable, number, pair_rows, table_rows
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation

__all__ = ["check_file", "choose_cases", "plural", "render", "report", "write_page", "write_report"]

_SUSPECT = (0.67, 1.5)
_TEST = (
    "First minus second model, paired by case. p is Wilcoxon's two-sided signed-rank test over the cases, Holm's "
    "correction covers the pairs of one score."
)


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
    check_file(file)
    if images is not None and not images.is_dir():
        raise UserError(f"--images {images} is no folder: give the folder of the cases' images, such as imagesTs")
    models = read_models(folders)
    chosen = None if pairs is None else parse_pairs(pairs, folders, [model.name for model in models])
    write_page(file, report(models, compare(models, chosen), images))


def report(models: Sequence[Evaluation], tables: Sequence[Table], images: Path | None = None) -> str:
    """The page as text; arguments as :func:`compare` takes and returns them."""
    first, n = tables[0], len(models)
    classes = len(tables) - 1 if len(tables) > 1 else 1
    matching = models[0].summary["settings"]
    return render(
        title="Instance-level evaluation" if n == 1 else f"Instance-level comparison of {n} models",
        subtitle=f"{plural(len(first.cases), 'case')}, {plural(classes, 'class')}, {plural(n, 'model')}",
        order=_order(first),
        warnings=_warnings(first),
        tables=[table_rows(table) for table in tables],
        resamples=2000,
        ranks_of="mean rank",
        ranks=[("all", "RA"), ("global", "RG"), ("instance", "RI")],
        challenge="",
        rule=_rule(matching),
        pairs=pair_rows(first.pairs),
        pairs_of=first.label if len(tables) > 1 else "",
        sections=_sections(models, tables, images),
        settings=_settings(models, images),
    )


def render(template: str = "", **values: Any) -> str:
    """A page: the frame with style, sections and footer, filled in.

    Args:
        template: its text, which extends ``frame.html``; empty for that of comparisons.
        values: for the template and for the frame; what only a study has may be left out.
    """

    def own(name: str) -> str:
        return (files(__package__) / name).read_text(encoding="utf-8")

    values = {"drawn": "cases", "test": _TEST, "missing": [], "extras": [], **values}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(own)
    )
    environment.filters["breakable"] = breakable
    return environment.from_string(template or own("template.html")).render(values)


def check_file(file: Path) -> None:
    """Refuse a name that is none of an HTML file.

    Raises:
        UserError: it is.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"-o {file} is no HTML file: give a name that ends in .html")


def write_page(file: Path, page: str) -> None:
    """Write the page, and the folder that it lies in."""
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


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
    for word, place in places.items():  # of two cases the median is the best
        chosen.setdefault(order[place], word)
    return [(word, table.cases[i]) for i, word in chosen.items()]


# --- words ------------------------------------------------------------------------------------------------


def _order(table: Table) -> list[tuple[str, str]]:
    """The models by their mean rank over all scores, with it; empty for one model."""
    overall = table.mean_ranks["RA"]
    order = [m for m in np.argsort(overall, kind="stable") if not math.isnan(overall[m])]
    return [(table.models[m], f"{overall[m]:.2f}") for m in order] if len(table.models) > 1 else []


def _warnings(table: Table) -> list[str]:
    lines = []
    for model, ratio, one in zip(table.models, table.mean["volume_ratio"], table.mean["f1_iou50"]):
        if ratio > _SUSPECT[1] or ratio < _SUSPECT[0]:
            lines.append(
                f"{model} predicts {ratio:.2f} times the true volume; its F1 of one-to-one matches at IoU 0.5 is "
                f"{number(one, 2)}. Scores by overlap alone do not show that."
            )
    return lines


def plural(n: int, word: str) -> str:
    """A number of things in words."""
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
            "text": "All cases and classes together. Above a bar: found of all instances (their share from 100 on), "
            "and false components after the plus. Instances stand in the bin of their own volume, false components in "
            "that of theirs.",
            "exhibits": [pictures.objects_by_size(bins, counts, beside)],
        },
        {
            "title": "Sensitivity against size",
            "text": "Found instances over all instances, all cases and classes together, with 95 % intervals where "
            "five cases or more have instances of that size.",
            "exhibits": [pictures.sensitivity_by_size(bins, counts, beside)],
        },
    ]
    labels = list(dict.fromkeys(row["class"] for model in models for row in model.froc))
    curves = [(label, pictures.froc(models, label, beside)) for label in labels]
    curves = [replace(one, heading=f"class {label}" if len(labels) > 1 else "") for label, one in curves if one]
    if curves:
        sections.append(
            {
                "title": "FROC",
                "text": "Sensitivity against false positives per image as the threshold falls; markers at 1/8 to 8.",
                "exhibits": curves,
            }
        )
    sections.append(
        {
            "title": "Dice against F1, case by case",
            "text": "One mark per case; dashed lines are the medians.",
            "exhibits": [pictures.dice_against_f1(tables[0], beside)],
        }
    )
    chosen = choose_cases(tables[0])
    if chosen:
        sections.append(_case_section(models, tables[0], chosen, images))
    return sections


def _case_section(
    models: Sequence[Evaluation], table: Table, chosen: Sequence[tuple[str, str]], images: Path | None
) -> dict[str, Any]:
    exhibits = []
    for word, case in chosen:
        loader = CaseLoader(models, case)
        image = loader.image(images)
        views = {model.name: loader.view(model) for model in models}
        scores = _scores(models, table, table.cases.index(case))
        heading = f"{word.capitalize()}: {case}"
        exhibits.append(pictures.case_pictures(heading, case, views, image, loader.spacing, scores))
    ground = "on the image" if images is not None else "without the image (--images adds it)"
    return {
        "title": "Cases: " + ", ".join(word for word, _ in chosen),
        "text": f"Chosen by the F1 of {table.models[0]}; ties go to the higher Dice. Components that hit are green, "
        f"missed instances blue with a circle, false components red with a cross, {ground}. Volumes are seen in "
        "maximum-intensity projections, where false covers missed, and missed covers found.",
        "exhibits": exhibits,
    }


def _scores(models: Sequence[Evaluation], table: Table, n: int) -> dict[str, tuple[str, str]]:
    """The scores of case n in two phrases, overlap scores with what must stand beside them."""
    words = {}
    for m, model in enumerate(models):
        own = {name: table.values[name][m, n] for name in ("f1", "f1_iou50", "volume_ratio", "dice")}
        words[model.name] = (
            f"F1 {number(own['f1'], 2)}, F1 at IoU 0.5 {number(own['f1_iou50'], 2)}",
            f"volume ratio {number(own['volume_ratio'], 2)}, Dice {number(own['dice'], 2)}",
        )
    return words
