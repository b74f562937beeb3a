from __future__ import annotations

import numpy as np
import pytest
from challenge_values import OfficialValues, needs_golden

from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES
from nnunet_instance_trainers.evaluation.challenges.map_scores import conic_quality, ctc, dsb2018
from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair
from nnunet_instance_trainers.evaluation.challenges.results import average
from nnunet_instance_trainers.evaluation.detection import Outcome, Rule


def maps(target: list, prediction: list) -> MaskPair:
    """Of two lists of ids in one row."""
    ids = tuple(np.array([[row]]) for row in (target, prediction))
    return MaskPair.of(ids[0] > 0, ids[1] > 0, (1.0, 1.0, 1.0), ids)


@needs_golden
@pytest.mark.parametrize(("name", "least"), [("ctc", 90), ("pannuke", 45), ("conic", 100)])
def test_scores_equal_the_official_code(organisers: OfficialValues, name: str, least: int) -> None:
    # py-ctcmetrics 9865e6f, PanNuke-metrics c00014d, CoNIC c1c4964
    organisers.compare(organisers.read(name)["values"], CHALLENGES[name].score, least=least)


@needs_golden
def test_dsb2018_equals_stardist_0_9_1(organisers: OfficialValues) -> None:
    official = {
        case: {"mean_ap": values["mean_ap"], **{f"ap_{float(t):.2f}": ap for t, ap in values["ap"].items()}}
        for case, values in organisers.read("dsb2018_stardist")["values"].items()
    }
    organisers.compare(official, CHALLENGES["dsb2018"].score, least=165)


@needs_golden
def test_counts_and_qualities_equal_stardist_0_9_1(organisers: OfficialValues) -> None:
    """Through the table and the counts of the evaluation, which the score of the challenge does not give."""
    for case, official in organisers.read("dsb2018_stardist")["values"].items():
        table = organisers.pair(case).objects(26).pairs
        sizes = len(table.instance_voxels), len(table.component_voxels)
        hits = [len(table.match("iou", float(threshold))) for threshold in official["ap"]]
        assert hits == official["tp"]
        assert [sizes[1] - n for n in hits] == official["fp"] and [sizes[0] - n for n in hits] == official["fn"]
        counts = Outcome.of(
            table, Rule("iou", 0.5), voxel_ml=0.001, target_voxels=0, predicted_voxels=0, shared_voxels=0
        ).counts
        assert counts.rq == pytest.approx(official["f1_at_0.5"], abs=1e-6)
        assert counts.pq_iou == pytest.approx(official["panoptic_quality_at_0.5"], abs=1e-6)
        mean_true = counts.matched_iou / counts.instances
        assert mean_true == pytest.approx(official["mean_true_score_at_0.5"], abs=1e-6)


@needs_golden
def test_conic_pools_counts_over_images(organisers: OfficialValues) -> None:
    official = organisers.read("conic")["values"]["pooled_over_all_but_empty"]
    conic = CHALLENGES["conic"]
    rows = [conic.score(pair) for pair in organisers.nuclei.values() if pair.voxels[1]]
    pooled = average(conic, rows)
    names = {"tp": "tp", "fp": "fp", "fn": "fn", "iou_sum": "iou_sum", "pq": "pq_plus"}
    assert official.keys() == set(names.values())
    for own, name in names.items():
        assert pooled[own] == pytest.approx(official[name], abs=1e-6), name
    assert pooled["pq"] != pytest.approx(np.mean([conic_quality(row)["pq"] for row in rows]), abs=1e-3)


def test_ctc_one_component_over_two_objects_is_half_as_bad_as_a_missed_one() -> None:
    joined = ctc(maps([1, 1, 2, 2], [5, 5, 5, 5]))
    assert (joined["NS"], joined["FN"], joined["DET"]) == (1, 0, 1 - 5 / 20)
    assert ctc(maps([1, 1, 2, 2], [5, 5, 0, 0]))["DET"] == 1 - 10 / 20


def test_dsb2018_counts_a_pair_exactly_at_the_threshold() -> None:
    scores = dsb2018(maps([1, 1, 1, 1], [3, 3, 0, 0]))
    assert (scores["ap_0.50"], scores["ap_0.55"]) == (1, 0)
