from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from nnunet_instance_trainers.ensembling.ensemble_plan import EnsemblePlan, Member
from nnunet_instance_trainers.errors import UserError

PLAN = EnsemblePlan(
    members={"1": [Member("A", 0, 0.05), Member("B", 0.05)], "(1, 2)": [Member("B", 0, 0.2), Member("C", 0.2)]},
    rescue=True,
    vote=3,
    connectivity=18,
    min_volume_ml={"1": 0.01},
    hysteresis={"(1, 2)": (0.2, 0.6)},
    fit={"score": 0.7},
)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    PLAN.write(tmp_path / "plan.json")
    read = EnsemblePlan.read(tmp_path / "plan.json")
    assert read.members == PLAN.members
    assert (read.rescue, read.vote, read.gaps, read.fit) == (True, 3, False, {"score": 0.7})
    assert read.connectivity == 18 and EnsemblePlan(PLAN.members).connectivity == 26
    assert (read.min_volume_ml, read.hysteresis) == ({"1": 0.01, "(1, 2)": 0.0}, {"(1, 2)": (0.2, 0.6)})
    assert read.to_json() == PLAN.to_json()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    json.loads((tmp_path / "plan.json").read_text(), parse_constant=pytest.fail)  # no Infinity in the file


def test_models_come_as_they_first_occur() -> None:
    assert PLAN.models == ("A", "B", "C")
    assert EnsemblePlan({"1": [Member("B", 0.5), Member("A", 0, 0.5)], "2": [Member("A")]}).models == ("B", "A")


def test_a_model_may_have_two_ranges() -> None:
    assert EnsemblePlan({"1": [Member("A", 0, 1), Member("B", 1, 2), Member("A", 2)]}).models == ("A", "B")


@pytest.mark.parametrize(
    "members, message",
    [
        ([Member("A", 0, 0.06), Member("B", 0.05)], "the ranges of 'A' and 'B' overlap from 0.05 mL on"),
        (
            [Member("B", 0.05), Member("A", 0, 0.04)],
            "no member has the sizes 0.04-0.05 mL: extend a range",
        ),
        ([Member("A", 0.01)], "no member has the sizes 0.0-0.01 mL: extend"),
        ([Member("A", 0, 5)], "no member has the sizes 5- mL: extend a range, or allow gaps with --gaps"),
        ([Member("A"), Member("B")], "overlap from 0 mL on"),
        ([Member("A", 2, 1)], "the range 2-1 mL of member 'A' must go from 0 or more upwards"),
        ([Member("A", 1, 1)], "must go from"),
        ([Member("A", -1)], "must go from"),
        ([Member("A", float("nan"))], "must go from"),
        ([Member("A", inf)], "must go from"),
        ([Member("A", "0")], "must go from"),
        ([Member("", 0)], "the name of a member must be text"),
        ([], "class 1 has no members"),
    ],
)
def test_odd_ranges_are_refused(members: list[Member], message: str) -> None:
    with pytest.raises(UserError) as info:
        EnsemblePlan({"1": members})
    assert message in str(info.value) and "class 1" in str(info.value)


def test_gaps_may_be_allowed_but_not_overlaps() -> None:
    EnsemblePlan({"1": [Member("A", 0.01, 0.04), Member("B", 0.05, 1)]}, gaps=True)
    with pytest.raises(UserError, match="overlap"):
        EnsemblePlan({"1": [Member("A", 0.01, 0.06), Member("B", 0.05, 1)]}, gaps=True)


def in_class(**entry: object) -> Callable[[dict], object]:
    return lambda content: content["classes"]["1"].update(entry)


ODD = {
    "unknown key": (lambda c: c.update(recsue=True), "it has 'recsue', which is none of"),
    "unknown key of a class": (in_class(min_volume=1), "class 1 has 'min_volume', which is none of"),
    "unknown key of a member": (in_class(members=[{"nam": "A"}]), "a member of class 1 has 'nam'"),
    "format": (lambda c: c.update(format=2), "its format is 2, not 1"),
    "no classes": (lambda c: c.pop("classes"), "it has no classes"),
    "empty classes": (lambda c: c.update(classes={}), "an ensemble needs a class with members"),
    "class as text": (lambda c: c["classes"].update({"1": "A"}), "class 1 is not made of keys and values"),
    "members as text": (in_class(members="A"), "class 1 has no list of members"),
    "member as text": (in_class(members=["A"]), "a member of class 1 is not made of keys and values"),
    "no name": (in_class(members=[{}]), "the name of a member must be text, got None"),
    "edge as text": (in_class(members=[{"name": "A", "low_ml": "0"}]), "must go from 0 or more upwards"),
    "edge as yes": (in_class(members=[{"name": "A", "low_ml": True}]), "must go from 0 or more upwards"),
    "overlap": (in_class(members=[{"name": "A"}, {"name": "B"}]), "overlap from 0 mL on"),
    "negative minimum": (in_class(min_volume_ml=-1), "min_volume_ml must be 0 or more, got -1"),
    "minimum as text": (in_class(min_volume_ml="1"), "min_volume_ml must be 0 or more"),
    "hysteresis upside down": (in_class(hysteresis=[0.6, 0.5]), "hysteresis must be low and high"),
    "hysteresis of one": (in_class(hysteresis=[0.6]), "hysteresis must be low and high"),
    "hysteresis as number": (in_class(hysteresis=0.6), "hysteresis must be low and high"),
    "vote of none": (lambda c: c.update(vote=0), "vote must be a number of folders from 1 on"),
    "vote of half": (lambda c: c.update(vote=0.5), "vote must be a number of folders"),
    "another connectivity": (lambda c: c.update(connectivity=8), "connectivity must be 6, 18 or 26, got 8"),
    "connectivity as text": (lambda c: c.update(connectivity="6"), "connectivity must be 6, 18 or 26, got 6"),
    "rescue as text": (lambda c: c.update(rescue="no"), "rescue must be true or false, got no"),
}


@pytest.mark.parametrize("spoil, message", ODD.values(), ids=ODD.keys())
def test_an_odd_file_is_one_line(tmp_path: Path, spoil: Callable[[dict], object], message: str) -> None:
    content = PLAN.to_json()
    spoil(content)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as info:
        EnsemblePlan.read(file)
    assert str(info.value).startswith(f"{file}: ") and message in str(info.value) and "\n" not in str(info.value)


@pytest.mark.parametrize("content", ["{", "[1]", "3", "[" * 100_000])
def test_what_is_no_plan_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(content)
    with pytest.raises(UserError, match="plan.json"):
        EnsemblePlan.read(file)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read .*give the file that fit-ensemble wrote"):
        EnsemblePlan.read(tmp_path / "none.json")


def test_classes_that_only_options_name_are_refused() -> None:
    with pytest.raises(UserError, match="min_volume_ml names class '2', which has no members"):
        EnsemblePlan({"1": [Member("A")]}, min_volume_ml={"2": 1.0})


def test_one_entry_may_stand_for_all_classes() -> None:
    plan = EnsemblePlan({"*": [Member("A")]}, min_volume_ml={"*": 0.1}, rescue=True).for_classes(["1", "2"])
    assert plan == EnsemblePlan(
        {"1": [Member("A")], "2": [Member("A")]}, min_volume_ml={"1": 0.1, "2": 0.1}, rescue=True
    )
    with pytest.raises(UserError, match="stands for all classes"):
        EnsemblePlan({"*": [Member("A")], "1": [Member("A")]})


def test_a_plan_for_other_classes_is_refused() -> None:
    assert PLAN.for_classes(["(1, 2)", "1"]) is PLAN
    with pytest.raises(UserError, match=r"made for classes 1, \(1, 2\), but dataset.json has 1, 2: give"):
        PLAN.for_classes(["1", "2"])


def test_the_file_in_the_docs_is_a_plan() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ensembling.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.S)
    plan = EnsemblePlan.from_json(json.loads(block))
    assert plan.rescue and plan.hysteresis == {"1": (0.3, 0.6)} and plan.members["1"][1] == Member("B", 0.05, inf)
