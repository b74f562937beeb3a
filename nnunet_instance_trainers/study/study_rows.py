"""What a study found, as ``study.csv`` holds it: a row per arm, seed, fold, case, class and size with its scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.data.text_files import read_table
from nnunet_instance_trainers.data.text_tables import write_table
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.counts import DETECTION, SCORES
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation

__all__ = ["ANY_SIZE", "Outcomes", "read_outcomes", "rows_of", "write_outcomes"]

ANY_SIZE = "all"
"""What stands for a case's scores over all sizes in the column ``size``, which else names a bin in mL."""

_KEYS = ("arm", "seed", "fold", "case", "class", "size")
_LEFT_OUT = {"fnr", "fdr", "rq", "sq_iou", "sq_dice", "lesion_dice_found", "volume_difference_percent"}
_COLUMNS = (*_KEYS, *(name for name in SCORES if name not in _LEFT_OUT))


@dataclass(frozen=True)
class Outcomes:
    """Rows of the arms and seeds that are compared: those with all folds.

    Attributes:
        arms: in the order of the study.
        seeds: those that every arm has.
        models: one per arm and seed, arm by arm, with a row per case and class, and per case, class and size.
        cases, classes, sizes: names in their order.
        fold_of: (N) of each case the index of its fold.
        left_out: what the comparison is without, in words.
    """

    arms: list[str]
    seeds: list[int]
    models: list[Evaluation]
    cases: list[str]
    classes: list[str]
    sizes: list[str]
    fold_of: np.ndarray
    left_out: list[str]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], reference: str) -> Outcomes:
        """Choose arms and seeds from all rows: arms that have a whole seed, and of these the seeds that all have.

        Raises:
            UserError: no arm has a seed with all folds.
        """
        folds = sorted({row["fold"] for row in rows})
        there: dict[str, dict[int, set[str]]] = {}
        for row in rows:
            there.setdefault(row["arm"], {}).setdefault(row["seed"], set()).add(row["fold"])
        whole = {arm: {seed for seed, own in seeds.items() if len(own) == len(folds)} for arm, seeds in there.items()}
        kept = [arm for arm in there if whole[arm]]
        while kept and not set.intersection(*(whole[arm] for arm in kept)):
            kept.remove(min((arm for arm in kept if arm != reference), key=lambda arm: len(whole[arm])))
        if not kept:
            raise UserError("no arm has a seed with all of its folds, so nothing can be compared yet")
        seeds = sorted(set.intersection(*(whole[arm] for arm in kept)))
        left_out = [f"arm {arm}, which has no seed with all folds" for arm in there if arm not in kept]
        left_out += [
            f"seed {seed} of {arm}, which not every arm has"
            for arm in kept
            for seed in sorted(there[arm].keys() - set(seeds))
        ]
        chosen = [row for row in rows if row["arm"] in kept and row["seed"] in seeds]
        fold_of = {row["case"]: folds.index(row["fold"]) for row in chosen}
        cases = sorted(fold_of)
        return cls(
            arms=kept,
            seeds=seeds,
            models=_models(chosen, kept, seeds),
            cases=cases,
            classes=list(dict.fromkeys(row["class"] for row in chosen)),
            sizes=[size for size in dict.fromkeys(row["size"] for row in chosen) if size != ANY_SIZE],
            fold_of=np.unique([fold_of[case] for case in cases], return_inverse=True)[1],
            left_out=left_out,
        )

    def patients(self, pattern: str) -> np.ndarray:
        """(N) of each case the index of its patient: cases in whose names the pattern matches the same part.

        Raises:
            UserError: it does not match a case's name.
        """
        names = []
        for case in self.cases:
            match = re.search(pattern, case) if pattern else None
            if pattern and match is None:
                raise UserError(f"'patients' {pattern!r} does not match the name of case {case!r}: correct it")
            names.append(match[0] if match else case)
        return np.unique(names, return_inverse=True)[1]

    def by_seed(self, array: np.ndarray) -> np.ndarray:
        """(A * S, N, ...) of the models as (A, S, N, ...)."""
        return array.reshape(len(self.arms), len(self.seeds), *array.shape[1:])


def _models(rows: Iterable[Mapping[str, Any]], arms: Sequence[str], seeds: Sequence[int]) -> list[Evaluation]:
    parts: dict[tuple[str, int], tuple[list, list]] = {(arm, seed): ([], []) for arm in arms for seed in seeds}
    for row in rows:
        cases, sizes = parts[row["arm"], row["seed"]]
        (cases if row["size"] == ANY_SIZE else sizes).append({**row, "bin": row["size"]})
    return [Evaluation(f"{arm}, seed {seed}", *own, [], {}) for (arm, seed), own in parts.items()]


def rows_of(evaluation: Evaluation, training: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one training's evaluated folder."""
    key = {"arm": training["arm"], "seed": training["seed"], "fold": str(training["fold"])}
    return [{**key, **row, "size": ANY_SIZE} for row in evaluation.cases] + [
        {**key, **row, "size": row["bin"]} for row in evaluation.sizes
    ]


def write_outcomes(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``study.csv``; rows of a size have fewer scores."""
    write_table(file, ({name: row.get(name, "") for name in _COLUMNS} for row in rows), _COLUMNS)


def read_outcomes(file: Path) -> list[dict[str, Any]]:
    """The rows of ``study.csv``.

    Raises:
        UserError: it cannot be read or is none.
    """
    rows = read_table(file, "run 'nnunet-instance study' again")
    if not rows or not {*_KEYS, *DETECTION} <= rows[0].keys():
        raise UserError(f"{file} is no study.csv: run 'nnunet-instance study' again")
    numbers = [name for name in rows[0] if name not in _KEYS]
    return [{**row, "seed": int(row["seed"]), **{name: float(row[name] or "nan") for name in numbers}} for row in rows]
