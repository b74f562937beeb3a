"""Results of one challenge side by side: official averages, ranks, the official ranking and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.text_tables import write_table
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.evaluation.challenges.challenge import Challenge
from nnunet_instance_trainers.evaluation.challenges.results import Result, is_result, read_result
from nnunet_instance_trainers.evaluation.comparing.model_comparison import Pair
from nnunet_instance_trainers.evaluation.comparing.ranking import dense_ranks, holm, paired_p
from nnunet_instance_trainers.evaluation.resampling import bootstrap, interval

__all__ = ["ChallengeTable", "are_results", "compare_results", "official_ranking", "read_results", "write_comparison"]


@dataclass(frozen=True)
class ChallengeTable:
    """Models in one region. Dictionaries are keyed by ranked column, arrays have one number per model.

    Attributes:
        region: its name.
        models: names.
        mean: official averages.
        low, high: 95 % intervals from the bootstrap over cases; nan for scores of summed counts.
        ranks: of the averages.
        official: the number that the challenge ranks by, None without.
        pairs: models tested against each other.
    """

    region: str
    models: list[str]
    mean: dict[str, np.ndarray]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]
    official: np.ndarray | None
    pairs: list[Pair]


def are_results(folders: Sequence[Path]) -> bool:
    """Whether folders were written by ``challenge``.

    Raises:
        UserError: some were, and some not.
    """
    kinds = [is_result(folder) for folder in folders]
    if any(kinds) and not all(kinds):
        first = folders[kinds.index(False)]
        raise UserError(f"{first} was not written by 'challenge' and the others were: give results of one kind")
    return all(kinds)


def read_results(folders: Sequence[Path]) -> list[Result]:
    """Read results of one challenge, named by the shortest ends of their paths that differ.

    Raises:
        UserError: a folder is damaged or given twice; challenges, cases or regions differ.
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise UserError(f"{next(str(p) for p in paths if paths.count(p) > 1)} is given twice: name each folder once")
    ends = next(k for k in range(1, 99) if len({path.parts[-k:] for path in paths}) == len(paths))
    results = [replace(read_result(path), name="/".join(path.parts[-ends:])) for path in paths]
    first = results[0]
    keys = [{(row["case"], row["region"]) for row in result.rows} for result in results]
    for result, own in zip(results[1:], keys[1:]):
        if result.challenge.name != first.challenge.name:
            raise UserError(
                f"{first.name} was scored as {first.challenge.name} and {result.name} as {result.challenge.name}: "
                "score them alike"
            )
        if own != keys[0]:
            case, region = min(own ^ keys[0])
            lacking = result.name if (case, region) in keys[0] else first.name
            raise UserError(f"{lacking} lacks case {case!r}, region {region}: score the same cases with each")
    return results


def compare_results(results: Sequence[Result], pairs: Sequence[tuple[str, str]] | None = None) -> list[ChallengeTable]:
    """Compare results of one challenge, a table per region; None tests each model against the first."""
    names = [result.name for result in results]
    pairs = [(name, names[0]) for name in names[1:]] if pairs is None else pairs
    regions = list(dict.fromkeys(row["region"] for row in results[0].rows))
    return [_table(results, names, region, pairs) for region in regions]


def _table(
    results: Sequence[Result], names: list[str], region: str, pairs: Sequence[tuple[str, str]]
) -> ChallengeTable:
    challenge = results[0].challenge
    cases = sorted({row["case"] for row in results[0].rows})
    by_case = [{row["case"]: row for row in result.rows if row["region"] == region} for result in results]
    columns = list(challenge.better)
    values = np.array([[[own[case][name] for case in cases] for own in by_case] for name in columns], float)
    mean = np.array([[_official(result, region, name) for result in results] for name in columns])
    finite = np.isfinite(values)
    # Scores of summed counts are no means over cases, so that no draw of cases gives their interval.
    samples = bootstrap(np.where(finite, values, 0), (finite & (challenge.pool is None)).astype(float))
    low, high = interval(samples)
    ranks = np.array([dense_ranks(row, challenge.better[name]) for row, name in zip(mean, columns)])
    tested = []
    for k, name in enumerate(columns):
        family = []
        for first, second in pairs:
            a, b = names.index(first), names.index(second)
            both = finite[k, a] & finite[k, b]
            bounds = interval(samples[:, k, a] - samples[:, k, b])
            p = paired_p(values[k, a][both], values[k, b][both])
            family.append(
                Pair(first, second, name, float(mean[k, a] - mean[k, b]), *map(float, bounds), int(both.sum()), p)
            )
        tested += [replace(pair, p_holm=float(p)) for pair, p in zip(family, holm([pair.p for pair in family]))]
    by_name = (dict(zip(columns, array)) for array in (mean, low, high, ranks))
    return ChallengeTable(region, names, *by_name, official_ranking(challenge, mean), tested)


def _official(result: Result, region: str, name: str) -> float:
    try:
        return float(result.summary["regions"][region]["official"][name])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{result.name} is damaged: run 'nnunet-instance challenge' again") from None


def official_ranking(challenge: Challenge, mean: np.ndarray) -> np.ndarray | None:
    """What a challenge ranks models by, lower is better; None where it has no ranking.

    Args:
        challenge: its ranking and directions.
        mean: (S, M) averages of its ranked columns.

    Returns:
        (M,) weighted mean ranks, or with ``"scaled"`` mean positions between the best model, 0, and the worst, 1.
    """
    if challenge.ranking is None:
        return None
    directions = list(challenge.better.values())
    if challenge.ranking == "scaled":
        signed = np.array([row if way == "lower" else -row for row, way in zip(mean, directions)])
        best = np.nanmin(signed, axis=1, keepdims=True)
        span = np.nanmax(signed, axis=1, keepdims=True) - best
        return np.nanmean(np.divide(signed - best, span, out=np.zeros_like(signed), where=span > 0), axis=0)
    ranks = np.array([dense_ranks(row, way) for row, way in zip(mean, directions)])
    weights = [challenge.weights.get(name, 1.0) for name in challenge.better]
    return np.average(ranks, axis=0, weights=weights)


def write_comparison(tables: Sequence[ChallengeTable], challenge: Challenge, folder: Path) -> None:
    """Write ``comparison.csv`` (a row per region, score and model), ``ranks.csv`` and ``pairs.csv``."""
    rows: list[dict[str, Any]] = [
        {
            "region": table.region,
            "score": name,
            "better": challenge.better[name],
            "model": model,
            "mean": float(table.mean[name][m]),
            "low": float(table.low[name][m]),
            "high": float(table.high[name][m]),
            "rank": float(table.ranks[name][m]),
        }
        for table in tables
        for name in table.mean
        for m, model in enumerate(table.models)
    ]
    ranks = [
        {
            "region": table.region,
            "model": model,
            "official": nan if table.official is None else float(table.official[m]),
            **{name: float(own[m]) for name, own in table.ranks.items()},
        }
        for table in tables
        for m, model in enumerate(table.models)
    ]
    pairs = [{"region": table.region, **asdict(pair)} for table in tables for pair in table.pairs]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "comparison.csv", rows, list(rows[0]))
    write_table(folder / "ranks.csv", ranks, list(ranks[0]))
    write_table(folder / "pairs.csv", pairs, ["region", *Pair.__dataclass_fields__])
