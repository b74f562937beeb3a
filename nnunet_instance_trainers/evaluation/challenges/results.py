"""The files of a folder scored by a challenge's rules, ``scores.csv`` and ``challenge.json``, and what they sum up.

The summary is written last and removed first, so a folder that has one is whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.text_files import read_json, read_table
from nnunet_instance_trainers.data.text_tables import write_table
from nnunet_instance_trainers.errors import UserError, writing
from nnunet_instance_trainers.evaluation.challenges.challenge import Challenge, Scores
from nnunet_instance_trainers.evaluation.challenges.declarations import find_challenge

__all__ = ["Outcome", "Result", "check_challenge_output", "is_result", "read_result", "summarise", "write_result"]

_TABLE, _SUMMARY = "scores.csv", "challenge.json"
_AGAIN = "run 'nnunet-instance challenge' again"


@dataclass(frozen=True)
class Outcome:
    """The scores of one case and region, and whether there is anything in target and prediction."""

    case: str
    region: str
    in_target: bool
    in_prediction: bool
    scores: Scores

    def cells(self) -> dict[str, Any]:
        """A row of the table."""
        return {"case": self.case, "region": self.region, **self.scores}


@dataclass(frozen=True)
class Result:
    """What ``nnunet-instance challenge`` found out about one folder of predictions.

    Attributes:
        name: of the folder that it was read from or written to.
        challenge: by whose rules.
        rows: a row per case and region.
        summary: the contents of ``challenge.json``.
    """

    name: str
    challenge: Challenge
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


def summarise(challenge: Challenge, rows: Sequence[Outcome], missing: Sequence[Outcome]) -> dict[str, Any]:
    """The official averages per region, and what empty and missing cases cost."""
    regions = list(dict.fromkeys(row.region for row in rows))
    kinds = {"target": (False, True), "prediction": (True, False), "both": (False, False)}
    summary: dict[str, Any] = {
        "challenge": challenge.name,
        "equals": challenge.equals,
        "quirks": list(challenge.quirks),
        "averaging": "sums over cases, then the scores" if challenge.pool else "mean over the cases with a value",
        "n_cases": len({row.case for row in rows}),
        "regions": {},
        "version": __version__,
    }
    for region in regions:
        own = [row for row in rows if row.region == region]
        lacking = [row for row in missing if row.region == region]
        table = [row.scores for row in own]
        summary["regions"][region] = {
            "official": average(challenge, table),
            "std": _over(np.std, table, ddof=1),
            "median": _over(np.median, table),
            "empty": {
                kind: {
                    "cases": [row.case for row in chosen],
                    "official": average(challenge, [r.scores for r in chosen]),
                }
                for kind, flags in kinds.items()
                if (chosen := [row for row in own if (row.in_target, row.in_prediction) == flags])
            },
            "missing": {
                "cases": [row.case for row in lacking],
                "official_if_they_were_empty": average(challenge, table + [row.scores for row in lacking]),
            }
            if lacking
            else {},
        }
    official = [own["official"] for own in summary["regions"].values()]
    summary["official"] = _over(np.mean, official)
    return summary


def average(challenge: Challenge, rows: Sequence[Scores]) -> Scores:
    """The official average of the rows of one region: over the cases that have a value, or of summed counts."""
    means = _over(np.mean, rows)
    if challenge.pool is None:
        return means
    sums = {name: float(np.nansum([row[name] for row in rows])) for name in means}
    return {**sums, **challenge.pool(sums)}


def _over(function: Any, rows: Sequence[Scores], **options: int) -> Scores:
    """A statistic of each column over its values that are defined."""
    columns = {name: [row[name] for row in rows if not isnan(row[name])] for name in (rows[0] if rows else {})}
    least = options.get("ddof", 0) + 1
    with np.errstate(invalid="ignore"):  # the deviation of infinite distances
        return {
            name: float(function(values, **options)) if len(values) >= least else float("nan")
            for name, values in columns.items()
        }


# --- files ---------------------------------------------------------------------------------------------------


def check_challenge_output(folder: Path) -> None:
    """Refuse a folder that holds an evaluation or somebody else's summary.

    Raises:
        UserError: it does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder with -o")
    if (folder / "summary.json").exists():
        raise UserError(f"{folder} holds an evaluation: give another folder with -o")


def write_result(folder: Path, result: Result) -> None:
    """Write the table and then the summary; what an earlier run left is replaced."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SUMMARY).unlink(missing_ok=True)
    write_table(folder / _TABLE, result.rows, list(result.rows[0]))
    with write_atomically(folder / _SUMMARY) as temporary:
        temporary.write_text(json.dumps(result.summary, indent=4))


def is_result(folder: Path) -> bool:
    """Whether a folder was written by ``challenge``."""
    return (folder / _SUMMARY).is_file()


def read_result(folder: Path) -> Result:
    """Read what ``challenge`` wrote.

    Raises:
        UserError: the folder was not written by it, or a file of it is damaged.
    """
    if not is_result(folder):
        raise UserError(f"{folder} was not written by 'nnunet-instance challenge': run it with -o {folder}")
    summary = read_json(folder / _SUMMARY, _AGAIN)
    if not isinstance(summary.get("challenge"), str):
        raise UserError(f"{folder / _SUMMARY} is damaged: {_AGAIN}")
    challenge = find_challenge(summary["challenge"])
    rows = read_table(folder / _TABLE, _AGAIN)
    columns = {"case", "region", *challenge.better}
    if not rows or not columns <= rows[0].keys():
        raise UserError(f"{folder / _TABLE} is damaged: {_AGAIN}")
    try:
        values = [
            {name: cell if name in ("case", "region") else float(cell or "nan") for name, cell in row.items()}
            for row in rows
        ]
    except ValueError as error:
        raise UserError(f"{folder / _TABLE} is damaged ({error}): {_AGAIN}") from None
    return Result(folder.resolve().name, challenge, values, summary)
