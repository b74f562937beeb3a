from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from nnunet_instance_trainers.ensembling.ensemble_plan import Member
from nnunet_instance_trainers.ensembling.member_options import read_members, read_predictions
from nnunet_instance_trainers.errors import UserError


@pytest.mark.parametrize(
    "typed, low, high",
    [
        ("x/A:0-0.05", 0, 0.05),
        ("x/A:0.05-", 0.05, inf),
        ("x/A:-0.05", 0, 0.05),
        ("x/A:.05-1.", 0.05, 1),
        ("x/A:1e-3-2e1", 0.001, 20),
        ("x/A:-", 0, inf),
        ("x/A", 0, inf),
    ],
)
def test_ranges(typed: str, low: float, high: float) -> None:
    assert read_members([[typed]]) == ([Member("A", low, high)], {"A": (Path("x/A"),)})


def test_areas_are_thousandths() -> None:
    assert read_members([["A:0-50"]], per_ml=1000)[0] == [Member("A", 0, 0.05)]


def test_a_range_may_be_a_word_of_its_own() -> None:
    members, folders = read_members([["m/f0", "m/f1", "m/f2", ":0-0.05"], ["B:0.05-"]])
    assert members == [Member("m", 0, 0.05), Member("B", 0.05)]
    assert folders == {"m": (Path("m/f0"), Path("m/f1"), Path("m/f2")), "B": (Path("B"),)}


def test_one_model_may_have_two_ranges() -> None:
    members, folders = read_members([["A:0-1"], ["B:1-2"], ["A:2-"]])
    assert [member.name for member in members] == ["A", "B", "A"] and list(folders) == ["A", "B"]


def test_names_tell_models_apart() -> None:
    assert list(read_members([["x/test:0-1"], ["y/test:1-"]])[1]) == ["x/test", "y/test"]
    assert len(read_members([["x/f0", "x/f1", ":0-1"], ["x/f2", "x/f3", ":1-"]])[1]) == 2


@pytest.mark.parametrize("typed", ["A:0.05", "A:x-", "A:0,1-", "A:0--1"])
def test_what_is_no_range_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match="after the colon comes a range"):
        read_members([[typed]])


def test_a_colon_in_a_folder_is_no_range(tmp_path: Path) -> None:
    folder = tmp_path / "12:30"
    folder.mkdir()
    assert read_members([[str(folder)]])[1] == {"12:30": (folder,)}


def test_a_repeated_name_is_a_fold() -> None:
    read = read_predictions(["A=x", "B=y/z=1", "A=w"])
    assert read == {"A": (Path("x"), Path("w")), "B": (Path("y/z=1"),)}


@pytest.mark.parametrize("typed", ["A", "=x", "A="])
def test_predictions_are_names_and_folders(typed: str) -> None:
    with pytest.raises(UserError, match="--predictions takes NAME=DIR"):
        read_predictions([typed])
