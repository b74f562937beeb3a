"""The jobs of a study: what they hang on, and what has to be done again when something changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_instance_trainers.study.job_plan import (
    Training,
    invalid_stamps,
    make_plan,
    plans_copy,
    read_plan,
    same_plans,
    write_plan,
)
from nnunet_instance_trainers.study.study_file import Arm, Study

BASE = {"plans_name": "nnUNetPlans", "configurations": {"2d": {"batch_size": 2}}}
TAKES = {"A": True, "B": True, "Stock": False}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / "Dataset001_X").mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "raw" / "Dataset001_X" / "labelsTr").mkdir()
    (tmp_path / "preprocessed" / "Dataset001_X" / "gt_segmentations").mkdir()
    for folder in ("raw", "preprocessed"):
        (tmp_path / folder / "Dataset001_X" / "dataset.json").write_text('{"labels": {}, "file_ending": ".png"}')
    splits = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]
    (tmp_path / "preprocessed" / "Dataset001_X" / "splits_final.json").write_text(json.dumps(splits))
    return Study(
        file=tmp_path / "study.yaml",
        dataset="Dataset001_X",
        configuration="2d",
        seeds=(0, 1),
        arms=(Arm("A", "TrainerA", {"num_epochs": 3}), Arm("B", "TrainerB", {"num_epochs": 3})),
        reference="A",
        folds=(0, 1),
        output=tmp_path / "study",
    )


def stamps(plan: dict) -> set[str]:
    return {f"{kind}/{name}" for kind, jobs in plan["jobs"].items() for name in jobs}


def test_there_is_a_job_for_each_arm_seed_and_fold_and_step(study: Study) -> None:
    jobs = make_plan(replace(study, ensemble=True, challenges=("cell",)), BASE, TAKES)["jobs"]
    counts = {kind: len(own) for kind, own in jobs.items()}
    assert counts == {
        "prepare": 1, "train": 8, "predict": 8, "evaluate": 8, "challenge": 8, "ensemble": 2, "results": 1
    }  # fmt: skip
    made = {f"jobs/{kind}/{name}.json" for kind, own in jobs.items() for name in own}
    assert {need for own in jobs.values() for job in own.values() for need in job["needs"]} < made
    assert all(len(job["needs"]) == 4 for job in jobs["ensemble"].values())
    assert len(next(iter(jobs["results"].values()))["needs"]) == 18


def test_a_changed_arm_changes_its_own_jobs_and_the_results_alone(study: Study) -> None:
    changed = replace(study, arms=(study.arms[0], Arm("B", "TrainerB", {"num_epochs": 3, "weights": {"blob": 0.5}})))
    before, after = (stamps(make_plan(own, BASE, TAKES)) for own in (study, changed))
    gone = {name for name in before - after if not name.startswith("results/")}
    assert len(gone) == 12
    assert all("/B-seed" in name for name in gone)


@pytest.mark.parametrize(
    "change, kinds",
    [
        ({"evaluation": {"match": "iou"}}, {"evaluate", "results"}),
        ({"reference": "B"}, {"results"}),
        ({"patients": "^."}, {"results"}),
        ({"ensemble": True}, {"predict", "evaluate", "ensemble", "results"}),
        ({"device": "cpu", "threads": 4, "memory_gb": 1, "hours": 2, "gres": "gpu:1"}, set()),
        ({"configuration": "2d", "file": Path("moved.yaml")}, set()),
    ],
)
def test_only_what_hangs_on_a_change_is_done_again(study: Study, change: dict, kinds: set[str]) -> None:
    before, after = (stamps(make_plan(own, BASE, TAKES)) for own in (study, replace(study, **change)))
    assert {name.split("/")[0] for name in after - before} == kinds


def test_another_split_or_other_base_plans_train_again(study: Study) -> None:
    before = stamps(make_plan(study, BASE, TAKES))
    other = stamps(make_plan(study, {**BASE, "image_reader_writer": "other"}, TAKES))
    assert sum(name.startswith("train/") for name in other - before) == 8
    file = study.preprocessed / "splits_final.json"
    file.write_text(json.dumps([{"train": ["c"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    again = stamps(make_plan(study, BASE, TAKES)) - before
    assert {name.split("-")[2] for name in again if name.startswith("train/")} == {"fold_0"}


def test_a_copy_of_the_plans_has_settings_and_seed_and_a_name_that_nnunet_can_split(study: Study) -> None:
    copy = plans_copy(study, {**BASE, "continue_training": True}, study.arms[1], 1, takes_settings=True)
    assert copy["plans_name"] == "nnUNetPlans-B-seed1"
    assert copy["configurations"]["2d"] == {"batch_size": 2, "instance_training": {"num_epochs": 3, "seed": 1}}
    assert "continue_training" not in copy
    stock = plans_copy(study, BASE, Arm("Stock", "nnUNetTrainer"), 1, takes_settings=False)
    assert stock["configurations"] == BASE["configurations"]
    assert BASE == {"plans_name": "nnUNetPlans", "configurations": {"2d": {"batch_size": 2}}}
    folder = Training("B", "TrainerB", 1, 0, copy["plans_name"], True).folder(study)
    assert folder.parent.name.split("__") == ["TrainerB", "nnUNetPlans-B-seed1", "2d"]


def test_plans_are_the_same_but_for_nnunets_note() -> None:
    assert same_plans(BASE, {**BASE, "continue_training": True})
    assert not same_plans(BASE, {**BASE, "plans_name": "other"})


def test_a_job_reads_the_study_that_was_planned(study: Study, tmp_path: Path) -> None:
    for own in (study, replace(study, test={"images": tmp_path / "i", "labels": tmp_path / "l"}, folds=("all",))):
        (tmp_path / "i").mkdir(exist_ok=True)
        (tmp_path / "l").mkdir(exist_ok=True)
        write_plan(make_plan(own, BASE, TAKES), tmp_path / "plan.json")
        assert read_plan(tmp_path / "plan.json")[0] == own


def test_a_stamp_without_its_result_is_done_again(study: Study) -> None:
    plan = make_plan(study, BASE, TAKES)
    for kind in ("train", "predict"):
        for name in plan["jobs"][kind]:
            (study.output / "jobs" / kind / f"{name}.json").parent.mkdir(parents=True, exist_ok=True)
            (study.output / "jobs" / kind / f"{name}.json").touch()
    everything = [Training(**job["training"]) for job in plan["jobs"]["train"].values()]
    for training in everything:
        training.predictions(study).mkdir(parents=True)
    assert invalid_stamps(plan, study.output) == []  # models are gone, and nothing needs them
    lost = everything[3]
    lost.predictions(study).rmdir()
    assert {f"{path.parent.name}/{path.name[:14]}" for path in invalid_stamps(plan, study.output)} == {
        f"{kind}/{lost.arm}-seed{lost.seed}-fold_{lost.fold}" for kind in ("train", "predict")
    }
    (lost.folder(study) / "checkpoint_final.pth").touch()
    assert [path.parent.name for path in invalid_stamps(plan, study.output)] == ["predict"]
