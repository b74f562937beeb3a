"""The result folder of what is there, and words about what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluated import synthetic

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.scoring.result_files import write_evaluation
from nnunet_instance_trainers.study.job_plan import Training
from nnunet_instance_trainers.study.jobs import failure_file
from nnunet_instance_trainers.study.result_folder import find_missing, results
from nnunet_instance_trainers.study.study_file import Arm, Study

SKILLS = {"Baseline": 0.5, "Blob": 0.75, "Broken": 0.5}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / "Dataset001_X").mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "raw" / "Dataset001_X" / "dataset.json").write_text("{}")
    return Study(
        file=tmp_path / "study.yaml",
        dataset="Dataset001_X",
        configuration="2d",
        seeds=(0, 1),
        arms=tuple(Arm(name, "nnUNetTrainerBlob", {"num_epochs": 2}) for name in SKILLS),
        reference="Baseline",
        folds=("all",),
        output=tmp_path / "study",
    )


@pytest.fixture
def plan(study: Study) -> dict:
    """Everything of two arms is done; a training of the third failed, another has not begun."""
    jobs: dict[str, dict] = {"train": {}, "evaluate": {}, "results": {"results-0": {"needs": []}}}
    for arm, skill in SKILLS.items():
        for seed in study.seeds:
            training = Training(arm, "nnUNetTrainerBlob", seed, "all", f"nnUNetPlans-{arm}-seed{seed}", True)
            own, name = {"training": vars(training)}, f"{arm}-seed{seed}-fold_all-0"
            jobs["train"][name] = {"needs": [], "plans": {}, **own}
            jobs["evaluate"][name] = {"needs": [f"jobs/train/{name}.json"], **own}
            if arm == "Broken":
                continue
            curves = {key: [2.0, 1.0] for key in ("seconds_per_epoch", "train_loss", "val_loss", "pseudo_dice")}
            for kind in ("train", "evaluate"):
                stamp = study.output / "jobs" / kind / f"{name}.json"
                stamp.parent.mkdir(parents=True, exist_ok=True)
                stamp.write_text(json.dumps({**own, **curves}))
            write_evaluation(training.scores(study), synthetic(arm, 8, skill + 0.02 * seed))
    note = failure_file(study.output, "train", "Broken-seed0-fold_all-0")
    note.parent.mkdir(parents=True)
    note.write_text("RuntimeError: no such luck\n")
    return {"jobs": jobs, "study": {}}


def test_what_is_missing_is_said_with_the_reason(study: Study, plan: dict) -> None:
    assert find_missing(study.output, plan) == [
        "training of Broken, seed0, fold_all: RuntimeError: no such luck",
        "training of Broken, seed1, fold_all: it has not begun",
        "2 jobs that need them",
    ]
    log = study.output / "logs" / "train" / "Broken-seed1-fold_all-0.log"
    log.parent.mkdir(parents=True)
    log.touch()
    assert find_missing(study.output, plan)[1].endswith(f"it did not end, or was killed; see {log}")


def test_the_rest_is_reported(study: Study, plan: dict) -> None:
    stamp = results(study, plan, {}, 1)
    assert len(stamp["missing"]) == 3
    page = (study.output / "report.html").read_text()
    for words in (
        "2 arms, 2 seeds (0, 1)",
        "Learning curves",
        "Seconds per epoch",
        "patients and seeds",
        "epochs: 2",
        "no such luck",
    ):
        assert words in page
    assert page.count("Mind the volume") == (study.output / "table.md").read_text().count("Mind the volume")
    provenance = json.loads((study.output / "provenance.json").read_text())
    assert {"versions", "study", "dataset_json_sha256", "trainings", "command"} <= provenance.keys()
    assert len(provenance["trainings"]) == 4
    names = {path.name for path in study.output.iterdir() if path.is_file()}
    assert names == {
        "comparison.csv", "provenance.json", "report.html", "sizes.csv", "study.csv", "table.md", "table.tex"
    }  # fmt: skip


def test_without_a_score_there_is_no_report(study: Study, plan: dict) -> None:
    for file in (study.output / "jobs" / "evaluate").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="nothing was scored yet"):
        results(study, plan, {}, 1)
    assert not (study.output / "report.html").exists()
