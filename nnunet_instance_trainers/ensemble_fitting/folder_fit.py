"""An ensemble fitted to cross-validation predictions in nnU-Net's folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.data.case_workers import over_cases
from nnunet_instance_trainers.ensemble_fitting.bin_search import Space, size_edges
from nnunet_instance_trainers.ensemble_fitting.count_table import Choices, Table
from nnunet_instance_trainers.ensemble_fitting.cross_validation import Models, find_cases, list_case
from nnunet_instance_trainers.ensemble_fitting.nested_fit import Fit, fit
from nnunet_instance_trainers.ensemble_fitting.object_lists import ObjectLists
from nnunet_instance_trainers.ensemble_fitting.score_intervals import Estimate
from nnunet_instance_trainers.ensembling.ensemble_plan import EnsemblePlan, Member
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.detection import OVERLAP, Rule

__all__ = ["PEAKS", "Fitted", "fit_ensemble", "make_plan"]

PEAKS = (0.5, 0.7, 0.8, 0.9, 0.95)
"""Candidates for the probability that a peak must exceed."""


@dataclass(frozen=True)
class Fitted:
    """A fit to folders.

    Attributes:
        models: the candidates.
        fit: what was found.
        plan: the same as the file that ``ensemble --config`` takes.
        keys, names: of the classes.
        cases: in the order of ``lists``.
        lists: of each case and class.
        space: what could be chosen.
        rule, score: how it was scored.
        unsaved: files whose absence kept hysteresis from being tried.
    """

    models: Models
    fit: Fit
    plan: EnsemblePlan
    keys: tuple[str, ...]
    names: tuple[str, ...]
    cases: tuple[str, ...]
    lists: list[list[ObjectLists]]
    space: Space
    rule: Rule
    score: str
    unsaved: tuple[Path, ...] = ()


def fit_ensemble(
    models: Models,
    output: Path,
    *,
    instances: Path | None = None,
    rule: Rule = OVERLAP,
    score: str = "f1",
    max_bins: int = 3,
    n_processes: int = 1,
) -> Fitted:
    """Choose bins of size and a model for each from the trainers' ``validation`` folders, and write the file.

    Args:
        models: candidates.
        output: the file; its ending is ``.json``.
        instances: folder of annotators' maps; None for components of the ground truth.
        rule: when an instance is found.
        score: what is maximised, one of ``SCORES_TO_FIT``.
        max_bins: the most bins of a class.
        n_processes: worker processes.

    Raises:
        UserError: a model, fold or case is missing, a case cannot be read, or no ground truth has an object.
    """
    if output.suffix != ".json" or output.is_dir() or not output.parent.is_dir():
        raise UserError(f"-o {output} must be a file that ends in .json, in a folder that exists")
    job, fold_of = find_cases(models, instances, rule.connectivity)
    cases = sorted(fold_of)
    results: dict[str, list[ObjectLists]] = {}
    with tqdm(total=len(cases), desc="objects", unit="case") as bar:
        for case, lists in over_cases(list_case, job, cases, n_processes):
            results[case] = lists
            bar.update()
    lists = [results[case] for case in cases]
    if not any(len(part.instance_voxels) for case in lists for part in case):
        raise UserError(
            f"no ground truth in {job.ground_truth} has an object, so nothing can be scored: give a dataset or folds "
            "that have some"
        )
    n_models, classes = len(models.trainers), job.labels.classes
    volumes = np.concatenate([part.volumes_ml[part.source < n_models] for case in lists for part in case])
    space = Space(n_models, size_edges(volumes), max_bins, job.lows, PEAKS if job.lows else ())
    fitted = fit(
        Table(lists, rule, score),
        space,
        _groups(np.array([fold_of[case] for case in cases])),
        models.trainers,
        progress=lambda groups: tqdm(groups, desc="fit", unit="group"),
    )
    keys = tuple(evaluated.key for evaluated in classes)
    summary = _summary(models, fitted, space, rule, score, len(cases))
    result = Fitted(
        models=models,
        fit=fitted,
        plan=make_plan(fitted.choices, keys, models.trainers, space, summary, rule.connectivity),
        keys=keys,
        names=tuple(evaluated.name for evaluated in classes),
        cases=tuple(cases),
        lists=lists,
        space=space,
        rule=rule,
        score=score,
        unsaved=job.unsaved,
    )
    result.plan.write(output)
    return result


def _groups(folds: np.ndarray, n: int = 5) -> np.ndarray:
    """The folds, or where there are fewer than three, up to five groups of neighbouring cases dealt out in turn."""
    return folds if len(np.unique(folds)) > 2 else np.arange(len(folds)) % min(n, len(folds))


def make_plan(
    choices: Choices,
    keys: Sequence[str],
    names: Sequence[str],
    space: Space,
    summary: dict[str, Any],
    connectivity: int = 26,
) -> EnsemblePlan:
    """What ``ensemble`` is to do, from a choice per class."""
    n = space.n_models
    with_peak = {key: choice for key, choice in zip(keys, choices) if choice.sources[0] >= n}
    return EnsemblePlan(
        members={
            key: [Member(names[source % n], low, high) for source, low, high in choice.ranges()]
            for key, choice in zip(keys, choices)
        },
        rescue=any(choice.rescue for choice in choices),
        connectivity=connectivity,
        min_volume_ml={key: choice.min_volume_ml for key, choice in zip(keys, choices)},
        hysteresis={key: (space.lows[c.sources[0] // n - 1], c.peak) for key, c in with_peak.items()},
        fit=summary,
    )


def _summary(models: Models, fitted: Fit, space: Space, rule: Rule, score: str, n_cases: int) -> dict[str, Any]:
    return {
        "dataset": models.dataset,
        "configuration": models.configuration,
        "plans": models.plans,
        "trainers": list(models.trainers),
        "folds": list(models.folds),
        "cases": n_cases,
        "score": score,
        **rule.settings(),
        "edges_ml": list(space.edges_ml),
        "parts": list(fitted.parts),
        "enough_cases": fitted.tells,
        "models": [_estimate(estimate) for estimate in fitted.models],
        "procedures": [_estimate(estimate) for estimate in fitted.procedures.values()],
        "estimate": _estimate(fitted.whole),
        "version": __version__,
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    """NaN, which is no JSON, becomes None."""
    values = {
        "score": estimate.score,
        "interval": list(estimate.interval),
        "gain": estimate.gain,
        "gain_interval": list(estimate.gain_interval),
        **{name: getattr(estimate.counts, name) for name in ("f1", "f1_iou50", "dice", "volume_ratio")},
    }
    clean = json.loads(json.dumps(values), parse_constant=lambda _: None)
    return {"name": estimate.name or "best single model", **clean}
