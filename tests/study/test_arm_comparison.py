"""Arms side by side, from the rows of study.csv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluated import synthetic

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.comparing.model_comparison import compare
from nnunet_instance_trainers.study.arm_comparison import compare_arms, compare_sizes, rising_with_volume
from nnunet_instance_trainers.study.result_tables import markdown, size_markdown, write_comparison_csv, write_latex
from nnunet_instance_trainers.study.study_rows import Outcomes, read_outcomes, rows_of, write_outcomes

SKILLS = {"Baseline": 0.5, "Blob": 0.75}


def study_rows(seeds: tuple[int, ...] = (0, 1, 2), n_cases: int = 12) -> list[dict]:
    """Rows of two arms; each seed has a skill a little of its own."""
    return [
        row
        for arm, skill in SKILLS.items()
        for seed in seeds
        for row in rows_of(
            synthetic(arm, n_cases, skill + 0.01 * seed, classes=("a", "b")), {"arm": arm, "seed": seed, "fold": "all"}
        )
    ]


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return study_rows()


def test_the_table_of_a_file_is_that_of_its_rows(rows: list[dict], tmp_path: Path) -> None:
    write_outcomes(tmp_path / "study.csv", rows)
    read = read_outcomes(tmp_path / "study.csv")
    one, other = (compare_arms(Outcomes.of(part, "Baseline"), "Baseline") for part in (rows, read))
    assert [table.label for table in one] == ["all classes", "a", "b"]
    for score, mean in one[0].mean.items():
        np.testing.assert_allclose(mean, other[0].mean[score], rtol=1e-8)
        np.testing.assert_allclose(one[0].low[score], other[0].low[score], rtol=1e-6)


def test_of_one_seed_the_means_are_those_of_compare() -> None:
    rows = study_rows((0,))
    models = [synthetic(arm, 12, skill, classes=("a", "b")) for arm, skill in SKILLS.items()]
    for own, expected in zip(compare_arms(Outcomes.of(rows, "Baseline"), "Baseline"), compare(models)):
        assert own.models == expected.models
        for score in expected.mean:
            np.testing.assert_allclose(own.mean[score], expected.mean[score])
            np.testing.assert_allclose(own.values[score], expected.values[score])


def test_means_are_over_seeds_and_differences_against_the_reference(rows: list[dict]) -> None:
    table = compare_arms(Outcomes.of(rows, "Blob"), "Blob")[1]
    by_seed = [
        compare([synthetic("x", 12, skill + 0.01 * seed, classes=("a", "b"))])[1].mean["sensitivity"][0]
        for skill in SKILLS.values()
        for seed in range(3)
    ]
    np.testing.assert_allclose(table.mean["sensitivity"], np.mean(np.reshape(by_seed, (2, 3)), axis=1))
    pair = next(pair for pair in table.pairs if pair.score == "sensitivity")
    assert (pair.first, pair.second) == ("Baseline", "Blob")
    assert pair.difference == pytest.approx(table.mean["sensitivity"][0] - table.mean["sensitivity"][1])
    assert pair.low < pair.difference < pair.high < 0
    assert pair.p_holm < 0.05


def test_sizes_are_pooled_over_cases(rows: list[dict]) -> None:
    found = [row for row in compare_sizes(Outcomes.of(rows, "Baseline"), "Baseline") if row.size == "0.1-0.5"]
    own = next(row for row in found if (row.label, row.arm, row.score) == ("a", "Blob", "sensitivity"))
    parts = [row for row in rows if (row["arm"], row["class"], row["size"]) == ("Blob", "a", "0.1-0.5")]
    assert own.instances == sum(row["instances"] for row in parts) / 3
    assert own.value == pytest.approx(sum(row["found"] for row in parts) / sum(row["instances"] for row in parts))
    false = next(row for row in found if (row.label, row.arm, row.score) == ("a", "Blob", "false per case"))
    assert false.value == pytest.approx(sum(row["false"] for row in parts) / 3 / 12)
    assert own.difference is not None and own.difference.second == "Baseline"
    everything = next(r for r in found if (r.label, r.arm, r.score) == ("all classes", "Blob", "sensitivity"))
    assert everything.instances == 2 * own.instances or everything.instances > own.instances


def test_a_seed_that_an_arm_lacks_is_left_out_for_all_and_said() -> None:
    rows = [row for row in study_rows() if (row["arm"], row["seed"]) != ("Blob", 2)]
    outcomes = Outcomes.of(rows, "Baseline")
    assert (outcomes.arms, outcomes.seeds) == (["Baseline", "Blob"], [0, 1])
    assert outcomes.left_out == ["seed 2 of Baseline, which not every arm has"]
    assert len(outcomes.models) == 4


def test_an_arm_with_half_of_its_folds_is_left_out_and_said() -> None:
    rows = [{**row, "fold": str(int(row["case"][-1]) % 2)} for row in study_rows((0,))]
    rows = [row for row in rows if (row["arm"], row["fold"]) != ("Blob", "1")]
    outcomes = Outcomes.of(rows, "Baseline")
    assert outcomes.arms == ["Baseline"]
    assert outcomes.left_out == ["arm Blob, which has no seed with all folds"]
    assert compare_arms(outcomes, "Baseline")[0].pairs == []
    assert sorted(set(outcomes.fold_of)) == [0, 1]


def test_nothing_whole_is_a_line() -> None:
    halves = {"Baseline": "0", "Blob": "1"}
    rows = [{**row, "fold": halves[row["arm"]]} for row in study_rows((0,))]
    with pytest.raises(UserError, match="no arm has a seed with all of its folds"):
        Outcomes.of(rows, "Baseline")


def test_patients_are_what_the_pattern_matches(rows: list[dict]) -> None:
    outcomes = Outcomes.of(rows, "Baseline")
    assert len(set(outcomes.patients(""))) == 12
    assert len(set(outcomes.patients("^case_00."))) == 2  # 0000 to 0009, and 0010 with 0011
    with pytest.raises(UserError, match="'patients' 'eye' does not match the name of case 'case_0000'"):
        outcomes.patients("eye")


def test_a_score_that_rises_with_the_volume_is_warned_of(rows: list[dict]) -> None:
    table = compare_arms(Outcomes.of(rows, "Baseline"), "Baseline")[0]
    lines = rising_with_volume(table)
    ratio = table.mean["volume_ratio"]
    assert len(lines) == 1
    assert lines[0].startswith(
        f"Blob predicts {ratio[1]:.2f} times the true volume and Baseline {ratio[0]:.2f}, and its"
    )
    assert "sensitivity" in lines[0]
    steady = [replace(pair, low=-0.1) if pair.score == "volume_ratio" else pair for pair in table.pairs]
    assert rising_with_volume(replace(table, pairs=steady)) == []
    fallen = [pair if pair.score == "volume_ratio" else replace(pair, low=-0.1) for pair in table.pairs]
    assert rising_with_volume(replace(table, pairs=fallen)) == []


def test_tables_say_the_same_numbers(rows: list[dict], tmp_path: Path) -> None:
    outcomes = Outcomes.of(rows, "Baseline")
    tables, sizes = compare_arms(outcomes, "Baseline"), compare_sizes(outcomes, "Baseline")
    text = markdown(tables[0])
    value = f"{tables[0].mean['dice'][1]:.3f} ({tables[0].low['dice'][1]:.3f} to {tables[0].high['dice'][1]:.3f})"
    assert f"| Blob | {value} |" in text
    assert "| minus Baseline | Dice |" in text
    assert all(len(line.split("|")) == 10 for line in text.splitlines() if line)
    assert "Blob minus Baseline" in size_markdown(sizes, "a")
    write_latex(tmp_path / "table.tex", tables[0], "50 % of A_B")
    latex = (tmp_path / "table.tex").read_text()
    assert r"\caption{50 \% of A\_B}" in latex
    assert latex.count(r"\\") == 3
    write_comparison_csv(tmp_path / "comparison.csv", tables)
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 1 + 3 * 2 * len(tables[0].mean)
