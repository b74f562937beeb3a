"""The tables of the source papers, ranked as printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from nnunet_instance_trainers.evaluation.comparing.compared_scores import PAPER_SCORES
from nnunet_instance_trainers.evaluation.comparing.ranking import dense_ranks, mean_ranks

PAPERS = Path(__file__).resolve().parents[4] / "shared" / "papers.md"

pytestmark = pytest.mark.skipif(not PAPERS.is_file(), reason="needs shared/papers.md beside the repository")

RANKED = [score for score in PAPER_SCORES if score.group]
ICI = {
    "Table 1": ("higher", "lower", "lower", "lower", "lower", "lower", "higher"),
    "Table 2": ("higher", "lower", "higher", "lower"),
}


def table(name: str, paper: str = "# Tables") -> tuple[np.ndarray, np.ndarray]:
    """The values and the printed ranks of a table, a row per model."""
    text = PAPERS.read_text().partition(paper)[2]
    line = re.search(rf"\n{name}(?: \(.*?\))?: (.*)", text).group(1).partition(" (The printed")[0]
    rows = [row.split("->") for row in line.rstrip(".").split(";")]
    number = r"(?<![\w(/,])-?(?:\d+\.\d+|\.\d+|\d+)(?![\w/,)])"
    values, printed = ([[float(n) for n in re.findall(number, row[k])] for row in rows] for k in (0, 1))
    return np.array(values), np.array(printed)


def rank(values: np.ndarray, better: list[str] | tuple[str, ...]) -> np.ndarray:
    return np.array([dense_ranks(column, way) for column, way in zip(values.T, better)])


@pytest.mark.parametrize("name", ["Table 1A", "Table 1B", "Table 2A", "Table 2B"])
def test_instance_loss_paper(name: str) -> None:
    values, printed = table(name)
    assert values.shape == (5, len(RANKED)) and printed.shape == (5, 3)
    if name == "Table 2B":  # two values of F1 print alike and are ranked 2 and 3
        assert values[0, -1] == values[2, -1] == 0.4557
        values[2, -1] -= 0.00001
    values = np.abs(values)  # only the volume difference has a sign, and is ranked by its size
    ranks = rank(values, [score.better for score in RANKED])
    groups = [[True] * 8, [s.group == "global" for s in RANKED], [s.group == "instance" for s in RANKED]]
    own = np.array([mean_ranks(ranks[group]) for group in groups]).T
    assert np.abs(own - printed).max() <= 0.05 + 1e-9  # printed to one decimal


def test_instance_loss_paper_table_4_has_all_but_pq() -> None:
    values, printed = table("Table 4")
    own = mean_ranks(rank(np.abs(values), [score.better for score in RANKED[1:]]))
    assert len(own) == 9 and np.abs(own - printed[:, 0]).max() <= 0.05


# As printed beside the values of Table 1, column by column.
PRINTED = [
    [3, 4, 6, 5, 2, 1],
    [2, 5, 6, 3, 1, 4],
    [1, 3, 4, 1, 2, 3],
    [1, 3, 4, 2, 1, 1],
    [6, 3, 1, 4, 5, 2],
    [5, 2, 1, 4, 6, 3],
    [6, 2, 1, 3, 4, 3],
]


def test_ici_paper_table_1_column_by_column() -> None:
    values, _ = table("Table 1", "## ICI paper")
    own = rank(values, ICI["Table 1"]).tolist()
    assert own[:6] == PRINTED[:6]
    # Subjects with neither: 0 is printed as sixth and 1 as fourth, though five numbers differ.
    assert own[6] == [5, 2, 1, 3, 4, 3]


def test_no_rule_of_ties_gives_the_last_column_of_ici_table_1() -> None:
    values, _ = table("Table 1", "## ICI paper")
    rules = {rule: rankdata(-values[:, 6], rule).tolist() for rule in ("dense", "min", "max", "average", "ordinal")}
    assert PRINTED[6] not in rules.values()
    assert [rules["min"][k] for k in (0, 4)] == [6, 5]  # who counts the tie twice ranks 0 sixth, but then 1 fifth
    # Only the dense rule, which ours is, gives the other columns with ties.
    tied = [k for k in range(7) if len(set(values[:, k])) < 6]
    assert tied == [2, 3, 6]
    for k in (2, 3):
        fitting = [rule for rule in rules if rankdata(values[:, k], rule).tolist() == PRINTED[k]]
        assert fitting == ["dense"]


def test_ici_table_1_divides_the_sum_of_seven_ranks_by_six() -> None:
    _, means = table("Table 1", "## ICI paper")
    sums = np.array(PRINTED).sum(0)
    assert np.round(sums / 6, 2).tolist() == means[:, 0].tolist()
    # So the sixth rank is the authors' own and no slip of the press: with the fifth the first mean would be 3.83.
    assert round((sums[0] - 1) / 6, 2) == 3.83 and means[0, 0] == 4


def test_ici_paper_table_2() -> None:
    values, printed = table("Table 2", "## ICI paper")
    own, shown = mean_ranks(rank(values, ICI["Table 2"])).tolist(), printed[:, 0].tolist()
    # No column has a tie, so each holds the ranks 1 to 6, and the six means add up to 21 under any rule: the printed
    # ones add up to 20.5. The third is last in Dice and F1, fifth in lesion count and second in volume: 4.75.
    assert all(len(set(column)) == 6 for column in values.T)
    assert (sum(own), sum(shown)) == (21, 20.5)
    assert (own.pop(2), shown.pop(2)) == (4.75, 4.25)
    assert own == shown
