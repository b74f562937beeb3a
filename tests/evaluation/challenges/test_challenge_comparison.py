from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.challenges.challenge_comparison import (
    are_results,
    compare_results,
    official_ranking,
    read_results,
)
from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES
from nnunet_instance_trainers.evaluation.challenges.results import Outcome, Result, summarise, write_result


def write(folder: Path, name: str, dice: list[float], cases: str = "abc") -> Path:
    challenge = CHALLENGES[name]
    rows = [
        Outcome(case, "lesion", True, True, {column: value for column in challenge.better})
        for case, value in zip(cases, dice)
    ]
    summary = summarise(challenge, rows, [])
    write_result(folder, Result(folder.name, challenge, [row.cells() for row in rows], summary))
    return folder


def test_isles_ranks_by_the_mean_rank_of_four_scores() -> None:
    mean = np.array([[0.8, 0.7, 0.6], [0.5, 0.6, 0.4], [3.0, 1.0, 2.0], [9.0, 2.0, 2.0]])
    assert official_ranking(CHALLENGES["isles22"], mean).tolist() == [(1 + 2 + 3 + 2) / 4, 5 / 4, (3 + 3 + 2 + 1) / 4]


def test_autopet_weighs_dice_double() -> None:
    mean = np.array([[0.8, 0.7], [3.0, 1.0], [3.0, 1.0]])
    assert official_ranking(CHALLENGES["autopet1"], mean).tolist() == [1.5, 1.5]
    assert official_ranking(CHALLENGES["autopet3"], mean) is None


def test_wmh_scales_each_score_between_best_and_worst() -> None:
    mean = np.array([[0.8, 0.6, 0.7], [2.0, 4.0, 2.5], [10.0, 10.0, 10.0], [0.5, 0.5, 0.9], [0.5, 0.7, 0.5]])
    expected = [(0 + 0 + 0 + 1 + 1) / 5, (1 + 1 + 0 + 1 + 0) / 5, (0.5 + 0.25 + 0 + 0 + 1) / 5]
    assert official_ranking(CHALLENGES["wmh2017"], mean) == pytest.approx(expected)


def test_tables_hold_means_ranks_and_tests(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", "valdo-pvs", [0.1, 0.2, 0.3]), write(tmp_path / "b", "valdo-pvs", [0.2, 0.3, 0.5])]
    (table,) = compare_results(read_results(folders))
    assert table.models == ["a", "b"] and table.official is None
    assert table.mean["f1"].tolist() == pytest.approx([0.2, 1 / 3])
    assert table.ranks["f1"].tolist() == [2, 1]
    assert table.ranks["absolute_count_difference"].tolist() == [1, 2]
    first = table.pairs[0]
    assert (first.first, first.second, first.cases) == ("b", "a", 3)
    assert first.difference == pytest.approx(1 / 3 - 0.2) and first.p == 0.25


def test_results_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "isles22", [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match="scored as isles22 and other as isles24"):
        read_results([one, write(tmp_path / "other", "isles24", [0.1, 0.2, 0.3])])
    with pytest.raises(UserError, match="fewer lacks case 'c'"):
        read_results([one, write(tmp_path / "fewer", "isles22", [0.1, 0.2])])
    with pytest.raises(UserError, match="given twice"):
        read_results([one, one])
    with pytest.raises(UserError, match="was not written by 'challenge'"):
        are_results([one, tmp_path])
    (one / "scores.csv").write_text("case,region\n")
    with pytest.raises(UserError, match="damaged"):
        read_results([one])
