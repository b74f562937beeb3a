"""The tables of the report as the template takes them: rounded, signed, and with the best marked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from nnunet_instance_trainers.evaluation.comparing.compared_scores import SCORES, Score
from nnunet_instance_trainers.evaluation.comparing.model_comparison import Pair, Table
from nnunet_instance_trainers.evaluation.digits import decimals

__all__ = ["breakable", "number", "pair_rows", "table_rows"]

_NAMES = {
    "dice": "Dice",
    "volume_difference_ml": "volume error, mL",
    "volume_ratio": "volume ratio",
    "f1_iou50": "F1, IoU 0.5",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "lesion_dice": "lesion Dice",
    "missed": "missed",
    "false": "false",
}
_GROUPS = {"global": "global", "": "beside", "instance": "instance level"}
_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def table_rows(table: Table) -> dict[str, Any]:
    """The comparison in one class, a row per model."""
    shown = [score for score in SCORES if score.name in _NAMES]
    edges = {score.name for k, score in enumerate(shown) if k == 0 or shown[k - 1].group != score.group}
    several = len(table.models) > 1
    rows = [
        {
            "model": model,
            "mean_ranks": [
                {
                    "text": number(values[m], 2) if several else _DASH,
                    "best": several and values[m] == np.nanmin(values),
                }
                for values in table.mean_ranks.values()
            ],
            "cells": [_cell(table, score, m, score.name in edges, several) for score in shown],
        }
        for m, model in enumerate(table.models)
    ]
    fewer = [
        f"{_NAMES[score.name]} over {table.counted(score.name)}"
        for score in shown
        if score.kind != "pooled" and table.counted(score.name) < len(table.cases)
    ]
    widths = [(group, sum(score.group == group for score in shown)) for group in dict.fromkeys(s.group for s in shown)]
    return {
        "heading": table.label if table.label.startswith("all") else f"class {table.label}",
        "groups": [(_GROUPS[group], width) for group, width in widths],
        "columns": [
            {"name": _NAMES[score.name], "better": _better(score), "edge": score.name in edges} for score in shown
        ],
        "rows": rows,
        "note": f"Of {len(table.cases)} in all, cases in which a score is defined for every model: {', '.join(fewer)}."
        if fewer
        else "",
    }


def _cell(table: Table, score: Score, m: int, edge: bool, several: bool) -> dict[str, Any]:
    name = score.name
    digits = decimals(table.mean[name], 3 if score.kind == "mean" else 2)
    rank = table.ranks[name][m] if name in table.ranks and several else math.nan
    low, high = table.low[name][m], table.high[name][m]
    of_interval = decimals((low, high))
    return {
        "text": number(table.mean[name][m], digits),
        "interval": "" if math.isnan(low) else f"{number(low, of_interval)}{_DASH}{number(high, of_interval)}",
        "rank": "" if math.isnan(rank) else f"{rank:.0f}",
        "best": rank == 1,
        "edge": edge,
    }


def _better(score: Score) -> str:
    return {"higher": "↑", "lower": "↓"}[score.better] if score.group else "→ 1"


def pair_rows(pairs: Sequence[Pair]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each pair."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        rows.setdefault(f"{pair.first} {_MINUS} {pair.second}", []).append(_pair(pair))
    return rows


def _pair(pair: Pair) -> dict[str, Any]:
    least = 3 if next(score.kind for score in SCORES if score.name == pair.score) == "mean" else 2
    digits = decimals((pair.difference, pair.low, pair.high), least)
    return {
        "score": _NAMES[pair.score],
        "difference": number(pair.difference, digits, "+"),
        "interval": _DASH
        if math.isnan(pair.low)
        else f"{number(pair.low, digits, '+')} to {number(pair.high, digits, '+')}",
        "cases": pair.cases,
        "p": _p(pair.p),
        "p_holm": _p(pair.p_holm),
        "significant": pair.p_holm < 0.05,
    }


def breakable(name: str) -> Markup:
    """A name that may be broken where its words end."""
    return Markup("<wbr>").join(re.split(r"(?<=[a-z]{3})(?=[A-Z])|(?<=[_/])(?![_/])", name))  # join escapes the parts


def number(value: float, digits: int, sign: str = "") -> str:
    """A number with a true minus sign; 0 has none."""
    if math.isnan(value):
        return _DASH
    rounded = round(float(value), digits)
    text = f"{rounded:{sign}.{digits}f}" if rounded else f"{0:.{digits}f}"
    return text.replace("-", _MINUS)


def _p(value: float) -> str:
    return _DASH if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
