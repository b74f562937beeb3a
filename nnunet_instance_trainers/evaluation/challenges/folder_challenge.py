"""A folder of predictions scored by a challenge's rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from tqdm import tqdm

from nnunet_instance_trainers.data.case_workers import over_cases
from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_folders import (
    ForegroundClass,
    Labels,
    case_names,
    find_labels,
    find_reader,
    is_2d,
    read_known_labels,
)
from nnunet_instance_trainers.data.spacing_files import known_geometry
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.challenges.challenge import Challenge, Scores
from nnunet_instance_trainers.evaluation.challenges.declarations import find_challenge
from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair
from nnunet_instance_trainers.evaluation.challenges.results import (
    Outcome,
    Result,
    check_challenge_output,
    summarise,
    write_result,
)
from nnunet_instance_trainers.evaluation.scoring.case_scores import read_instances
from nnunet_instance_trainers.evaluation.scoring.folder_cases import find_cases, find_dataset

__all__ = ["score_folder"]


@dataclass(frozen=True)
class _Job:
    """What is the same for all cases; travels to the workers.

    Attributes:
        challenge: its name.
        predictions, ground_truth: folders of label images.
        instances: folders of instance maps of the target and of the prediction, None for components.
        ending: of the files' names.
        reader: nnU-Net's class that reads them.
        regions: what is scored.
        known: the labels that may occur.
        masked: labels of the ground truth where nothing counts.
        missing: cases without a prediction, which are scored as empty.
    """

    challenge: str
    predictions: Path
    ground_truth: Path
    instances: tuple[Path | None, Path | None]
    ending: str
    reader: type[BaseReaderWriter]
    regions: tuple[ForegroundClass, ...]
    known: tuple[int, ...]
    masked: tuple[int, ...]
    missing: frozenset[str]


def score_folder(
    name: str,
    predictions: Path,
    ground_truth: Path,
    output: Path,
    *,
    instances: Path | None = None,
    predicted_instances: Path | None = None,
    dataset_json: Path | None = None,
    subset: bool = False,
    n_processes: int = 1,
) -> Result:
    """Score a folder of predictions by a challenge's rules and write ``scores.csv`` and ``challenge.json``.

    Args:
        name: of the challenge.
        predictions, ground_truth: folders of label images with the same names.
        output: folder for the files; made if missing.
        instances, predicted_instances: folders of instance maps; None for components, as most challenges take them.
        dataset_json: None to look for it beside the predictions, and beside or above the ground truth.
        subset: whether cases may lack a prediction. The summary then says what they would cost.
        n_processes: worker processes.

    Raises:
        UserError: there is no such challenge, the folders do not fit each other, or a case cannot be scored.
    """
    challenge = find_challenge(name)
    if challenge.maps == "refused" and (instances or predicted_instances):
        raise UserError(f"{name} makes its own objects by dilation: leave --instances away")
    if challenge.maps == "needed" and instances is None:
        raise UserError(f"{name} scores instance maps: give those of the ground truth with --instances")
    check_challenge_output(output)
    file, dataset = find_dataset(predictions, ground_truth, dataset_json)
    ending = dataset["file_ending"]
    cases = find_cases(predictions, ground_truth, instances, ending, subset, False)
    if predicted_instances is not None:
        find_cases(predictions, ground_truth, predicted_instances, ending, subset, False)
    labels = find_labels(dataset, file)
    missing = sorted(case_names(ground_truth, ending) - set(cases))
    job = _Job(
        challenge=name,
        predictions=predictions,
        ground_truth=ground_truth,
        instances=(instances, predicted_instances),
        ending=ending,
        reader=find_reader(dataset, ground_truth / f"{cases[0]}{ending}"),
        regions=_regions(challenge, labels, file),
        known=tuple(sorted({*labels.known, *challenge.masked})),
        masked=(*challenge.masked, *([] if labels.ignore is None else [labels.ignore])),
        missing=frozenset(missing),
    )
    outcomes: dict[str, list[Outcome]] = {}
    with tqdm(total=len(cases) + len(missing), desc=name, unit="case") as bar:
        for case, outcome in over_cases(_score_case, job, [*cases, *missing], n_processes):
            outcomes[case] = outcome
            bar.update()
    rows = [row for case in cases for row in outcomes[case]]
    summary = summarise(challenge, rows, [row for case in missing for row in outcomes[case]])
    summary["settings"] = {
        "predictions": str(predictions.resolve()),
        "ground_truth": str(ground_truth.resolve()),
        "instances": None if instances is None else str(instances.resolve()),
        "predicted_instances": None if predicted_instances is None else str(predicted_instances.resolve()),
        "dataset_json": str(file.resolve()),
    }
    result = Result(output.resolve().name, challenge, [row.cells() for row in rows], summary)
    write_result(output, result)
    return result


def _regions(challenge: Challenge, labels: Labels, file: Path) -> tuple[ForegroundClass, ...]:
    if challenge.regions is None:
        return labels.classes
    lacking = sorted({label for region in challenge.regions.values() for label in region} - set(labels.known))
    if lacking:
        raise UserError(f"{file} has no label {lacking[0]}, which {challenge.name} scores: give the challenge's labels")
    return tuple(ForegroundClass(name, name, region, 0) for name, region in challenge.regions.items())


def _score_case(job: _Job, case: str) -> list[Outcome]:
    """The scores of one case, region by region."""
    challenge, reader, name = find_challenge(job.challenge), job.reader(), f"{case}{job.ending}"
    target, geometry = read_known_labels(reader, job.ground_truth / name, case, {*job.known, *job.masked})
    if case in job.missing:
        prediction = np.zeros_like(target)
    else:
        prediction, own = read_known_labels(reader, job.predictions / name, case, job.known)
        geometry = known_geometry(reader, job.ground_truth / name, geometry, own)
        check_grid(job.predictions / name, case, prediction, own, target, geometry)
    folders = job.instances if case not in job.missing else (job.instances[0], None)
    maps = [
        None if folder is None else read_instances(reader, folder / name, case, job.regions, image, geometry, of)
        for folder, image, of in zip(folders, (target, prediction), ("its ground truth", "its prediction"))
    ]
    spacing = _spacing(target.shape, geometry["spacing"])
    masked = np.isin(target, job.masked) if job.masked else None
    return list(_score_regions(job, challenge, case, (target, prediction), (maps[0], maps[1]), spacing, masked))


def _score_regions(
    job: _Job,
    challenge: Challenge,
    case: str,
    images: tuple[np.ndarray, np.ndarray],
    maps: tuple[np.ndarray | None, np.ndarray | None],
    spacing: Sequence[float],
    masked: np.ndarray | None,
) -> Iterator[Outcome]:
    for region in job.regions:
        masks = [region.mask(image) for image in images]
        if masked is not None:
            masks = [mask & ~masked for mask in masks]
        pair = MaskPair.of(masks[0], masks[1], spacing, maps)
        scores: Scores = challenge.score_region(region.name, pair)
        yield Outcome(case, region.name, bool(pair.voxels[0]), bool(pair.voxels[1]), scores)


def _spacing(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, ...]:
    """A 2D image, which nnU-Net's readers give a thickness of 999, is 1 mm thick."""
    return (1.0, *spacing[1:]) if is_2d(shape, spacing) else tuple(spacing)
