"""Evaluated models side by side: mean values with intervals, ranks, and tests of chosen pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.data.text_tables import write_table
from nnunet_instance_trainers.errors import writing
from nnunet_instance_trainers.evaluation.comparing.compared_scores import SCORES, Score
from nnunet_instance_trainers.evaluation.comparing.ranking import dense_ranks, holm, mean_ranks, paired_p
from nnunet_instance_trainers.evaluation.resampling import bootstrap, interval
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation

__all__ = [
    "ALL_CLASSES",
    "Pair",
    "Table",
    "compare",
    "join_classes",
    "score_parts",
    "write_comparison",
]

ALL_CLASSES = "all classes"


@dataclass(frozen=True)
class Pair:
    """Two models in one score: the difference first minus second, its interval, and the test.

    Attributes:
        p: of Wilcoxon's signed-rank test over the cases.
        p_holm: the same, corrected for the chosen pairs of this class and score.
    """

    first: str
    second: str
    score: str
    difference: float
    low: float
    high: float
    cases: int
    p: float
    p_holm: float = math.nan


@dataclass(frozen=True)
class Table:
    """The models compared in one class. Dictionaries are keyed by score, arrays have one number per model.

    Attributes:
        label: the class, or :data:`ALL_CLASSES`.
        models: names.
        cases: names.
        values: (M, N) per model and case; nan in cases in which some model has no value, so that all models are
            averaged over the same cases.
        mean, low, high: over the cases, with a 95 % interval from the bootstrap.
        ranks: of ranked scores.
        mean_ranks: "RA" over all ranked scores, "RG" over global ones, "RI" over those of instances.
        pairs: the chosen pairs, score by score.
    """

    label: str
    models: list[str]
    cases: list[str]
    values: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]
    mean_ranks: dict[str, np.ndarray]
    pairs: list[Pair]

    def counted(self, score: str) -> int:
        """The number of cases in which every model has a value."""
        return int((~np.isnan(self.values[score][0])).sum())


def compare(
    models: Sequence[Evaluation],
    pairs: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
    scores: Sequence[Score] = SCORES,
) -> list[Table]:
    """Compare models that were evaluated alike, one table per class.

    With several classes the first table is of all of them: a case's value is the mean over its classes, counts and
    volumes are added.

    Args:
        models: from :func:`~nnunet_instance_trainers.evaluation.comparing.evaluated_models.read_models`.
        pairs: names of models to test against each other; None tests each model against the first.
        seed: of the bootstrap.
        scores: what is compared, such as
            :data:`~nnunet_instance_trainers.evaluation.comparing.compared_scores.PAPER_SCORES`.
    """
    names = [model.name for model in models]
    pairs = [(name, names[0]) for name in names[1:]] if pairs is None else pairs
    cases, classes = (list(dict.fromkeys(str(row[key]) for row in models[0].cases)) for key in ("case", "class"))
    parts = {score.name: score_parts(score, models, cases, classes) for score in scores}
    tables = []
    if len(classes) > 1:
        joined = {score.name: join_classes(score, *parts[score.name]) for score in scores}
        tables.append(_table(ALL_CLASSES, names, cases, joined, pairs, seed, scores))
    for k, label in enumerate(classes):
        one = {name: (above[:, :, k], below[:, :, k]) for name, (above, below) in parts.items()}
        tables.append(_table(label, names, cases, one, pairs, seed, scores))
    return tables


def write_comparison(tables: Sequence[Table], folder: Path, scores: Sequence[Score] = SCORES) -> None:
    """Write ``comparison.csv`` (a row per class, score and model), ``ranks.csv`` and ``pairs.csv``."""
    groups = {score.name: score for score in scores}
    comparison = [
        {
            "class": table.label,
            "score": name,
            "group": groups[name].group,
            "better": groups[name].better if groups[name].group else "",
            "model": model,
            "mean": table.mean[name][m],
            "low": table.low[name][m],
            "high": table.high[name][m],
            "rank": table.ranks[name][m] if name in table.ranks else math.nan,
            "cases": table.counted(name),
        }
        for table in tables
        for name in table.mean
        for m, model in enumerate(table.models)
    ]
    ranks = [
        {"class": table.label, "model": model, **{name: values[m] for name, values in table.mean_ranks.items()}}
        for table in tables
        for m, model in enumerate(table.models)
    ]
    pairs = [{"class": table.label, **vars(pair)} for table in tables for pair in table.pairs]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    columns = ["class", *Pair.__dataclass_fields__]
    write_table(folder / "comparison.csv", comparison, list(comparison[0]))
    write_table(folder / "ranks.csv", ranks, list(ranks[0]))
    write_table(folder / "pairs.csv", pairs, columns)


# --- numbers -----------------------------------------------------------------------------------------------


def score_parts(
    score: Score, models: Sequence[Evaluation], cases: Sequence[str], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator (M, N, K) of a score; both 0 where it has no value for some model."""
    if score.kind == "pooled":
        return _column("predicted_ml", models, cases, classes), _column("target_ml", models, cases, classes)
    values = _column(score.name, models, cases, classes)
    if score.absolute:
        values = np.abs(values)
    known = np.broadcast_to(~np.isnan(values).any(0), values.shape)
    return np.where(known, values, 0), known.astype(float)


def _column(name: str, models: Sequence[Evaluation], cases: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    at_case, at_class = ({key: i for i, key in enumerate(keys)} for keys in (cases, classes))
    values = np.full((len(models), len(cases), len(classes)), np.nan)
    for m, model in enumerate(models):
        for row in model.cases:
            values[m, at_case[str(row["case"])], at_class[str(row["class"])]] = row[name]
    return values


def join_classes(score: Score, above: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same over all classes: means of those that a case has, sums of counts and volumes."""
    above, below = above.sum(-1), below.sum(-1)
    if score.kind == "pooled":
        return above, below
    known = below > 0
    if score.kind == "mean":
        above = np.divide(above, below, out=np.zeros_like(above), where=known)
    return above, known.astype(float)


def _table(
    label: str,
    models: list[str],
    cases: list[str],
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    pairs: Sequence[tuple[str, str]],
    seed: int,
    scores: Sequence[Score],
) -> Table:
    above, below = (np.stack([part[i] for part in parts.values()]) for i in (0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(below > 0, above / below, np.nan)
        means = np.where(below.sum(-1) > 0, above.sum(-1) / below.sum(-1), np.nan)
    samples = bootstrap(above, below, seed=seed)
    low, high = interval(samples)
    by_name = {name: s for s, name in enumerate(parts)}
    ranked = [score for score in scores if score.group]
    sizes = {score.name: np.abs if score.by_size else np.array for score in ranked}
    ranks = {s.name: dense_ranks(sizes[s.name](means[by_name[s.name]]), s.better) for s in ranked}
    tested = _test_pairs(models, by_name, ranked, pairs, values, means, samples)
    return Table(
        label,
        models,
        cases,
        *({name: array[s] for name, s in by_name.items()} for array in (values, means, low, high)),
        ranks,
        {
            mean: mean_ranks(np.stack([ranks[score.name] for score in ranked if group in (score.group, "")]))
            for mean, group in (("RA", ""), ("RG", "global"), ("RI", "instance"))
        },
        tested,
    )


def _test_pairs(
    models: Sequence[str],
    by_name: Mapping[str, int],
    scores: Sequence[Score],
    pairs: Sequence[tuple[str, str]],
    values: np.ndarray,
    means: np.ndarray,
    samples: np.ndarray,
) -> list[Pair]:
    tested = []
    for score in scores:
        s = by_name[score.name]
        family = []
        for first, second in pairs:
            a, b = models.index(first), models.index(second)
            low, high = interval(samples[:, s, a] - samples[:, s, b])
            p = paired_p(values[s, a], values[s, b])
            count = int((~np.isnan(values[s, a])).sum())
            difference = float(means[s, a] - means[s, b])
            family.append(Pair(first, second, score.name, difference, float(low), float(high), count, p))
        corrected = holm([pair.p for pair in family])
        tested += [replace(pair, p_holm=float(p)) for pair, p in zip(family, corrected)]
    return tested
