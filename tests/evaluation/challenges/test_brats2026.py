from __future__ import annotations

from functools import partial
from math import isnan

import numpy as np
import pytest
from challenge_values import OfficialValues, needs_golden

from nnunet_instance_trainers.evaluation.challenges.brats2026 import (
    brats2026_mets,
    brats2026_tasks,
    panoptica_lesions,
)
from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES
from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair
from nnunet_instance_trainers.evaluation.challenges.results import Outcome, summarise

PARSERS = {
    "mets_vol27_overlap0.2": CHALLENGES["brats-mets-2026"].score,
    "mets_vol20_overlap0.1": partial(brats2026_mets, large_mm3=20, dice=0.1),
    "seg": CHALLENGES["brats-tasks-2026"].score,
}
SURFACES = ("hd95", "nsd")


@needs_golden
@pytest.mark.parametrize("parser", PARSERS)
def test_scores_equal_brats_evaluation_0_0_10(organisers: OfficialValues, parser: str) -> None:
    organisers.compare(organisers.read("brats2026")["values"][parser], PARSERS[parser], least=330, surfaces=SURFACES)


@needs_golden
@pytest.mark.heavy
@pytest.mark.parametrize("parser", ["mets_vol27_overlap0.2", "seg"])
def test_mean_deviation_and_median_equal_the_official_summary(organisers: OfficialValues, parser: str) -> None:
    challenge = CHALLENGES["brats-mets-2026" if parser != "seg" else "brats-tasks-2026"]
    rows = [
        Outcome(name, "ET", True, True, challenge.score(pair))
        for name, pair in organisers.pairs.items()
        if name.startswith("lit")
    ]
    own = summarise(challenge, rows, [])["regions"]["ET"]
    official = organisers.read("brats2026")["values"][parser]
    for statistic, row in (("official", "mean"), ("std", "std"), ("median", "median")):
        for name, value in official[row].items():
            expected = np.nan if value is None else value
            assert own[statistic][name] == pytest.approx(expected, abs=1e-4, nan_ok=True), (row, name)


@needs_golden
def test_lesions_equal_panoptica_2_1_7(organisers: OfficialValues) -> None:
    for case, official in organisers.read("brats2026")["panoptica_et"].items():
        pair = organisers.pairs[case]
        rows = panoptica_lesions(pair, pair.spacing[::-1])
        matched = sorted(row for row in rows if row is not None)
        assert (len(rows), len(matched)) == (official["n_ref_instances"], official["tp"]), case
        expected = [one for one in official.get("reference_instances", []) if one["is_matched"]]
        values = sorted((one["sq_dsc"], one["sq_hd95"], one["sq_nsd"]) for one in expected)
        for own, value in zip(matched, values, strict=True):
            assert own == pytest.approx(value, abs=1e-4), case
        scores = brats2026_tasks(pair)
        for score in ("dsc", "hd95", "nsd"):
            mean = scores[f"lesionwise_{score}_mean"]
            assert mean == pytest.approx(official[f"sq_{score}"], abs=1e-4, nan_ok=True), (case, score)


def block(*edges: int) -> np.ndarray:
    mask = np.zeros((8, 8, 16), bool)
    for k, edge in enumerate(edges):
        mask[:edge, :edge, 8 * k : 8 * k + edge] = True
    return mask


def test_right_spacing_beside_the_official_one() -> None:
    target, prediction = block(4), np.roll(block(4), 1, axis=0)
    scores = brats2026_mets(MaskPair.of(target, prediction, (5.0, 1.0, 1.0)), large_mm3=27, dice=0.2)
    assert scores["lesionwise_hd95_mean"] == 1 and scores["lesionwise_hd95_mean_right_spacing"] == 5
    assert scores["global_hd95"] == 1 and scores["global_hd95_right_spacing"] == 5


def test_a_false_component_counts_against_large_and_small_lesions() -> None:
    scores = brats2026_mets(MaskPair.of(block(4, 0), block(4, 2), (1.0, 1.0, 1.0)), large_mm3=27, dice=0.2)
    assert (scores["large_instance_fp"], scores["small_instance_fp"]) == (1, 1)
    assert scores["lesionwise_hd95_mean"] == 373 / 2


def test_without_large_lesions_there_is_no_score() -> None:
    scores = brats2026_mets(MaskPair.of(block(2), block(2), (1.0, 1.0, 1.0)), large_mm3=27, dice=0.2)
    assert isnan(scores["lesionwise_dsc_mean"]) and scores["all_instance_f1"] == 1
