"""Scores over folders of nnU-Net predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.data.case_workers import over_cases
from nnunet_instance_trainers.data.label_folders import Labels, case_names, find_labels, find_reader, read_dataset
from nnunet_instance_trainers.data.text_tables import aligned
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.detection import OVERLAP, Rule
from nnunet_instance_trainers.evaluation.froc import RATES, Froc, froc
from nnunet_instance_trainers.evaluation.overlays import write_names
from nnunet_instance_trainers.evaluation.scoring.case_scores import (
    SIZE_SCORES,
    CaseResult,
    Job,
    evaluate_case,
)
from nnunet_instance_trainers.evaluation.scoring.result_files import (
    Evaluation,
    bin_names,
    check_output,
    read_evaluation,
    write_evaluation,
)

__all__ = ["BINS_ML", "Evaluation", "evaluate", "find_cases", "find_dataset", "format_table", "read_evaluation"]

BINS_ML = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


def evaluate(
    predictions: Path,
    ground_truth: Path,
    output: Path,
    *,
    instances: Path | None = None,
    instance_classes: Sequence[str] | None = None,
    rule: Rule = OVERLAP,
    bins_ml: Sequence[float] = BINS_ML,
    froc_threshold: float | None = None,
    overlays: Path | None = None,
    dataset_json: Path | None = None,
    subset: bool = False,
    n_processes: int = 1,
) -> Evaluation:
    """Score a folder of predictions and write ``cases.csv``, ``sizes.csv``, ``objects.csv`` and ``summary.json``.

    Args:
        predictions, ground_truth: folders of label images with the same names.
        output: folder for the files; made if missing.
        instances: folder of annotators' maps with the same names; None for components of the ground truth.
        instance_classes: names of the classes that have ids there, None for all; the others go by components.
        rule: when an instance is found.
        bins_ml: ascending edges of the size bins.
        froc_threshold: write ``froc.csv`` too, from the ``.npz`` beside the predictions, with candidates at this
            probability.
        overlays: folder for label images of what became of each object, with names and colours beside them; None for
            none.
        dataset_json: None to look for it beside the predictions, and beside or above the ground truth.
        subset: whether the ground truth may hold more cases than were predicted.
        n_processes: worker processes.

    Returns:
        What was written.

    Raises:
        UserError: the folders do not fit each other, or a case cannot be scored.
    """
    check_output(output)
    file, dataset = find_dataset(predictions, ground_truth, dataset_json)
    cases = find_cases(predictions, ground_truth, instances, dataset["file_ending"], subset, froc_threshold is not None)
    labels = find_labels(dataset, file)
    example = ground_truth / f"{cases[0]}{dataset['file_ending']}"
    job = Job(
        predictions=predictions,
        ground_truth=ground_truth,
        instances=instances,
        instance_classes=_with_ids(labels, instance_classes),
        ending=dataset["file_ending"],
        reader=find_reader(dataset, example),
        rule=rule,
        bins_ml=tuple(float(edge) for edge in bins_ml),
        froc=froc_threshold,
        overlays=overlays,
        classes=labels.classes,
        known=labels.known,
        ignore=labels.ignore,
    )
    results: dict[str, CaseResult] = {}
    with tqdm(total=len(cases), desc="evaluate", unit="case") as bar:
        for case, result in over_cases(evaluate_case, job, cases, n_processes):
            results[case] = result
            bar.update()
    evaluation = _collect(output.resolve().name, job, {case: results[case] for case in cases})
    evaluation.summary["settings"]["dataset_json"] = str(file.resolve())
    write_evaluation(output, evaluation)
    if overlays is not None:
        write_names(overlays, [evaluated.name for evaluated in job.classes])
    return evaluation


# --- before the first case ---------------------------------------------------------------------------------


def find_dataset(predictions: Path, ground_truth: Path, dataset_json: Path | None) -> tuple[Path, dict[str, Any]]:
    """The dataset.json of two folders of label images, and its contents.

    Raises:
        UserError: there is none, or it is no dataset.json.
    """
    places = (predictions, ground_truth, ground_truth.resolve().parent)
    candidates = [place / "dataset.json" for place in places] if dataset_json is None else [dataset_json]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        if dataset_json is not None:
            raise UserError(f"{dataset_json} is missing: give the dataset's dataset.json with -djfile")
        raise UserError(f"no dataset.json in {predictions} or beside {ground_truth}: give one with -djfile")
    return file, read_dataset(file)


def find_cases(
    predictions: Path, ground_truth: Path, instances: Path | None, ending: str, subset: bool, probabilities: bool
) -> list[str]:
    """The predicted cases, or a clear word about what is missing where.

    Raises:
        UserError: something is missing.
    """
    predicted, true = (case_names(folder, ending) for folder in (predictions, ground_truth))
    required = [("ground truth", ground_truth, ending, predicted - true)]
    if not subset:
        required.append(("prediction", predictions, ending, true - predicted))
    if instances is not None:
        required.append(("instance map", instances, ending, predicted - case_names(instances, ending)))
    if probabilities:
        required.append(("file of probabilities", predictions, ".npz", predicted - case_names(predictions, ".npz")))
    for what, folder, suffix, missing in required:
        if missing:
            more = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
            advice = "predict with --save_probabilities" if suffix == ".npz" else "add it"
            if what == "prediction":
                advice += ", or use --chill to score what was predicted"
            raise UserError(f"the {what} of case {min(missing)!r}{more} is missing in {folder}: {advice}")
    return sorted(predicted)


def _with_ids(labels: Labels, chosen: Sequence[str] | None) -> frozenset[str]:
    names = {evaluated.name for evaluated in labels.classes}
    unknown = sorted(set(chosen or ()) - names)
    if unknown:
        raise UserError(f"--instance-classes names {unknown[0]!r}: the classes are {', '.join(sorted(names))}")
    return frozenset(names if chosen is None else chosen)


# --- after the last ----------------------------------------------------------------------------------------


def _collect(name: str, job: Job, results: dict[str, CaseResult]) -> Evaluation:
    bins = bin_names(job.bins_ml)
    keys = [
        (case, result, c, {"case": case, "class": evaluated.name})
        for (case, result), (c, evaluated) in product(results.items(), enumerate(job.classes))
    ]
    curves = {
        evaluated.name: froc([result.candidates[c] for result in results.values()])
        for c, evaluated in enumerate(job.classes)
        if job.froc is not None
    }
    return Evaluation(
        name=name,
        cases=[{**key, **result.counts[c].scores()} for _, result, c, key in keys],
        sizes=[
            {**key, "bin": name, **counts.scores(SIZE_SCORES)}
            for _, result, c, key in keys
            for name, counts in zip(bins, result.by_size[c])
        ],
        objects=[row for result in results.values() for row in result.objects],
        froc=[
            {"class": name, "threshold": t, "false_positives_per_image": f, "sensitivity": s}
            for name, value in curves.items()
            for t, f, s in zip(*(part.tolist() for part in vars(value.curve).values()))
        ],
        summary=_summary(job, results, curves),
    )


def _summary(job: Job, results: dict[str, CaseResult], curves: dict[str, Froc]) -> dict[str, Any]:
    """Cases and means in the shape of nnU-Net's summary, and what it does not have beside them."""
    keys = [evaluated.key for evaluated in job.classes]
    per_case = [
        {
            "metrics": {key: _metrics(counts) for key, counts in zip(keys, result.counts)},
            "prediction_file": str(job.predictions / f"{case}{job.ending}"),
            "reference_file": str(job.ground_truth / f"{case}{job.ending}"),
            "sha256": result.digests,
        }
        for case, result in results.items()
    ]
    mean = {key: _mean(entry["metrics"][key] for entry in per_case) for key in keys}
    totals = [sum((result.counts[c] for result in results.values()), Counts()) for c in range(len(keys))]
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
        "pooled": {**dict(zip(keys, map(_metrics, totals))), "foreground": _metrics(sum(totals, Counts()))},
        "settings": settings,
    }
    if job.froc is not None:
        summary["froc"] = {key: _froc_summary(curve) for key, curve in zip(keys, curves.values())}
        settings["froc_threshold"] = job.froc
    return summary


def _metrics(counts: Counts) -> dict[str, int | float]:
    return {**counts.scores(), "Dice": counts.dice}


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
