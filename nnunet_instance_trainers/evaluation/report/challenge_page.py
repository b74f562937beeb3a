"""Results of a challenge in the same HTML page: official averages, ranking and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.evaluation.challenges.challenge import Challenge
from nnunet_instance_trainers.evaluation.challenges.challenge_comparison import (
    ChallengeTable,
    compare_results,
    read_results,
)
from nnunet_instance_trainers.evaluation.challenges.results import Result
from nnunet_instance_trainers.evaluation.comparing.evaluated_models import parse_pairs
from nnunet_instance_trainers.evaluation.report.page import check_file, render, write_page
from nnunet_instance_trainers.evaluation.report.tables import number

__all__ = ["challenge_report", "write_challenge_report"]


def write_challenge_report(folders: Sequence[Path], file: Path, pairs: Sequence[str] | None = None) -> None:
    """Compare results of one challenge and write the report.

    Args:
        folders: what ``challenge`` wrote, one per model.
        file: the HTML file.
        pairs: "A:B" models to test; None tests each against the first.

    Raises:
        UserError: the folders do not fit together.
    """
    check_file(file)
    results = read_results(folders)
    chosen = None if pairs is None else parse_pairs(pairs, folders, [result.name for result in results])
    write_page(file, challenge_report(results, compare_results(results, chosen)))


def challenge_report(results: Sequence[Result], tables: Sequence[ChallengeTable]) -> str:
    """The page as text; arguments as :func:`compare_results` takes and returns them."""
    challenge, names = results[0].challenge, tables[0].models
    return render(
        title=challenge.title,
        subtitle=f"{results[0].summary['n_cases']} cases, {len(names)} model(s). Equals {challenge.equals}.",
        order=_order(tables[0]),
        warnings=[],
        tables=[_rows(challenge, table) for table in tables],
        resamples=2000,
        ranks_of="ranking",
        ranks=[("official", "↓")] if tables[0].official is not None else [],
        challenge=" ".join(f"{quirk[0].upper()}{quirk[1:]}." for quirk in challenge.quirks) or challenge.scored,
        rule="",
        pairs=_pairs(tables[0]),
        pairs_of=tables[0].region if len(tables) > 1 else "",
        sections=[],
        settings=[
            (f"predictions of {name}", own.summary["settings"]["predictions"]) for name, own in zip(names, results)
        ]
        + [
            ("challenge", f"{challenge.name}, {challenge.link}"),
            ("nnunet-instance-trainers", results[0].summary["version"]),
        ],
    )


def _order(table: ChallengeTable) -> list[tuple[str, str]]:
    """The models by the official ranking, with its number; empty without."""
    if table.official is None or len(table.models) < 2:
        return []
    return [(table.models[m], f"{table.official[m]:.2f}") for m in np.argsort(table.official, kind="stable")]


def _rows(challenge: Challenge, table: ChallengeTable) -> dict[str, Any]:
    """One region as the template takes tables."""
    several = len(table.models) > 1
    official = [] if table.official is None else [table.official]
    return {
        "heading": table.region,
        "groups": [("official scores", len(challenge.better))],
        "columns": [
            {"name": name, "better": {"higher": "↑", "lower": "↓"}[way], "edge": k == 0}
            for k, (name, way) in enumerate(challenge.better.items())
        ],
        "rows": [
            {
                "model": model,
                "mean_ranks": [
                    {"text": number(own[m], 2), "best": several and own[m] == np.nanmin(own)} for own in official
                ],
                "cells": [_cell(table, name, m, k == 0, several) for k, name in enumerate(challenge.better)],
            }
            for m, model in enumerate(table.models)
        ],
        "note": "",
    }


def _cell(table: ChallengeTable, name: str, m: int, edge: bool, several: bool) -> dict[str, Any]:
    low, high, rank = table.low[name][m], table.high[name][m], table.ranks[name][m]
    return {
        "text": number(table.mean[name][m], 4),
        "interval": "" if isnan(low) else f"{number(low, 2)}\N{EN DASH}{number(high, 2)}",
        "rank": f"{rank:.0f}" if several and not isnan(rank) else "",
        "best": several and rank == 1,
        "edge": edge,
    }


def _pairs(table: ChallengeTable) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for pair in table.pairs:
        rows.setdefault(f"{pair.first} \N{MINUS SIGN} {pair.second}", []).append(
            {
                "score": pair.score,
                "difference": number(pair.difference, 4, "+"),
                "interval": "\N{EN DASH}"
                if isnan(pair.low)
                else f"{number(pair.low, 3, '+')} to {number(pair.high, 3, '+')}",
                "cases": pair.cases,
                "p": number(pair.p, 3),
                "p_holm": number(pair.p_holm, 3),
                "significant": pair.p_holm < 0.05,
            }
        )
    return rows
