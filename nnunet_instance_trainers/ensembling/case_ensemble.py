"""One case of an ensemble: read its members, merge them class by class, write the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_instance_trainers.data.grids import check_grid
from nnunet_instance_trainers.data.label_folders import (
    ForegroundClass,
    Labels,
    box_around,
    is_2d,
    read_known_labels,
)
from nnunet_instance_trainers.data.label_writing import write_image
from nnunet_instance_trainers.data.probabilities import read_probabilities
from nnunet_instance_trainers.ensembling.class_masks import Voted, hysteresis_masks
from nnunet_instance_trainers.ensembling.ensemble_plan import EnsemblePlan
from nnunet_instance_trainers.ensembling.functional import (
    MemberCounts,
    combine_classes,
    find_components,
    keep_volume_range,
    majority_vote,
    merge_members,
    nest_regions,
)
from nnunet_instance_trainers.ensembling.output_folder import INSTANCES, most_ids, write_case
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.instances import label_components

__all__ = ["Job", "ensemble_case"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What is the same for all cases; travels to the workers.

    Attributes:
        folders: of each model, several where it has folds.
        ending: of the files' names.
        reader: nnU-Net's class that reads and writes them.
        labels: what dataset.json says of labels.
        plan: what the ensemble does, with each class by its own key.
        instances: whether instance maps are written too.
        areas: whether ranges were given in mm^2, which only 2D images have.
        output: folder to write to.
    """

    folders: Mapping[str, tuple[Path, ...]]
    ending: str
    reader: type[BaseReaderWriter]
    labels: Labels
    plan: EnsemblePlan
    instances: bool
    areas: bool
    output: Path


def ensemble_case(job: Job, case: str) -> list[Row]:
    """Write the ensemble of one case, and last a record of it.

    Returns:
        A row per class: where its objects came from.

    Raises:
        UserError: a file is unreadable, does not fit the others or dataset.json, or cannot be written.
    """
    reader = job.reader()
    image, geometry, rows = _merged(job, reader, case)
    with write_case(job.output, case, rows) as folder:
        for name, part in _parts(job, image, case):
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_image(reader, part, folder / name / f"{case}{job.ending}", geometry, case)
    return rows


def _merged(job: Job, reader: BaseReaderWriter, case: str) -> tuple[np.ndarray, dict[str, Any], list[Row]]:
    """The image (*S) of the ensemble, its geometry, and the rows."""
    models, geometry = _read(job, reader, case)
    shape = next(iter(models.values())).image.shape
    spacing = _spacing(job, case, shape, geometry)
    occupied = np.zeros(shape, dtype=bool)
    for model in models.values():
        model.add_to(occupied)
    box = box_around(occupied)
    del occupied
    image, by_member = _merge(job, {name: model.inside(box) for name, model in models.items()}, spacing)
    image, too_small = _without_small(job, image, spacing)
    joined = job.plan.connectivity
    rows = [
        _row(job, case, c, by_member[c.key], too_small[c.key], label_components(c.mask(image), joined)[1])
        for c in job.labels.classes
    ]
    whole = np.zeros(shape, dtype=image.dtype)
    whole[box] = image
    return whole, geometry, rows


# --- reading -----------------------------------------------------------------------------------------------


def _read(job: Job, reader: BaseReaderWriter, case: str) -> tuple[dict[str, Voted], dict[str, Any]]:
    """What each model says, one model after the other so that few images are held at once, and their geometry."""
    models: dict[str, Voted] = {}
    first: tuple[Path, np.ndarray, dict[str, Any]] | None = None
    for name in job.plan.models:
        folds = []
        for folder in job.folders[name]:
            path = folder / f"{case}{job.ending}"
            image, geometry = read_known_labels(reader, path, case, job.labels.known)
            if first is None:
                first = path, image, geometry
            check_grid(path, case, image, geometry, *first[1:], other=str(first[0]))
            folds.append(image)
        models[name] = _vote(job, case, name, folds)
    assert first is not None
    return models, first[2]


def _spacing(job: Job, case: str, shape: Sequence[int], geometry: dict[str, Any]) -> tuple[float, ...]:
    spacing = tuple(float(size) for size in geometry["spacing"])
    flat = is_2d(shape, spacing)
    if job.areas and not flat:
        raise UserError(f"case {case!r} is no 2D image, and only those have areas: give volumes with -m")
    return (1.0, *spacing[1:]) if flat else spacing


def _vote(job: Job, case: str, name: str, folds: Sequence[np.ndarray]) -> Voted:
    plan, masks = job.plan, {}
    votes = plan.vote if len(folds) > 1 else None
    classes = [c for c in job.labels.classes if any(member.name == name for member in plan.members[c.key])]
    by_hysteresis = [c for c in classes if plan.hysteresis.get(c.key) is not None]
    if by_hysteresis:
        parts = [_hysteresis(job, case, *fold, by_hysteresis) for fold in zip(job.folders[name], folds)]
        for c in by_hysteresis:
            masks[c.key] = majority_vote([part[c.key] for part in parts], votes)
    if job.labels.regions_order is not None and len(folds) > 1:
        # Regions share voxels, so each has a vote of its own; of labels a voxel can have but one.
        for c in classes:
            if c not in by_hysteresis:
                masks[c.key] = majority_vote([c.mask(fold) for fold in folds], votes)
    return Voted(majority_vote(folds, votes), masks)


def _hysteresis(
    job: Job, case: str, folder: Path, image: np.ndarray, classes: Sequence[ForegroundClass]
) -> dict[str, np.ndarray]:
    probabilities = read_probabilities(folder / f"{case}.npz", case, image.shape, job.labels.classes)
    thresholds = {c.key: job.plan.hysteresis[c.key] or (0.5, 0.5) for c in classes}
    exclusive = job.labels.regions_order is None
    return hysteresis_masks(
        probabilities, image, classes, thresholds, exclusive=exclusive, connectivity=job.plan.connectivity
    )


# --- merging -----------------------------------------------------------------------------------------------


def _merge(
    job: Job, given: Mapping[str, Voted], spacing: Sequence[float]
) -> tuple[np.ndarray, dict[str, MemberCounts]]:
    """The label image of the ensemble, and for each class where its objects came from."""
    plan, models = job.plan, job.plan.models
    claims, by_member = {}, {}
    for c in job.labels.classes:
        members = plan.members[c.key]
        merged = merge_members(
            [given[member.name].mask(c) for member in members],
            [member.range for member in members],
            spacing,
            rescue=plan.rescue,
            connectivity=plan.connectivity,
        )
        place = np.array([0, *(1 + models.index(member.name) for member in members)], dtype=np.uint8)
        claims[c.key], by_member[c.key] = place[merged.claims], merged.by_member
    if job.labels.regions_order is not None:
        return nest_regions([claim > 0 for claim in claims.values()], job.labels.regions_order), by_member
    by_label = {c.labels[0]: claims[c.key] for c in job.labels.classes}
    return combine_classes(by_label, next(iter(claims.values())).shape), by_member


def _without_small(job: Job, image: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, dict[str, int]]:
    """The image without objects below the smallest volume of their class, and how many of each class were removed."""
    removed = {}
    masks = []
    joined: dict[str, int] = {"connectivity": job.plan.connectivity}
    for c in job.labels.classes:
        mask, least = c.mask(image), job.plan.min_volume_ml.get(c.key, 0.0)
        n = len(find_components(mask, spacing, **joined).volume_ml) if least > 0 else 0
        kept = keep_volume_range(mask, least, float("inf"), spacing, **joined) if n else mask
        removed[c.key] = n - label_components(kept, **joined)[1] if n else 0
        masks.append(kept)
    if not any(removed.values()):
        return image, removed
    if job.labels.regions_order is not None:
        return nest_regions(masks, job.labels.regions_order), removed
    return image * np.logical_or.reduce(masks), removed


def _parts(job: Job, image: np.ndarray, case: str) -> Iterator[tuple[str, np.ndarray]]:
    """What is written, one after the other, by the folder: the image, and ids (*S) of all or of each region."""
    yield ".", image
    if job.instances and job.labels.regions_order is None:
        yield INSTANCES, _numbered(job, image, case)
    elif job.instances:
        for c in job.labels.classes:
            yield f"{INSTANCES}/region_{'_'.join(map(str, c.labels))}", _numbered(job, c.mask(image), case)


def _numbered(job: Job, labels: np.ndarray, case: str) -> np.ndarray:
    ids, n = label_components(labels, job.plan.connectivity)
    most = most_ids(job.reader)
    if n > most:
        raise UserError(f"case {case!r} has {n} objects, and an instance map holds {most}: leave --instances away")
    return ids.astype(np.uint16)


# --- the table ---------------------------------------------------------------------------------------------


def _row(job: Job, case: str, c: ForegroundClass, by_member: MemberCounts, too_small: int, objects: int) -> Row:
    members = job.plan.members[c.key]
    came = {name: 0 for name in job.plan.models}
    for member, kept, rescued in zip(members, by_member.kept, by_member.rescued):
        came[member.name] += kept + rescued
    return {
        "case": case,
        "class": c.name,
        "objects": objects,
        **{f"from_{name}": number for name, number in came.items()},
        "straddling": by_member.straddling,
        "rescued": sum(by_member.rescued),
        "lost": by_member.lost,
        "too_small": too_small,
    }
