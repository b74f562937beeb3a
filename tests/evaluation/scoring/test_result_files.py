from __future__ import annotations

import json
from math import nan
from pathlib import Path

import pytest

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.scoring.result_files import (
    Evaluation,
    bin_names,
    check_output,
    read_evaluation,
    write_evaluation,
)

CASE = {"case": "007", "class": "lesion"}
EVALUATION = Evaluation(
    name="scores",
    cases=[{**CASE, "instances": 3, "f1": 0.1234567891, "sensitivity": nan, "target_ml": 1.0}],
    sizes=[{**CASE, "bin": "<0.01", "instances": 1}],
    objects=[
        {
            **CASE,
            "side": "target",
            "id": 1,
            "volume_ml": 1e-7,
            "state": "found",
            "dice": 1.0,
            "matched_id": "2;3",
            "bin": "<0.01",
        }
    ],
    froc=[{"class": "lesion", "threshold": 0.5, "false_positives_per_image": 0.0, "sensitivity": 1.0}],
    summary={"settings": {}, "pooled": {}, "froc": {}},
)


def test_every_bin_has_a_name_of_its_own() -> None:
    assert bin_names([0.01, 0.05, 5]) == ["<0.01", "0.01-0.05", "0.05-5", ">=5"]
    assert bin_names([1e-6, 5e-5]) == ["<0.000001", "0.000001-0.00005", ">=0.00005"]
    assert len(set(bin_names([0.1234567, 0.1234568, 0.1234569]))) == 4


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "scores", EVALUATION)
    got = read_evaluation(tmp_path / "scores")
    assert got.name == "scores"
    assert got.summary == EVALUATION.summary
    for name in ("cases", "sizes", "objects", "froc"):
        (row,), (expected,) = getattr(got, name), getattr(EVALUATION, name)
        assert list(row) == list(expected)
        for column, value in expected.items():
            assert row[column] == (value if isinstance(value, str) else pytest.approx(value, nan_ok=True, rel=1e-8))
    assert isinstance(got.cases[0]["instances"], int)
    assert got.cases[0]["case"] == "007"  # names of digits stay names


def test_undefined_is_an_empty_cell(tmp_path: Path) -> None:
    write_evaluation(tmp_path, EVALUATION)
    lines = (tmp_path / "cases.csv").read_text().splitlines()
    assert lines == ["case,class,instances,f1,sensitivity,target_ml", "007,lesion,3,0.123456789,,1"]


def test_no_objects_is_no_objects(tmp_path: Path) -> None:
    write_evaluation(tmp_path, EVALUATION)
    rest = Evaluation("x", EVALUATION.cases, EVALUATION.sizes, [], {"settings": {}, "pooled": {}})
    write_evaluation(tmp_path, rest)
    got = read_evaluation(tmp_path)
    assert (got.objects, got.froc) == ([], [])
    assert not (tmp_path / "froc.csv").exists()


def test_a_write_that_fails_leaves_no_summary(tmp_path: Path) -> None:
    """So what it leaves is not taken for the result of a run."""
    write_evaluation(tmp_path, EVALUATION)
    broken = Evaluation("x", EVALUATION.cases, [{"bin": "a"}, {"unknown": 1}], [], EVALUATION.summary)
    with pytest.raises(ValueError):
        write_evaluation(tmp_path, broken)
    assert not list(tmp_path.glob(".unfinished*"))
    with pytest.raises(UserError, match="was not written by 'nnunet-instance evaluate'"):
        read_evaluation(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*file/scores .Not a directory.: make room"):
        write_evaluation(tmp_path / "file" / "scores", EVALUATION)


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"foreground_mean": {}, "mean": {}})])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match="was not written by 'nnunet-instance evaluate': run it with -o"):
        read_evaluation(tmp_path)
    if content is not None:
        with pytest.raises(UserError, match="give another folder with -o"):
            check_output(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "lengthened"])
def test_a_damaged_table_is_named(tmp_path: Path, damage: str) -> None:
    write_evaluation(tmp_path, EVALUATION)
    table = tmp_path / "cases.csv"
    if damage == "missing":
        table.unlink()
    elif damage == "lengthened":
        table.write_text(table.read_text()[:-1] + ",1\n")
    else:
        table.write_text(table.read_text()[:-8])
    with pytest.raises(UserError, match="is missing or damaged: run 'nnunet-instance evaluate' again"):
        read_evaluation(tmp_path)


def test_our_own_folder_and_a_new_one_may_be_written_to(tmp_path: Path) -> None:
    check_output(tmp_path / "new")
    write_evaluation(tmp_path, EVALUATION)
    check_output(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        check_output(tmp_path / "cases.csv")
