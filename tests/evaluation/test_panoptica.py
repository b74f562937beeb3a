"""Scores of real masks against panoptica's, frozen by scripts/freeze_panoptica.py with version and command."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path

import pytest
from altered_masks import ALTERATIONS, altered_masks

from nnunet_instance_trainers.evaluation import Counts, Rule, detect

FROZEN = json.loads(Path(__file__).with_name("panoptica.json").read_text())["scores"]


def test_scores_equal_panopticas(shared_data: Path) -> None:
    seen = []
    for name, target, prediction in altered_masks(shared_data):
        for setting, expected in FROZEN[name].items():
            match, threshold = setting.split()
            counts = detect(target, prediction, rule=Rule(match, float(threshold))).counts
            if expected["tp"] == 0:  # a mean over nothing, which panoptica calls 0
                expected = {**expected, "sq_iou": nan, "sq_dice": nan}
            assert scores(counts) == pytest.approx(expected, abs=1e-8, nan_ok=True), f"{name}, {setting}"
        seen.append(name)
    assert seen == list(FROZEN)


def scores(counts: Counts) -> dict[str, float]:
    quality = {name: getattr(counts, name) for name in ("rq", "sq_iou", "pq_iou", "sq_dice", "pq_dice")}
    return {"tp": counts.found, "fp": counts.false, "fn": counts.missed, **quality}


def test_the_frozen_masks_are_no_easy_ones() -> None:
    """Every alteration is there, and every setting has matches, misses and false ones, and tells masks apart."""
    assert {name.split()[1] for name in FROZEN} == {alter.__name__ for alter in ALTERATIONS}
    for setting in ("iou 0.5", "iou 0.2", "dice 0.5", "dice 0.7"):
        rows = [settings[setting] for settings in FROZEN.values()]
        assert sum(min(row["tp"], row["fp"], row["fn"]) > 0 for row in rows) > len(rows) / 2
        assert len({row["pq_dice"] for row in rows}) > 0.8 * len(rows)
