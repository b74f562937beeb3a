"""Scores of one case of a folder of predictions: read, check, compare class by class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_folders import (
    ForegroundClass,
    box_around,
    read_known_labels,
    voxel_volume_ml,
)
from nnunet_instance_trainers.data.label_reading import check_ids, read_labels
from nnunet_instance_trainers.data.label_writing import write_image
from nnunet_instance_trainers.data.map_store import digest
from nnunet_instance_trainers.data.probabilities import read_probabilities
from nnunet_instance_trainers.data.spacing_files import known_geometry
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.counts import DETECTION, Counts
from nnunet_instance_trainers.evaluation.detection import Detection, Rule, detect
from nnunet_instance_trainers.evaluation.froc import Candidates, find_candidates
from nnunet_instance_trainers.evaluation.object_surfaces import class_surfaces, instance_surfaces
from nnunet_instance_trainers.evaluation.overlays import Overlay
from nnunet_instance_trainers.evaluation.scoring.result_files import bin_names
from nnunet_instance_trainers.instances.volume_ranges import size_bins

__all__ = ["CaseResult", "Job", "evaluate_case", "read_instances"]

SIZE_SCORES = (*DETECTION, "lesion_dice", "lesion_dice_found", "f1_iou50", "volume_ratio")


@dataclass(frozen=True)
class Job:
    """What is the same for all cases; travels to the workers.

    Attributes:
        predictions, ground_truth: folders of label images.
        instances: the folder of annotators' maps, None for components of the ground truth.
        instance_classes: the names of the classes that have ids there; the others are scored by components.
        ending: of the files' names.
        reader: nnU-Net's class that reads them.
        classes: what is scored.
        known: the labels that may occur in a ground truth, the ignore label aside.
        ignore: the ignore label, None without.
        rule: when an instance is found.
        bins_ml: edges of the size bins.
        froc: probability from which on voxels are candidates; None for no FROC.
        surfaces_mm: tolerance of the surface Dice; None for no surface scores.
        overlays: folder for label images of what became of each object; None for none.
    """

    predictions: Path
    ground_truth: Path
    instances: Path | None
    instance_classes: frozenset[str]
    ending: str
    reader: type[BaseReaderWriter]
    classes: tuple[ForegroundClass, ...]
    known: tuple[int, ...]
    ignore: int | None
    rule: Rule
    bins_ml: tuple[float, ...]
    froc: float | None
    surfaces_mm: float | None
    overlays: Path | None


@dataclass(frozen=True)
class CaseResult:
    """What is kept of a case: per class counts in all and by size, surface scores, rows of objects, FROC's candidates.

    Attributes:
        digests: of the files that were read, "reference", "prediction" and, with maps, "instances".
    """

    digests: dict[str, str]
    counts: list[Counts] = field(default_factory=list)
    by_size: list[list[Counts]] = field(default_factory=list)
    surfaces: list[dict[str, float]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[Candidates] = field(default_factory=list)


def evaluate_case(job: Job, case: str) -> CaseResult:
    """Score one case.

    Raises:
        UserError: a file is unreadable, or does not fit the others or dataset.json.
    """
    reader, name = job.reader(), f"{case}{job.ending}"
    target, geometry = _read(job, reader, job.ground_truth / name, case, job.ignore)
    prediction, predicted_geometry = _read(job, reader, job.predictions / name, case, None)
    geometry = known_geometry(reader, job.ground_truth / name, geometry, predicted_geometry)
    check_grid(job.predictions / name, case, prediction, predicted_geometry, target, geometry)
    annotated = None
    if job.instances is not None:
        with_ids = [evaluated for evaluated in job.classes if evaluated.name in job.instance_classes]
        annotated = read_instances(reader, job.instances / name, case, with_ids, target, geometry)
    probabilities = None
    if job.froc is not None:
        probabilities = read_probabilities(job.predictions / f"{case}.npz", case, target.shape, job.classes)
    voxel_ml = voxel_volume_ml(target.shape, geometry["spacing"])
    valid = target != job.ignore if job.ignore is not None and (target == job.ignore).any() else None
    folders = {"reference": job.ground_truth, "prediction": job.predictions, "instances": job.instances}
    result = CaseResult({what: digest(folder / name) for what, folder in folders.items() if folder is not None})
    overlay = None if job.overlays is None else Overlay(target.shape, len(job.classes))
    for evaluated in job.classes:
        mask, predicted = evaluated.mask(target), evaluated.mask(prediction)
        p = None if probabilities is None else probabilities[evaluated.channel]
        box = box_around(mask | predicted if p is None else mask | predicted | (p >= job.froc))
        mask, inside = mask[box], None if valid is None else valid[box]
        has_ids = annotated is not None and evaluated.name in job.instance_classes
        instances = annotated[box] if has_ids else None
        predicted = predicted[box]
        detection = detect(instances, predicted, within=mask, valid=inside, rule=job.rule, voxel_ml=voxel_ml)
        if overlay is not None:
            overlay.add(len(result.counts), box, detection)
        result.counts.append(detection.counts)
        result.by_size.append(detection.counts_by_size(np.array(job.bins_ml)))
        rows = list(_objects(case, evaluated.name, detection, job.bins_ml))
        if job.surfaces_mm is not None:
            pair = (mask, predicted) if inside is None else (mask & inside, predicted & inside)
            result.surfaces.append(class_surfaces(*pair, geometry["spacing"], job.surfaces_mm))
            for row, scores in zip(rows, instance_surfaces(detection, geometry["spacing"], job.surfaces_mm)):
                row |= scores
        result.objects.extend(rows)
        if p is not None and job.froc is not None:
            result.candidates.append(find_candidates(instances, p[box], threshold=job.froc, within=mask, valid=inside))
    if overlay is not None and job.overlays is not None:
        write_image(reader, overlay.image, job.overlays / name, geometry, case)
    return result


def _read(
    job: Job, reader: BaseReaderWriter, path: Path, case: str, ignore: int | None
) -> tuple[np.ndarray, dict[str, Any]]:
    return read_known_labels(reader, path, case, job.known if ignore is None else (*job.known, ignore))


def read_instances(
    reader: BaseReaderWriter,
    path: Path,
    case: str,
    classes: Sequence[ForegroundClass],
    target: np.ndarray,
    geometry: dict[str, Any],
    other: str = "its ground truth",
) -> np.ndarray:
    """Ids (*S) of instances, checked against the label image that they are of.

    Raises:
        UserError: they cannot be read, or do not fit it.
    """
    ids, own = read_labels(reader, path, case, None)
    check_grid(path, case, ids, known_geometry(reader, path, own, geometry), target, geometry, other)
    check_ids(ids, path, case)
    foreground = np.zeros(target.shape, bool)
    for evaluated in classes:
        foreground |= evaluated.mask(target)
    bare = np.count_nonzero(foreground & (ids <= 0))
    if bare:
        raise UserError(
            f"case {case!r}: {path} has no id in {bare} foreground voxels of {other}: add them, name the "
            "classes that have ids with --instance-classes, or leave --instances away to use components"
        )
    stray = np.count_nonzero((ids > 0) & (target == 0))
    if stray:
        raise UserError(f"case {case!r}: {path} has ids in {stray} voxels that {other} calls background: set them to 0")
    return ids


def _objects(case: str, name: str, detection: Detection, bins_ml: Sequence[float]) -> Iterator[dict[str, Any]]:
    """A row per instance, then one per component."""
    d, pairs = detection, detection.pairs
    component_ids = np.arange(1, len(d.hits) + 1)
    instance, component = pairs.instance[d.counted], pairs.component[d.counted]
    sides = {
        "target": (d.instance_ids, d.instance_ml, d.found, d.instance_dice, instance, component_ids[component]),
        "prediction": (component_ids, d.component_ml, d.hits, d.component_dice, component, d.instance_ids[instance]),
    }
    states = {"target": ("missed", "found"), "prediction": ("false", "hit")}
    names = bin_names(bins_ml)
    for side, (ids, volumes, met, dice, own, partners) in sides.items():
        order = np.argsort(own, kind="stable")
        partners_of = np.split(partners[order], np.searchsorted(own[order], np.arange(1, len(ids))))
        for index, place in enumerate(size_bins(volumes, bins_ml)):
            yield {
                "case": case,
                "class": name,
                "side": side,
                "id": int(ids[index]),
                "volume_ml": float(volumes[index]),
                "state": states[side][int(met[index])],
                "dice": float(dice[index]),
                "matched_id": ";".join(map(str, partners_of[index].tolist())),
                "bin": names[place],
            }
