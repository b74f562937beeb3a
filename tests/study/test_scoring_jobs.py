from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_instance_trainers.evaluation.detection import Rule
from nnunet_instance_trainers.study import scoring_jobs


@pytest.mark.parametrize(
    "options, rule, bins",
    [
        ({}, Rule(), scoring_jobs.BINS_ML),
        (
            {"match": "iou", "threshold": 0.3, "connectivity": 6, "minimum_ml": 0.01, "bins_ml": (0.1, 1)},
            Rule("iou", 0.3, 6, 0.01),
            (0.1, 1),
        ),
    ],
)
def test_the_options_of_a_study_reach_its_scores(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], rule: Rule, bins: tuple[float, ...]
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(scoring_jobs, "evaluate_folder", lambda *folders, **given: seen.update(given))
    monkeypatch.setattr(scoring_jobs, "ground_truth", lambda study: Path("labels"))
    folders = SimpleNamespace(predictions=lambda study: Path("predictions"), scores=lambda study: Path("scores"))
    monkeypatch.setattr(scoring_jobs, "Training", lambda: folders)
    study: Any = SimpleNamespace(evaluation=options, instances=None, raw=Path("raw"), test=None)
    scoring_jobs.evaluate(study, {}, {"training": {}}, 1)
    assert (seen["rule"], seen["bins_ml"]) == (rule, bins)
