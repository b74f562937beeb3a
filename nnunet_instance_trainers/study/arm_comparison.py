"""The arms of a study side by side: means over seeds and cases, and paired differences to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunet_instance_trainers.evaluation.comparing.compared_scores import SCORES
from nnunet_instance_trainers.evaluation.comparing.model_comparison import (
    ALL_CLASSES,
    Pair,
    Table,
    join_classes,
    score_parts,
)
from nnunet_instance_trainers.evaluation.comparing.ranking import dense_ranks, holm, mean_ranks
from nnunet_instance_trainers.evaluation.resampling import divide
from nnunet_instance_trainers.study.seed_bootstrap import Draws, SeedBootstrap
from nnunet_instance_trainers.study.study_rows import Outcomes

__all__ = ["SIZE_SCORES", "SizeRow", "compare_arms", "compare_sizes", "rising_with_volume"]

SIZE_SCORES = {"sensitivity": ("found", "instances"), "false per case": ("false", "")}
"""What is said of each size: the share of instances that is found, and false components in a case."""

_OVERLAP_SCORES = ("sensitivity", "f1", "lesion_dice", "f1_iou50", "dice")


@dataclass(frozen=True)
class SizeRow:
    """An arm in one class and size.

    Attributes:
        label: of the class, or "all classes".
        size: the bin, in mL.
        score: one of :data:`SIZE_SCORES`.
        instances: of the annotations in this bin.
        value, low, high: pooled over cases, mean over seeds.
        difference: to the reference; None for the reference itself, or where it is missing.
    """

    label: str
    size: str
    score: str
    arm: str
    instances: int
    value: float
    low: float
    high: float
    difference: Pair | None


def compare_arms(outcomes: Outcomes, reference: str, patients: str = "", seed: int = 0) -> list[Table]:
    """One table per class, and before them one of all where there are several; as
    :func:`~nnunet_instance_trainers.evaluation.comparing.model_comparison.compare` has them, with seeds.

    A case counts in a score where every training has a value, so that all means are over the same cases.

    Args:
        outcomes: arms and seeds to compare.
        reference: the arm that the others are tested against, each alone; p values are Holm's over the arms of a
            class and score. Without it there are no pairs.
        patients: as in the study file.
        seed: of the bootstrap.
    """
    draw = SeedBootstrap(outcomes.fold_of, outcomes.patients(patients), len(outcomes.seeds), seed=seed)
    parts = {s.name: score_parts(s, outcomes.models, outcomes.cases, outcomes.classes) for s in SCORES}
    tables = []
    if len(outcomes.classes) > 1:
        joined = {score.name: join_classes(score, *parts[score.name]) for score in SCORES}
        tables.append(_table(ALL_CLASSES, outcomes, joined, reference, draw))
    for k, label in enumerate(outcomes.classes):
        one = {name: (above[:, :, k], below[:, :, k]) for name, (above, below) in parts.items()}
        tables.append(_table(label, outcomes, one, reference, draw))
    return tables


def _table(
    label: str,
    outcomes: Outcomes,
    parts: dict[str, tuple[np.ndarray, np.ndarray]],
    reference: str,
    draw: SeedBootstrap,
) -> Table:
    above, below = (np.stack([outcomes.by_seed(part[i]) for part in parts.values()]) for i in (0, 1))  # (R, A, S, N)
    draws = draw(above, below)
    names = {name: k for k, name in enumerate(parts)}
    most = np.array([1 if score.kind == "mean" else np.inf for score in SCORES])
    low, high = _within(draws, most[:, None])
    ranked = [score for score in SCORES if score.group]
    ranks = {score.name: dense_ranks(draws.value[names[score.name]], score.better) for score in ranked}
    values = divide(above.sum(-2), below.sum(-2))
    compared = [score.name for score in SCORES if score.group or score.name == "volume_ratio"]
    counted = {name: int((below[k] > 0).all(axis=(0, 1)).sum()) for name, k in names.items()}
    pairs = [
        pair for name in compared for pair in _pairs(outcomes.arms, reference, name, draws[names[name]], counted[name])
    ]
    return Table(
        label,
        outcomes.arms,
        outcomes.cases,
        *({name: array[k] for name, k in names.items()} for array in (values, draws.value, low, high)),
        ranks,
        {
            mean: mean_ranks(np.stack([ranks[score.name] for score in ranked if group in (score.group, "")]))
            for mean, group in (("RA", ""), ("RG", "global"), ("RI", "instance"))
        },
        pairs,
    )


def _within(draws: Draws, most: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval, as far as there are such scores: none is below 0, and a share is not above 1."""
    low, high = draws.interval()
    return np.maximum(low, 0), np.minimum(high, most)


def _pairs(arms: Sequence[str], reference: str, score: str, draws: Draws, cases: int) -> list[Pair]:
    """Each arm against the reference in one score; draws of (A)."""
    if reference not in arms:
        return []
    family = []
    for a, arm in enumerate(arms):
        if arm != reference:
            difference = draws[a] - draws[arms.index(reference)]
            low, high = difference.interval()
            value, p = float(difference.value), float(difference.p())
            family.append(Pair(arm, reference, score, value, float(low), float(high), cases, p))
    return [replace(pair, p_holm=float(p)) for pair, p in zip(family, holm([pair.p for pair in family]))]


def compare_sizes(outcomes: Outcomes, reference: str, patients: str = "", seed: int = 0) -> list[SizeRow]:
    """What was found and what is false, by size: counts are pooled over cases, for most cases have few of a size.

    p values are Holm's over the arms and sizes of a class and score.
    """
    draw = SeedBootstrap(outcomes.fold_of, outcomes.patients(patients), len(outcomes.seeds), seed=seed)
    counts = _size_counts(outcomes)  # (A, S, N, K, B) by name
    rows = []
    classes: list[tuple[str, slice | int]] = list(zip(outcomes.classes, range(len(outcomes.classes))))
    if len(outcomes.classes) > 1:
        classes.insert(0, (ALL_CLASSES, slice(None)))
    for label, k in classes:
        own = {name: array[:, :, :, k] for name, array in counts.items()}
        if isinstance(k, slice):
            own = {name: array.sum(3) for name, array in own.items()}
        for score, (part, whole) in SIZE_SCORES.items():
            below = own[whole] if whole else np.ones_like(own[part])
            draws = draw(np.moveaxis(own[part], -1, 0), np.moveaxis(below, -1, 0))  # (B, A)
            rows += _size_rows(label, score, outcomes, reference, draws, own["instances"][0, 0].sum(0))
    return rows


def _size_rows(
    label: str, score: str, outcomes: Outcomes, reference: str, draws: Draws, instances: np.ndarray
) -> list[SizeRow]:
    low, high = _within(draws, 1 if score == "sensitivity" else np.inf)
    pairs = {
        (b, pair.first): pair
        for b in range(len(outcomes.sizes))
        for pair in _pairs(outcomes.arms, reference, score, draws[b], len(outcomes.cases))
    }
    corrected = dict(zip(pairs, holm([pair.p for pair in pairs.values()]) if pairs else ()))
    return [
        SizeRow(
            label,
            size,
            score,
            arm,
            int(instances[b]),
            *(float(array[b, a]) for array in (draws.value, low, high)),
            replace(pairs[b, arm], p_holm=float(corrected[b, arm])) if (b, arm) in pairs else None,
        )
        for b, size in enumerate(outcomes.sizes)
        for a, arm in enumerate(outcomes.arms)
    ]


def _size_counts(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """(A, S, N, K, B) found, false and all instances of each arm, seed, case, class and bin."""
    places = [{name: i for i, name in enumerate(names)} for names in (outcomes.cases, outcomes.classes, outcomes.sizes)]
    shape = len(outcomes.models), *map(len, places)
    counts = {name: np.zeros(shape) for name in ("found", "false", "instances")}
    for m, model in enumerate(outcomes.models):
        for row in model.sizes:
            place = m, places[0][row["case"]], places[1][row["class"]], places[2][row["bin"]]
            for name, array in counts.items():
                array[place] = row[name]
    return {name: outcomes.by_seed(array) for name, array in counts.items()}


def rising_with_volume(table: Table) -> list[str]:
    """A line for each arm in which an overlap score rises together with the volume ratio, both beyond chance.

    Predicting more finds more by itself, so such a gain may be no better segmentation.
    """
    lines = []
    pairs = {(pair.first, pair.score): pair for pair in table.pairs}
    for arm in table.models:
        volume = pairs.get((arm, "volume_ratio"))
        if volume is None or not volume.low > 0:
            continue
        risen = [name for name in _OVERLAP_SCORES if pairs[arm, name].low > 0]
        if risen:
            m, reference = table.models.index(arm), table.models.index(volume.second)
            ratio = table.mean["volume_ratio"]
            lines.append(
                f"{arm} predicts {ratio[m]:.2f} times the true volume and {volume.second} {ratio[reference]:.2f}, and "
                f"its {', '.join(risen)} rise{'s' if len(risen) == 1 else ''} with it: predicting more finds more by "
                "itself."
            )
    return lines
