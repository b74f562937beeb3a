"""Members of an ensemble as they are typed."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from math import inf
from pathlib import Path

from nnunet_instance_trainers.ensembling.ensemble_plan import ALL, EnsemblePlan, Member
from nnunet_instance_trainers.errors import UserError

__all__ = ["read_members", "read_plan", "read_predictions"]

MM2_PER_ML = 1000.0
"""A 2D image counts as 1 mm thick."""

Folders = dict[str, tuple[Path, ...]]

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+"
_RANGE = re.compile(rf"(.*):({_NUMBER})?-({_NUMBER})?")


def read_plan(options: Namespace) -> tuple[EnsemblePlan, Folders]:
    """What the options of ``nnunet-instance ensemble`` say.

    Raises:
        UserError: options do not go together, or one is odd.
    """
    if options.config is not None:
        for name in ("vote", "rescue", "gaps", "connectivity", "min_volume_ml", "min_area_mm2"):
            if getattr(options, name) not in (None, False):
                raise UserError(f"--{name.replace('_', '-')} is said by the file of --config: leave it away")
        return EnsemblePlan.read(options.config), read_predictions(options.predictions)
    if options.predictions:
        raise UserError("--predictions belongs to --config: give folders with -m")
    areas = options.member_mm2 is not None
    if options.min_volume_ml is not None and areas:
        raise UserError("--min-volume-ml does not go with --member-mm2: use --min-area-mm2")
    if options.min_area_mm2 is not None and not areas:
        raise UserError("--min-area-mm2 goes with --member-mm2 only: use --min-volume-ml")
    least = (options.min_area_mm2 if areas else options.min_volume_ml) or 0.0
    per_ml = MM2_PER_ML if areas else 1.0
    members, folders = read_members(options.member_mm2 if areas else options.member_ml, per_ml=per_ml)
    plan = EnsemblePlan(
        {ALL: members},
        options.rescue,
        options.vote,
        options.gaps,
        options.connectivity or 26,
        min_volume_ml={ALL: least / per_ml},
    )
    return plan, folders


def read_members(options: Sequence[Sequence[str]], *, per_ml: float = 1.0) -> tuple[list[Member], Folders]:
    """Members and the folders of each model, from ``[["A:0-0.05"], ["B_fold0", "B_fold1", ":0.05-"]]``.

    Args:
        options: for each member folders, and after the last a colon and a range, which may be a word of its own.
        per_ml: typed units in a mL; 1,000 for mm^2.

    Raises:
        UserError: what is typed is neither a folder nor a range.

    Example:
        >>> members, folders = read_members([["A:0-0.05"], ["B:0.05-"]])
        >>> members
        [Member(name='A', low_ml=0.0, high_ml=0.05), Member(name='B', low_ml=0.05, high_ml=inf)]
    """
    read = [_member(list(words)) for words in options]
    names = _names([folders for folders, _ in read])
    members = [Member(names[folders], low / per_ml, high / per_ml) for folders, (low, high) in read]
    return members, {name: folders for folders, name in names.items()}


def read_predictions(options: Sequence[str]) -> Folders:
    """The folders of each model from ``["A=DIR", "B=FOLD0", "B=FOLD1"]``.

    Raises:
        UserError: one is not NAME=DIR.
    """
    folders: Folders = {}
    for option in options:
        name, equals, folder = option.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--predictions takes NAME=DIR, such as A=predictions_of_A, got {option!r}")
        folders[name] = (*folders.get(name, ()), Path(folder))
    return folders


def _member(words: list[str]) -> tuple[tuple[Path, ...], tuple[float, float]]:
    last, range_ = words[-1], (0.0, inf)
    match = _RANGE.fullmatch(last)
    if match:
        range_ = float(match[2] or 0), float(match[3] or inf)
        words = [*words[:-1], *([match[1]] if match[1] else [])]
    elif ":" in last and not Path(last).exists():
        raise UserError(f"-m {last!r}: after the colon comes a range such as 0-0.05 or 0.05-")
    if not words:
        raise UserError(f"-m {last!r}: before the colon comes a folder")
    return tuple(map(Path, words)), range_


def _names(models: Sequence[tuple[Path, ...]]) -> dict[tuple[Path, ...], str]:
    """Short names: that of the folder, with folds that of the folder above them, and where two agree the whole path."""
    whole = {folders: folders[0] if len(folders) == 1 else folders[0].parent for folders in models}
    short = {folders: path.resolve().name for folders, path in whole.items()}
    often = Counter(short.values())
    names = {folders: name if often[name] == 1 else str(whole[folders]) for folders, name in short.items()}
    if len(set(names.values())) < len(names):
        names = {folders: " ".join(map(str, folders)) for folders in names}
    return names
