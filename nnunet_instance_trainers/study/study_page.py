"""The report of a study: the report of evaluated models, with seeds, learning curves and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_instance_trainers.evaluation.comparing.model_comparison import Table
from nnunet_instance_trainers.evaluation.report import pictures
from nnunet_instance_trainers.evaluation.report.page import render
from nnunet_instance_trainers.evaluation.report.tables import pair_rows, table_rows
from nnunet_instance_trainers.study.arm_comparison import SizeRow
from nnunet_instance_trainers.study.study_charts import learning_curves, sensitivity_of_sizes
from nnunet_instance_trainers.study.study_file import Study
from nnunet_instance_trainers.study.study_rows import Outcomes

__all__ = ["study_page"]

_TEST = (
    "Arm minus reference, paired by case and seed. p is of a two-sided t test whose error and degrees of freedom come "
    "from drawing patients and seeds apart; Holm's correction covers the arms of one score."
)


def study_page(
    study: Study,
    outcomes: Outcomes,
    tables: Sequence[Table],
    sizes: Sequence[SizeRow],
    settings: Mapping[str, Any],
    stamps: Mapping[str, Sequence[Mapping[str, Any]]],
    warnings: Sequence[str],
    missing: Sequence[str],
) -> str:
    """The page as text.

    Args:
        study, outcomes, tables, sizes: what was compared.
        settings: of the evaluation.
        stamps: what the jobs of each kind have noted.
        warnings: about volumes.
        missing: what is not there and why.
    """
    first, seeds = tables[0], outcomes.seeds
    rule = settings["match"] if settings["match"] == "overlap" else f"{settings['match']} of {settings['threshold']}"
    order = sorted(zip(first.mean_ranks["RA"], first.models))
    patients = len(np.unique(outcomes.patients(study.patients)))
    return render(
        title=f"Study of {study.dataset}, {study.configuration}",
        subtitle=f"{len(first.models)} arms, {len(seeds)} seeds ({', '.join(map(str, seeds))}), "
        f"{'test folder' if study.test else f'folds {_list(study.folds)}'}, {len(outcomes.cases)} cases of {patients} "
        f"patients, reference {study.reference}",
        order=[(arm, f"{rank:.2f}") for rank, arm in order] if len(order) > 1 else [],
        warnings=list(warnings),
        missing=[*missing, *(f"Not compared: {line}" for line in outcomes.left_out)],
        tables=[table_rows(table) for table in tables],
        resamples=2000,
        drawn="patients and seeds" if len(seeds) > 1 else "patients; with one seed they say nothing of other seeds",
        ranks_of="mean rank",
        ranks=[("all", "RA"), ("global", "RG"), ("instance", "RI")],
        challenge="",
        rule=rule,
        pairs=pair_rows(first.pairs),
        pairs_of=first.label if len(tables) > 1 else "",
        test=_TEST,
        sections=_sections(study, outcomes, first, sizes, stamps),
        extras=[_times(study, stamps), *_challenges(stamps), *_ensembles(stamps)],
        settings=_settings(study, settings),
    )


def _sections(
    study: Study,
    outcomes: Outcomes,
    table: Table,
    sizes: Sequence[SizeRow],
    stamps: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    beside = pictures.notes(table)
    sections = [
        {
            "title": "Sensitivity against size",
            "text": "Found instances over all instances, all cases and classes together, mean over seeds, with 95 % "
            "intervals.",
            "exhibits": [sensitivity_of_sizes([row for row in sizes if row.label == table.label], beside)],
        },
        {
            "title": "Dice against F1, case by case",
            "text": "One mark per case, its mean over seeds; dashed lines are the medians.",
            "exhibits": [pictures.dice_against_f1(table, beside)],
        },
    ]
    if stamps.get("train"):
        others = [arm.name for arm in study.arms if arm.name not in outcomes.arms]
        names = [*outcomes.arms, *others]  # arms look as in the other charts
        text = "A line per training. The loss is of its own arm: losses of different arms cannot be compared."
        sections.append(
            {"title": "Learning curves", "text": text, "exhibits": [learning_curves(names, stamps["train"])]}
        )
    return sections


def _times(study: Study, stamps: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    rows = []
    for arm in study.arms:
        own = [stamp for stamp in stamps.get("train", ()) if stamp["training"]["arm"] == arm.name]
        seconds = [second for stamp in own for second in stamp["seconds_per_epoch"]]
        settings = ", ".join(f"{key}: {value}" for key, value in arm.settings.items()) or "none"
        epochs = f"{len(seconds) / len(own):.0f}" if own else "-"
        median = f"{np.median(seconds):.1f}" if seconds else "-"
        rows.append([arm.name, arm.trainer, settings, str(len(own)), epochs, median])
    return {
        "title": "Trainings",
        "text": "Seconds per epoch are medians, as the machine was loaded then. A seed is the setting of that name; to "
        "a trainer without settings, such as nnU-Net's own, it is a repetition.",
        "columns": ["arm", "trainer", "settings", "trainings", "epochs", "seconds per epoch"],
        "rows": rows,
    }


def _challenges(stamps: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A table per challenge: official averages, over folds and seeds."""
    tables = []
    for name in dict.fromkeys(stamp["challenge"] for stamp in stamps.get("challenge", ())):
        own = [stamp for stamp in stamps["challenge"] if stamp["challenge"] == name]
        columns = list(next(iter(own[0]["official"].values())))
        rows = []
        for arm in dict.fromkeys(stamp["training"]["arm"] for stamp in own):
            mine = [stamp["official"] for stamp in own if stamp["training"]["arm"] == arm]
            for region in mine[0]:
                values = np.array([[official[region][column] for column in columns] for official in mine], float)
                cells = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(values.mean(0), values.std(0))]
                rows.append([arm, region, *cells])
        text = "Official averages, mean and standard deviation over trainings."
        tables.append(
            {"title": f"Challenge {name}", "text": text, "columns": ["arm", "region", *columns], "rows": rows}
        )
    return tables


def _ensembles(stamps: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    fits = stamps.get("ensemble", ())
    if not fits:
        return []
    rows = []
    for stamp in fits:
        estimate = stamp["fit"]["estimate"]
        low, high = ("-" if value is None else f"{value:+.3f}" for value in estimate["gain_interval"])
        parts, gain = ", ".join(stamp["fit"]["parts"]), f"{estimate['gain']:+.3f} ({low} to {high})"
        members, score = ", ".join(stamp["members"]), f"{estimate['score']:.3f}"
        rows.append([str(stamp["seed"]), parts or "the best single arm", members, score, gain])
    text = (
        "An ensemble by size over the arms, fitted once per seed, and what it scores on cases that it was not fitted "
        "to; the gain is over the best single arm."
    )
    columns = ["seed", "what was chosen", "members", fits[0]["fit"]["score"], "gain, 95 %"]
    return [{"title": "Ensemble over the arms", "text": text, "columns": columns, "rows": rows}]


def _settings(study: Study, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [("study", str(study.file)), ("plans", study.plans), ("ground truth", settings["ground_truth"])]
    if settings["instances"]:
        lines.append(("instance maps", settings["instances"]))
    lines.append(("size bins, mL", str(settings["bins_ml"]).strip("[]")))
    return [*lines, ("nnunet-instance-trainers", settings["version"])]


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
