from __future__ import annotations

import csv
from itertools import pairwise
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest

from nnunet_instance_trainers.training.scores_csv import ScoreRecord, moving_average

pytestmark = pytest.mark.nnunet  # importing the trainers imports nnU-Net

NOTHING = [0] * 8


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "recwarn" not in request.fixturenames:
        monkeypatch.setattr(ScoreRecord, "_draw", lambda self: None)


def objects(f1: float) -> list[int]:
    """Counts of a class with this F1, of 100 instances and 100 components."""
    return NOTHING if isnan(f1) else [100, 100, round(100 * f1), round(100 * f1), 10, 4000, 5000, 3000]


def read(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def record(folder: Path, metric: str = "f1", first_epoch: int = 0, classes=("lesion",), chosen=(0,)) -> ScoreRecord:
    return ScoreRecord(folder / "scores.csv", classes, chosen, metric, first_epoch)


def end(scores: ScoreRecord, epoch: int, f1: float, dice: float = 0.5, **options) -> bool:
    return scores.end_epoch(epoch, np.array([objects(f1)]), dice, **{"best_dice": False, **options})[1]


def test_the_moving_average_is_nnunets_and_passes_over_nan() -> None:
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    values = [0.3, 0.7, 0.1, 0.65]
    logger, average, passed_over = MetaLogger("", False), nan, nan
    for epoch, value in enumerate(values):
        logger.log("mean_fg_dice", value, epoch)
        average = moving_average(average, value)
        passed_over = moving_average(moving_average(passed_over, value), nan)
        assert average == passed_over == logger.get_value("ema_fg_dice", -1)


def test_a_row_by_hand(tmp_path: Path) -> None:
    scores = record(tmp_path, classes=("lesion", "organ"), chosen=(0,))
    counts = np.array([[4, 5, 3, 2, 1, 40, 60, 30], [1, 2, 1, 1, 1, 9, 18, 9]])
    lists, _ = scores.end_epoch(0, counts, 0.25, best_dice=False)
    assert lists["sensitivity"] == [3 / 4, 1.0] and lists["volume_ratio"] == [1.5, 2.0]
    (row,) = read(tmp_path)
    f1 = 2 * 0.75 * 0.4 / (0.75 + 0.4)
    assert {name: row[name] for name in ("epoch", "best", "pseudo_dice", "sensitivity", "precision")} == {
        "epoch": "0",
        "best": "1",
        "pseudo_dice": "0.25",
        "sensitivity": "0.75",  # the organ is not among the chosen
        "precision": "0.4",
    }
    assert float(row["f1"]) == pytest.approx(f1, abs=1e-6) and float(row["f1_average"]) == pytest.approx(f1, rel=1e-15)
    assert float(row["f1_iou50"]) == pytest.approx(2 * 1 / (4 + 5), abs=1e-6) and row["volume_ratio"] == "1.5"
    assert [row[f"lesion_{n}"] for n in scores.numbers] == ["4", "3", "1", "5", "2", "3"]
    assert [row[f"organ_{n}"] for n in scores.numbers] == ["1", "1", "0", "2", "1", "1"]
    assert row["organ_precision"] == "0.5"


def test_the_mean_is_over_the_chosen_classes_that_have_a_value(tmp_path: Path) -> None:
    scores = record(tmp_path, classes=("a", "b", "c", "d"), chosen=(0, 2, 3))
    scores.end_epoch(0, np.array([objects(f1) for f1 in (0.2, 0.9, nan, 0.4)]), 0.5, best_dice=False)
    (row,) = read(tmp_path)
    assert row["f1"] == "0.3" and row["c_f1"] == "" and row["c_instances"] == "0"


def test_without_anything_the_cells_are_empty(tmp_path: Path) -> None:
    end(record(tmp_path), 0, nan, nan)
    (row,) = read(tmp_path)
    assert {name for name, cell in row.items() if cell} == {
        "epoch",
        "best",
        *(f"lesion_{name}" for name in ScoreRecord.numbers),
    }


@pytest.mark.parametrize("metric, best", [("f1", 3), ("mean", 2)])
def test_the_best_epoch(tmp_path: Path, metric: str, best: int) -> None:
    scores = record(tmp_path, metric)
    dice, f1 = [0.5, 0.9, 0.44, 0.13], [0.2, 0.6, 0.54, 0.37]  # averages 50 54 53 49 and 20 24 27 28 per cent
    chosen = [epoch for epoch in range(4) if end(scores, epoch, f1[epoch], dice[epoch])]
    assert chosen == list(range(best + 1))
    assert [row["best"] for row in read(tmp_path)] == ["1"] * len(chosen) + [""] * (4 - len(chosen))


def test_for_dice_nnunet_decides(tmp_path: Path) -> None:
    scores = record(tmp_path, "dice")
    said = [True, False, True]
    assert [
        end(scores, epoch, f1, best_dice=best) for epoch, (f1, best) in enumerate(zip((0.9, 0.95, 0.1), said))
    ] == said
    assert [row["best"] for row in read(tmp_path)] == ["1", "", "1"]


@pytest.mark.parametrize("metric", ["f1", "mean"])
def test_an_epoch_without_a_value_spoils_neither_average_nor_best(tmp_path: Path, metric: str) -> None:
    (tmp_path / "nan").mkdir()
    plain, holed = record(tmp_path, metric), record(tmp_path / "nan", metric)
    values = [(0.2, 0.3), (0.5, 0.5), (0.1, 0.2), (0.9, 0.9)]
    for epoch, (f1, dice) in enumerate(values):
        assert end(plain, epoch, f1, dice) == end(holed, 2 * epoch, f1, dice)
        assert not end(holed, 2 * epoch + 1, nan, nan)
        assert (plain.best, plain.averages) == (holed.best, holed.averages)
    assert plain.best > 0.2


def test_a_first_epoch_without_a_value_is_the_best_until_one_has_a_value(tmp_path: Path) -> None:
    scores = record(tmp_path)
    assert [end(scores, epoch, f1) for epoch, f1 in enumerate((nan, nan, 0.1, nan, 0.05))] == [True] * 3 + [False] * 2
    assert scores.best == pytest.approx(0.1)


@pytest.mark.parametrize("metric", ["f1", "mean"])
@pytest.mark.parametrize("first_epoch", range(1, 7))
def test_a_resumed_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path, metric: str, first_epoch: int) -> None:
    f1, dice = [0.31, 0.77, nan, 0.13, 0.59, 0.11, 0.97], [0.4, nan, 0.3, 0.7, 0.1, 0.2, 0.6]
    first = record(tmp_path, metric)
    flags = [end(first, epoch, f1[epoch], dice[epoch]) for epoch in range(7)]
    whole = read(tmp_path)
    resumed = record(tmp_path, metric, first_epoch)
    assert flags[first_epoch:] == [end(resumed, epoch, f1[epoch], dice[epoch]) for epoch in range(first_epoch, 7)]
    assert read(tmp_path) == whole and [row["epoch"] for row in whole] == [str(epoch) for epoch in range(7)]
    assert (resumed.best, resumed.averages) == (first.best, first.averages)


def test_resumed_with_another_metric_the_best_epoch_is_judged_by_it(tmp_path: Path) -> None:
    scores = record(tmp_path, "dice")
    for epoch, f1 in enumerate((0.3, 0.2, 0.8)):
        end(scores, epoch, f1, best_dice=epoch == 1)
    assert record(tmp_path, "f1", 3).best == pytest.approx(0.3 * 0.9 + 0.2 * 0.1)


def test_resumed_without_its_file_the_best_is_chosen_anew(tmp_path: Path) -> None:
    scores = record(tmp_path, first_epoch=5)
    assert isnan(scores.best) and end(scores, 5, 0.1) and [row["epoch"] for row in read(tmp_path)] == ["5"]


def test_only_one_of_several_processes_writes(tmp_path: Path) -> None:
    assert end(record(tmp_path), 0, 0.5, write=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("f1", [nan, 0.0, 0.5])
def test_the_figure_is_drawn_whatever_the_values(tmp_path: Path, recwarn, f1: float) -> None:
    scores = record(tmp_path)
    for epoch in range(2):
        end(scores, epoch, f1, nan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.png"]
    assert (tmp_path / "scores.png").stat().st_size > 10000 and not recwarn


def test_styles_of_the_curves_differ_in_more_than_colour() -> None:
    from nnunet_instance_trainers.training.scores_csv import _CURVES

    styles = [(style.get("linestyle", "-"), style.get("linewidth")) for style in _CURVES.values()]
    assert all(a != b for a, b in pairwise(sorted(styles, key=str)))


def test_the_figure_does_not_take_over_what_nnunet_leaves_of_its_own(tmp_path: Path, recwarn) -> None:
    """Its progress.png sets fonts for all later figures."""
    import seaborn
    from matplotlib import rc_context

    pictures = []
    for scale in (1, 2.5):
        with rc_context():
            seaborn.set_theme(font_scale=scale)
            end(record(tmp_path), 0, 0.5)
        pictures.append((tmp_path / "scores.png").read_bytes())
    assert pictures[0] == pictures[1]
