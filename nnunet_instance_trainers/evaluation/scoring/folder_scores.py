"""Scores over folders of nnU-Net predictions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from tqdm import tqdm

from nnunet_instance_trainers.data.case_workers import over_cases
from nnunet_instance_trainers.data.label_folders import Labels, find_labels, find_reader
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.detection import OVERLAP, Rule
from nnunet_instance_trainers.evaluation.froc import froc
from nnunet_instance_trainers.evaluation.overlays import write_names
from nnunet_instance_trainers.evaluation.scoring.case_scores import (
    SIZE_SCORES,
    CaseResult,
    Job,
    evaluate_case,
)
from nnunet_instance_trainers.evaluation.scoring.folder_cases import find_cases, find_dataset
from nnunet_instance_trainers.evaluation.scoring.result_files import (
    Evaluation,
    bin_names,
    check_output,
    read_evaluation,
    write_evaluation,
)
from nnunet_instance_trainers.evaluation.scoring.summary import format_table, summarise

__all__ = ["BINS_ML", "Evaluation", "evaluate", "format_table", "read_evaluation"]

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
    surfaces_mm: float | None = None,
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
        surfaces_mm: add distances between surfaces, and surface Dice at this tolerance, to cases and objects.
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
        surfaces_mm=surfaces_mm,
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


def _with_ids(labels: Labels, chosen: Sequence[str] | None) -> frozenset[str]:
    names = {evaluated.name for evaluated in labels.classes}
    unknown = sorted(set(chosen or ()) - names)
    if unknown:
        raise UserError(f"--instance-classes names {unknown[0]!r}: the classes are {', '.join(sorted(names))}")
    return frozenset(names if chosen is None else chosen)


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
        cases=[
            {**key, **result.counts[c].scores(), **(result.surfaces[c] if result.surfaces else {})}
            for _, result, c, key in keys
        ],
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
        summary=summarise(job, results, curves),
    )
