"""What an evaluation sums up, in the shape of nnU-Net's summary, and its pooled scores for the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.data.text_tables import aligned
from nnunet_instance_trainers.evaluation.counts import CASES, Counts
from nnunet_instance_trainers.evaluation.froc import RATES, Froc
from nnunet_instance_trainers.evaluation.scoring.case_scores import CaseResult, Job
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation

__all__ = ["format_table", "summarise"]


def summarise(job: Job, results: Mapping[str, CaseResult], curves: Mapping[str, Froc]) -> dict[str, Any]:
    """Cases and means in the shape of nnU-Net's summary, and what it does not have beside them."""
    keys = [evaluated.key for evaluated in job.classes]
    per_case = [
        {
            "metrics": dict(zip(keys, _case_metrics(result))),
            "prediction_file": str(job.predictions / f"{case}{job.ending}"),
            "reference_file": str(job.ground_truth / f"{case}{job.ending}"),
            "sha256": result.digests,
        }
        for case, result in results.items()
    ]
    mean = {key: _mean(entry["metrics"][key] for entry in per_case) for key in keys}
    by_class = zip(*(result.counts for result in results.values()))
    whole = [sum(result.counts, Counts()) for result in results.values()]
    settings = {
        **job.rule.settings(),
        "bins_ml": list(job.bins_ml),
        "classes": {evaluated.key: evaluated.name for evaluated in job.classes},
        "predictions": str(job.predictions.resolve()),
        "ground_truth": str(job.ground_truth.resolve()),
        "instances": None if job.instances is None else str(job.instances.resolve()),
        "instance_classes": None if job.instances is None else sorted(job.instance_classes),
        "version": __version__,
    }
    summary = {
        "foreground_mean": _mean(mean.values()),
        "mean": mean,
        "metric_per_case": per_case,
        "pooled": {**dict(zip(keys, map(_pooled, by_class))), "foreground": _pooled(whole)},
        "settings": settings,
    }
    if job.surfaces_mm is not None:
        settings["surfaces_mm"] = job.surfaces_mm
    if job.froc is not None:
        summary["froc"] = {key: _froc_summary(curve) for key, curve in zip(keys, curves.values())}
        settings["froc_threshold"] = job.froc
    return summary


def _case_metrics(result: CaseResult) -> list[dict[str, int | float]]:
    """The metrics of each class of a case."""
    return [
        {**_metrics(counts), **surfaces}
        for counts, surfaces in zip(result.counts, result.surfaces or [{}] * len(result.counts))
    ]


def _metrics(counts: Counts) -> dict[str, int | float]:
    return {**counts.scores(), "Dice": counts.dice}


def _pooled(cases: Sequence[Counts]) -> dict[str, int | float]:
    """The scores of the cases' sum, and how many cases are of each kind."""
    return {**_metrics(sum(cases, Counts())), **{name: sum(getattr(case, name) for case in cases) for name in CASES}}


def _mean(metrics: Iterable[dict[str, float]]) -> dict[str, float]:
    """Means over what is defined."""
    rows = list(metrics)
    columns = {name: [row[name] for row in rows if not np.isnan(row[name])] for name in rows[0]}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in columns.items()}


def _froc_summary(curve: Froc) -> dict[str, Any]:
    rates = [f"{rate:g}" for rate in RATES]
    return {
        "average_sensitivity": curve.average,
        "average_sensitivity_interval": curve.average_interval,
        "sensitivity_at": dict(zip(rates, curve.sensitivity)),
        "sensitivity_at_interval": dict(zip(rates, curve.sensitivity_intervals)),
    }


def format_table(evaluation: Evaluation) -> str:
    """The pooled scores for the screen, a line per class."""
    settings, pooled = evaluation.summary["settings"], evaluation.summary["pooled"]
    names = {**settings["classes"], "foreground": "all"} if len(settings["classes"]) > 1 else settings["classes"]
    columns = ("instances", "found", "missed", "false", "sensitivity", "precision", "f1", "f1_iou50", "volume_ratio")
    rows: list[tuple[str, ...]] = [("class", *columns, "dice")]
    for key, name in names.items():
        values = [pooled[key][column] for column in (*columns, "dice")]
        rows.append((name, *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values)))
    return aligned(rows)
