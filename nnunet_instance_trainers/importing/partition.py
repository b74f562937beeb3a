"""Which cases are the test part, and folds that keep a patient's cases together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.errors import UserError

__all__ = ["choose_test", "find_patients", "make_folds"]

_FOLDS = 5  # nnU-Net's


def find_patients(cases: Sequence[str], pattern: str | None) -> dict[str, str]:
    """The patient of each case: what the first group of a regular expression, or all of it, finds in its name.

    Raises:
        UserError: the expression is wrong, or a name does not match.

    Example:
        >>> find_patients(["P1_a", "P1_b", "P2_a"], r"(P\\d+)_")
        {'P1_a': 'P1', 'P1_b': 'P1', 'P2_a': 'P2'}
    """
    if pattern is None:
        return {case: case for case in cases}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--patient {pattern!r} is no regular expression ({error}): correct it") from None
    matches = {case: expression.search(case) for case in cases}
    patients = {}
    for case, match in matches.items():
        if match is None:
            raise UserError(f"--patient {pattern!r} does not match case {case!r}: correct it, or rename the case")
        patients[case] = match[1] if expression.groups else match[0]
    return patients


def choose_test(patients: Mapping[str, str], wanted: Sequence[str]) -> set[str]:
    """The cases of the test part.

    Args:
        patients: of each case.
        wanted: names or patterns such as ``val_*``; or one file with a name in each line; or one number between 0 and
            1, the share of the patients that is drawn, the same ones each time.

    Raises:
        UserError: a name fits no case, nothing is left for training, or a patient would be in both parts.
    """
    chosen: set[str] = set()
    if len(wanted) == 1 and re.fullmatch(r"0?\.\d+", wanted[0]):
        names = sorted(set(patients.values()))
        drawn = np.random.default_rng(0).permutation(names)[: max(round(float(wanted[0]) * len(names)), 1)]
        chosen = {case for case, patient in patients.items() if patient in set(drawn.tolist())}
    else:
        lines = Path(wanted[0]).read_text(encoding="utf-8-sig").split("\n") if _is_list(wanted) else wanted
        for pattern in filter(None, map(str.strip, lines)):
            fitting = {case for case in patients if fnmatchcase(case, pattern)}
            if not fitting:
                raise UserError(f"--test {pattern!r} fits no case: cases are {', '.join(sorted(patients)[:3])} ...")
            chosen |= fitting
    if len(chosen) == len(patients):
        raise UserError("--test takes all cases, and none is left for training: choose fewer")
    torn = {patients[case] for case in chosen} & {patient for case, patient in patients.items() if case not in chosen}
    if torn:
        raise UserError(f"patient {min(torn)!r} would be in both parts: name all of the patient's cases with --test")
    return chosen


def _is_list(wanted: Sequence[str]) -> bool:
    return len(wanted) == 1 and Path(wanted[0]).is_file()


def make_folds(patients: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """nnU-Net's ``splits_final.json``, each patient in one fold's validation, as equal in cases as that allows.

    Raises:
        UserError: there are fewer than two patients.
    """
    from sklearn.model_selection import GroupKFold

    cases = sorted(patients)
    n = len(set(patients.values()))
    if n < 2:
        raise UserError(
            f"--patient finds {n} patient in the training part, and folds need two: correct it, or leave it away"
        )
    folds = GroupKFold(min(_FOLDS, n)).split(cases, groups=[patients[case] for case in cases])
    return [{"train": [cases[i] for i in train], "val": [cases[i] for i in val]} for train, val in folds]
