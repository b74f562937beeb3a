from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluated import synthetic

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.evaluation.comparing.compared_scores import PAPER_SCORES, SCORES, scores_of
from nnunet_instance_trainers.evaluation.comparing.model_comparison import ALL_CLASSES, compare, write_comparison
from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation

NAN = float("nan")


def model(name: str, classes: tuple[str, ...] = ("lesion",), **columns: list[float]) -> Evaluation:
    """An evaluation with these values, a row per case and class; what is not given is the same for all models."""
    template = synthetic(name, len(next(iter(columns.values()))) // len(classes), 0.5, classes=classes)
    same = {score.name: 1.0 for score in SCORES} | {"target_ml": 2.0, "predicted_ml": 2.0, "instances": 4}
    rows = [{**row, **same} for row in template.cases]
    for column, values in columns.items():
        for row, value in zip(rows, values):
            row[column] = value
    return replace(template, cases=rows)


# --- numbers -----------------------------------------------------------------------------------------------


def test_means_ranks_and_mean_ranks_by_hand() -> None:
    a = model("A", dice=[0.8, 0.6], volume_difference_ml=[-3, 1], missed=[2, 0], f1=[0.5, 0.7])
    b = model("B", dice=[0.9, 0.9], volume_difference_ml=[1, 1], missed=[1, 3], f1=[0.5, 0.7])
    (table,) = compare([a, b])
    assert table.mean["dice"].tolist() == pytest.approx([0.7, 0.9])
    assert table.mean["volume_difference_ml"].tolist() == [2, 1]  # of absolute values
    assert table.mean["missed"].tolist() == [1, 2]
    assert {name: ranks.tolist() for name, ranks in table.ranks.items() if ranks.tolist() != [1, 1]} == {
        "dice": [2, 1],
        "volume_difference_ml": [2, 1],
        "missed": [1, 2],
    }
    # 9 ranked scores, 2 of them global; A is second in both, B in one of instances
    assert table.mean_ranks["RG"].tolist() == [2, 1]
    assert table.mean_ranks["RI"].tolist() == pytest.approx([1, 8 / 7])
    assert table.mean_ranks["RA"].tolist() == pytest.approx([11 / 9, 10 / 9])


def test_surface_scores_stand_beside_where_all_models_have_them_at_one_tolerance() -> None:
    def measured(name: str, tolerance: float | None) -> Evaluation:
        one = model(
            name, assd_mm=[1.0, 3.0], hd95_max_mm=[NAN, 2.0], hd95_pooled_mm=[1.0, 1.0], **{"nsd_at_2_mm": [0, 1]}
        )
        settings = one.summary["settings"] | ({} if tolerance is None else {"surfaces_mm": tolerance})
        return replace(one, summary=one.summary | {"settings": settings})

    models = [measured("A", 2.0), measured("B", 2.0)]
    scores = scores_of(models)
    (table,) = compare(models, scores=scores)
    assert table.mean["assd_mm"].tolist() == [2, 2] and table.counted("hd95_max_mm") == 1
    assert "nsd_at_2_mm" in table.mean and "nsd_at_2_mm" not in table.ranks
    for other in (measured("C", 1.0), measured("D", None)):
        assert scores_of([models[0], other]) == scores_of([other, models[0]]) == SCORES


def test_every_ranked_score_ranks_in_its_direction() -> None:
    for score in SCORES:
        (table,) = compare([model("A", **{score.name: [0.2, 0.2]}), model("B", **{score.name: [0.4, 0.4]})])
        if score.group:
            assert table.ranks[score.name].tolist() == ([2, 1] if score.better == "higher" else [1, 2]), score.name
        else:
            assert score.name not in table.ranks


def test_the_volume_ratio_is_of_all_volume_and_not_ranked() -> None:
    """(1 + 9) / (1 + 4) is 2, the mean of 1 / 1 and 9 / 4 is not."""
    (table,) = compare([model("A", predicted_ml=[1, 9], target_ml=[1, 4])])
    assert table.mean["volume_ratio"].tolist() == [2.0]
    assert "volume_ratio" not in table.ranks
    np.testing.assert_equal(table.values["volume_ratio"], [[1, 2.25]])


def test_a_case_without_a_value_for_one_model_counts_for_none() -> None:
    """Else a model that is silent in hard cases would gain by it."""
    (table,) = compare([model("A", precision=[0.9, NAN, 0.6]), model("B", precision=[0.8, 0.1, 0.5])])
    assert table.mean["precision"].tolist() == pytest.approx([0.75, 0.65])
    assert table.counted("precision") == 2 and table.counted("dice") == 3


def test_a_score_without_any_value_has_no_rank_and_spoils_nothing() -> None:
    (table,) = compare([model("A", precision=[NAN]), model("B", precision=[NAN])])
    assert np.isnan(table.mean["precision"]).all() and np.isnan(table.ranks["precision"]).all()
    assert table.mean_ranks["RA"].tolist() == [1, 1]


def test_classes_are_averaged_within_a_case_and_counts_added() -> None:
    a = model("A", ("core", "rim"), dice=[0.8, 0.4, 0.6, NAN], false=[1, 2, 3, 4])
    tables = compare([a])
    assert [table.label for table in tables] == [ALL_CLASSES, "core", "rim"]
    assert tables[0].values["dice"].tolist() == pytest.approx(np.array([[0.6, 0.6]]))
    assert tables[0].values["false"].tolist() == [[3, 7]]
    assert tables[1].mean["dice"].tolist() == pytest.approx([0.7])
    assert tables[2].mean["dice"].tolist() == pytest.approx([0.4])


def test_intervals_hold_the_mean_and_shrink_with_the_cases() -> None:
    few, many = (compare([synthetic("A", n, 0.6)])[0] for n in (10, 400))
    for name in ("dice", "f1", "missed", "volume_ratio"):
        assert few.low[name][0] < few.mean[name][0] < few.high[name][0]
        assert many.high[name][0] - many.low[name][0] < 0.5 * (few.high[name][0] - few.low[name][0])


# --- pairs -------------------------------------------------------------------------------------------------


def test_each_model_is_tested_against_the_first_unless_pairs_are_chosen() -> None:
    models = [synthetic(name, 12, skill) for name, skill in (("A", 0.5), ("B", 0.6), ("C", 0.7))]
    default, chosen = compare(models)[0].pairs, compare(models, [("B", "C")])[0].pairs
    assert {(pair.first, pair.second) for pair in default} == {("B", "A"), ("C", "A")}
    assert {(pair.first, pair.second) for pair in chosen} == {("B", "C")}
    assert {pair.score for pair in chosen} == {score.name for score in SCORES if score.group}
    assert compare(models[:1])[0].pairs == []


def test_a_pair_by_hand() -> None:
    """B is 0.1 better in each of six cases: no spread, and 2 of 2^6 signs are as extreme; Holm has one pair only."""
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    (table,) = compare([model("A", dice=values.tolist()), model("B", dice=(values + 0.1).tolist())])
    pair = next(pair for pair in table.pairs if pair.score == "dice")
    assert (pair.first, pair.second, pair.cases) == ("B", "A", 6)
    assert (pair.difference, pair.low, pair.high) == pytest.approx((0.1, 0.1, 0.1))
    assert pair.p == pair.p_holm == pytest.approx(2 / 64)


def test_holm_covers_the_pairs_of_one_score() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    models = [model(name, dice=(values + shift).tolist()) for name, shift in (("A", 0), ("B", 0.1), ("C", 0.2))]
    for pair in compare(models)[0].pairs:
        assert pair.p_holm == pytest.approx(2 * pair.p if pair.score == "dice" else 1)


# --- files and command -------------------------------------------------------------------------------------


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_tables_on_disk_say_what_was_computed(tmp_path: Path) -> None:
    (table,) = compare([model("A", precision=[0.5] * 5 + [NAN]), model("B", precision=[0.75] * 5 + [0.5])])
    write_comparison([table], tmp_path / "new" / "folder")
    comparison, ranks, pairs = (
        rows(tmp_path / "new" / "folder" / f"{name}.csv") for name in ("comparison", "ranks", "pairs")
    )
    assert len(comparison) == 2 * len(SCORES)
    precision = next(row for row in comparison if row["score"] == "precision" and row["model"] == "B")
    assert precision == {
        "class": "lesion",
        "score": "precision",
        "group": "instance",
        "better": "higher",
        "model": "B",
        "mean": "0.75",
        "low": "0.75",
        "high": "0.75",
        "rank": "1",
        "cases": "5",
    }
    assert next(row for row in comparison if row["score"] == "volume_ratio")["rank"] == ""
    assert [(row["model"], row["RG"]) for row in ranks] == [("A", "1"), ("B", "1")]
    assert list(pairs[0])[:4] == ["class", "first", "second", "score"] and len(pairs) == 9


def test_the_command_writes_and_prints_with_the_volume_beside(
    written: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folders = [str(written(synthetic(name, 8, skill))) for name, skill in (("A", 0.5), ("B", 0.7), ("C", 0.6))]
    cli.main(["compare", *folders, "-o", str(tmp_path / "out"), "--pairs", "B:C"])
    printed = capsys.readouterr().out
    assert "volume ratio" in printed and "F1 at IoU 0.5" in printed
    assert {(row["first"], row["second"]) for row in rows(tmp_path / "out" / "pairs.csv")} == {("B", "C")}
    with pytest.raises(SystemExit, match="error: --pairs 'B:D' is not MODEL:MODEL"):
        cli.main(["compare", *folders, "-o", str(tmp_path / "out"), "--pairs", "B:D"])


def test_the_papers_scores_rank_the_volume_difference_by_the_size_of_its_mean() -> None:
    models = [synthetic("first", 6, 0.9, seed=1), synthetic("second", 6, 0.4, seed=2)]
    for k, row in enumerate(models[0].cases):
        row["volume_difference_ml"] = (-1) ** k * 3.0  # its mean is 0
    for row in models[1].cases:
        row["volume_difference_ml"] = -1.0
    table = compare(models, scores=PAPER_SCORES)[0]
    assert table.mean["volume_difference_ml"].tolist() == [0, -1]
    assert table.ranks["volume_difference_ml"].tolist() == [1, 2]
    assert len(table.ranks) == 8 and "pq_dice" in table.ranks
    ranks = table.ranks
    assert table.mean_ranks["RG"].tolist() == ((ranks["dice"] + ranks["volume_difference_ml"]) / 2).tolist()
