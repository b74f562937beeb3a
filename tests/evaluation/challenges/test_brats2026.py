from __future__ import annotations

from dataclasses import replace
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
@pytest.mark.parametrize("parser", PARSERS)
def test_mean_deviation_and_median_equal_the_official_summary(organisers: OfficialValues, parser: str) -> None:
    challenge = replace(CHALLENGES["brats-mets-2026"], score=PARSERS[parser])
    rows = [Outcome(name, "ET", True, True, challenge.score(pair)) for name, pair in organisers.lesions.items()]
    own = summarise(challenge, rows, [])["regions"]["ET"]
    official = organisers.read("brats2026")["values"][parser]
    for statistic, row in (("official", "mean"), ("std", "std"), ("median", "median")):
        for name, value in official[row].items():
            expected = np.nan if value is None else value
            assert own[statistic][name] == pytest.approx(expected, abs=1e-4, nan_ok=True), (row, name)


@needs_golden
def test_counts_and_lesions_equal_panoptica_2_1_7(organisers: OfficialValues) -> None:
    """Counts, qualities and their deviations, and each reference instance, whose order is that of numbering."""
    for case, official in organisers.read("brats2026")["panoptica_et"].items():
        pair = organisers.pair(case)
        rows, sizes = panoptica_lesions(pair, pair.spacing[::-1]), pair.objects(26).pairs.instance_voxels
        own = panoptica(rows, sizes, pair)
        lesions = sorted(
            (int(size), size * pair.voxel_mm3, *(row or (-1,) * 3), int(row is not None))
            for row, size in zip(rows, sizes)
        )
        names = ("voxel_count", "volume", "sq_dsc", "sq_hd95", "sq_nsd", "is_matched")
        expected = sorted(tuple(one.get(name, -1) for name in names) for one in official.pop("reference_instances"))
        for one, other in zip(lesions, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-4), case
        surfaces = [name for name in official if "hd95" in name or "nsd" in name]
        for name, value in official.items():
            tolerance = 1e-4 if name in surfaces else 1e-6
            assert own[name] == pytest.approx(value, abs=tolerance, rel=1e-6, nan_ok=True), (case, name)


def panoptica(rows: list, sizes: np.ndarray, pair: MaskPair) -> dict[str, float]:
    """What panoptica calls the scores of this module; ``instance_`` is the mean over matched reference instances."""
    scores, target, prediction = brats2026_tasks(pair), *pair.voxels[:2]
    counts = {name: scores[f"all_instance_{name}"] for name in ("tp", "fp", "fn", "prec", "rec")}
    matched = sizes[[row is not None for row in rows]]
    size = matched.mean() if len(matched) else np.nan
    quality = {f"sq_{name}": scores[f"lesionwise_{name}_mean"] for name in ("dsc", "hd95", "nsd")}
    spread = {f"sq_{name}_std": scores[f"lesionwise_{name}_std"] for name in ("dsc", "hd95", "nsd")}
    whole = {f"global_bin_{name}": scores[f"global_{name}"] for name in ("dsc", "hd95", "nsd")}
    if not target or not prediction:  # where the parser of BraTS writes its penalty of 373
        whole["global_bin_hd95"] = np.nan if target == prediction else np.inf
    rq = scores["all_instance_f1"]
    return {
        "n_ref_instances": len(rows),
        "n_pred_instances": counts["tp"] + counts["fp"],
        **counts,
        "rq": rq,
        "pq_dsc": rq * quality["sq_dsc"],
        **quality,
        **spread,
        "instance_voxel_count_ref": size,
        "instance_volume_ref": size * pair.voxel_mm3,
        "global_bin_volume_ref": target,  # in voxels, unlike instance_volume_ref
        "global_bin_volume_pred": prediction,
        **whole,
    }


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
