from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import synthetic

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.comparing.evaluated_models import parse_pairs, read_models
from nnunet_instance_trainers.evaluation.scoring.result_files import bin_names


def test_models_are_named_by_the_ends_of_their_paths_that_differ(written: Callable) -> None:
    one, two = (written(synthetic("x", 2, 0.5), f"{run}/evaluation") for run in ("one", "two"))
    assert [read.name for read in read_models([one, two])] == ["one/evaluation", "two/evaluation"]
    assert [read.name for read in read_models([one])] == ["evaluation"]


def _rename(file: Path, old: str, new: str) -> None:
    header, rest = file.read_text().split("\n", 1)
    file.write_text(f"{header.replace(old, new)}\n{rest}")


def _rename_all(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))


def _without(file: Path, *keys: str) -> None:
    summary = json.loads(file.read_text())
    place = summary
    for key in keys[:-1]:
        place = place[key]
    del place[keys[-1]]
    file.write_text(json.dumps(summary))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _rename(folder / "cases.csv", ",instances,", ",instanceS,"),
        lambda folder: _rename(folder / "cases.csv", "pq_dice", "pq_dicf"),
        lambda folder: _rename(folder / "sizes.csv", "found", "fount"),
        lambda folder: _without(folder / "summary.json", "metric_per_case"),
        lambda folder: _without(folder / "summary.json", "settings", "classes"),
        lambda folder: _without(folder / "summary.json", "settings", "bins_ml"),
        lambda folder: _rename_all(folder / "sizes.csv", "<0.01", "<0.02"),
    ],
)
def test_a_folder_that_lacks_what_evaluate_writes_is_named(written: Callable, damage: Callable[[Path], None]) -> None:
    folder = written(synthetic("A", 2, 0.5))
    damage(folder)
    with pytest.raises(UserError, match=f"{folder} is damaged: run 'nnunet-instance evaluate' again"):
        read_models([folder])


def test_the_same_folder_twice_is_refused(written: Callable) -> None:
    folder = written(synthetic("A", 2, 0.5))
    with pytest.raises(UserError, match="is given twice"):
        read_models([folder, folder / ".." / "A"])


def test_what_is_missing_where_is_said_in_one_line(written: Callable) -> None:
    a = synthetic("A", 6, 0.5, classes=("core", "rim"))
    b = replace(a, name="B", cases=[row for row in a.cases if row["case"] == "case_0000"])
    c = replace(a, name="C", cases=[row for row in a.cases if (row["case"], row["class"]) != ("case_0003", "rim")])
    with pytest.raises(UserError) as info:
        read_models([written(each) for each in (a, b, c)])
    assert str(info.value) == (
        "the models were not evaluated on the same cases and classes: B lacks case_0001, case_0002, case_0003 and 2 "
        "more; C lacks class rim of case_0003; evaluate the same cases with each"
    )


def test_other_references_are_refused(written: Callable) -> None:
    with pytest.raises(UserError, match=r"case 'case_0000', class lesion has \d+ instances for A and \d+ for B"):
        read_models([written(synthetic("A", 3, 0.5)), written(synthetic("B", 3, 0.5, seed=1))])


@pytest.mark.parametrize("key, value", [("match", "iou"), ("threshold", 0.3), ("bins_ml", [1.0])])
def test_other_settings_are_refused(written: Callable, key: str, value: object) -> None:
    a, b = synthetic("A", 3, 0.5), synthetic("B", 3, 0.5)
    b.summary["settings"][key] = value
    for row in b.sizes:
        row["bin"] = bin_names(b.summary["settings"]["bins_ml"])[0]
    with pytest.raises(UserError, match=rf"A was evaluated with {key} .* and B with .*: evaluate them alike"):
        read_models([written(a), written(b)])


def test_pairs_are_named_by_the_models() -> None:
    folders = [Path("eval/a"), Path("eval/b"), Path("eval/c:d")]
    names = ["a", "b", "c:d"]
    assert parse_pairs(["b:a", "a:c:d"], folders, names) == [("b", "a"), ("a", "c:d")]
    assert parse_pairs(["eval/b:eval/a", "eval/a:b"], folders, names) == [("b", "a"), ("a", "b")]
    for wrong in ("a", "a:x", "a:a", "eval/a:a"):
        with pytest.raises(UserError, match=rf"--pairs '{wrong}' is not MODEL:MODEL with two of the models a, b"):
            parse_pairs([wrong], folders[:2], names[:2])
