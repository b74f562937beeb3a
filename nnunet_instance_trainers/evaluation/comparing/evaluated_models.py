"""Evaluated models that are to be compared: read, named, and checked to be comparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.counts import DETECTION, SCORES
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation, bin_names, read_evaluation

__all__ = ["parse_pairs", "read_models"]

_SAME_SETTINGS = ("match", "threshold", "connectivity", "minimum_ml", "bins_ml")


def read_models(folders: Sequence[Path]) -> list[Evaluation]:
    """Read what ``evaluate`` wrote for several models, named by the shortest ends of their paths that differ.

    Raises:
        UserError: a folder was not written by it, or is given twice; the models were evaluated on different cases,
            classes or references, or with different settings.
    """
    paths = [folder.resolve() for folder in folders]
    twice = sorted({str(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise UserError(f"{twice[0]} is given twice: name each evaluated folder once")
    ends = next(k for k in range(1, 99) if len({path.parts[-k:] for path in paths}) == len(paths))
    models = [replace(_read_whole(path), name="/".join(path.parts[-ends:])) for path in paths]
    _check_cases(models)
    _check_settings(models)
    return models


def parse_pairs(texts: Iterable[str], folders: Sequence[Path], models: Sequence[str]) -> list[tuple[str, str]]:
    """``["A:B"]`` as pairs of models, which may be called by their names or as their folders were typed.

    Raises:
        UserError: no such pair.
    """
    known = {
        f"{first}:{second}": (one, other)
        for (typed, one), (beside, other) in permutations(zip(map(str, folders), models), 2)
        for first, second in product((one, typed), (other, beside))
    }
    unknown = [text for text in texts if text not in known]
    if unknown:
        raise UserError(f"--pairs {unknown[0]!r} is not MODEL:MODEL with two of the models {', '.join(models)}")
    return [known[text] for text in texts]


def _read_whole(folder: Path) -> Evaluation:
    """What ``evaluate`` wrote, with every column and setting that is asked for later."""
    model = read_evaluation(folder)
    settings, columns = model.summary["settings"], {"case", "class"}
    whole = isinstance(settings, dict) and isinstance(settings.get("classes"), dict)
    whole = whole and isinstance(model.summary.get("metric_per_case"), list)
    tables = (model.cases, columns | {*SCORES}), (model.sizes, columns | {"bin", *DETECTION})
    whole = whole and all(not rows or own <= rows[0].keys() for rows, own in tables)
    if not whole or not {row["bin"] for row in model.sizes} <= _bins(settings):
        raise UserError(f"{folder} is damaged: run 'nnunet-instance evaluate' again")
    return model


def _bins(settings: Mapping[str, Any]) -> set[str]:
    try:
        return set(bin_names(settings["bins_ml"]))
    except (KeyError, IndexError, TypeError):
        return set()


def _check_cases(models: Sequence[Evaluation]) -> None:
    rows = [{(str(row["case"]), str(row["class"])): row for row in model.cases} for model in models]
    everything = set().union(*rows)
    if not everything:
        raise UserError(f"{models[0].name} has no cases: evaluate a folder with predictions")
    lacking = [_lacking(model.name, everything - set(own), own) for model, own in zip(models, rows)]
    if any(lacking):
        raise UserError(
            f"the models were not evaluated on the same cases and classes: {'; '.join(filter(None, lacking))}; "
            "evaluate the same cases with each"
        )
    for key in sorted(everything):
        for model, own in zip(models[1:], rows[1:]):
            if own[key]["instances"] != rows[0][key]["instances"]:
                raise UserError(
                    f"case {key[0]!r}, class {key[1]} has {rows[0][key]['instances']} instances for {models[0].name} "
                    f"and {own[key]['instances']} for {model.name}: evaluate both with the same references"
                )


def _lacking(model: str, missing: set[tuple[str, str]], own: Mapping[tuple[str, str], Any]) -> str:
    """What a model lacks, in words: whole cases by name, else classes of cases; a few, and how many more."""
    if not missing:
        return ""
    known = {case for case, _ in own}
    words = dict.fromkeys(case if case not in known else f"class {label} of {case}" for case, label in sorted(missing))
    first = list(words)[:3]
    return f"{model} lacks {', '.join(first)}" + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _check_settings(models: Sequence[Evaluation]) -> None:
    settings = [model.summary.get("settings", {}) for model in models]
    for model, own in zip(models[1:], settings[1:]):
        for key in _SAME_SETTINGS:
            if own.get(key) != settings[0].get(key):
                raise UserError(
                    f"{models[0].name} was evaluated with {key} {settings[0].get(key)} and {model.name} with "
                    f"{own.get(key)}: evaluate them alike"
                )
