"""What the jobs find there: finished trainings and predictions are taken over, others are set aside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.study.job_plan import Training
from nnunet_instance_trainers.study.study_file import Arm, Study

pytestmark = pytest.mark.nnunet

PLANS = {"plans_name": "nnUNetPlans-A-seed0", "configurations": {"2d": {"instance_training": {"seed": 0}}}}
TRAINING = Training("A", "nnUNetTrainerBlob", 0, "all", "nnUNetPlans-A-seed0", True)
LOG = {
    "epoch_start_timestamps": [0.0, 10.0],
    "epoch_end_timestamps": [4.0, 15.0],
    "train_losses": [2.0, 1.0],
    "val_losses": [3.0, 2.0],
    "mean_fg_dice": [0.25, np.float32(0.5)],  # as nnU-Net logs them
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / "Dataset001_X").mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    raw = tmp_path / "raw" / "Dataset001_X"
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "box": 1}, "file_ending": ".png"}))
    for folder in ("imagesTs", "labelsTs"):
        (raw / folder).mkdir()
    (raw / "imagesTs" / "a_0000.png").touch()
    return Study(
        file=tmp_path / "study.yaml",
        dataset="Dataset001_X",
        configuration="2d",
        seeds=(0,),
        arms=(Arm("A", "nnUNetTrainerBlob"),),
        reference="A",
        folds=("all",),
        test={"images": raw / "imagesTs", "labels": raw / "labelsTs"},
        output=tmp_path / "study",
        device="cpu",
    )


def save_checkpoint(study: Study, name: str = "checkpoint_final.pth", plans: dict = PLANS) -> Path:
    import torch

    folder = TRAINING.folder(study)
    folder.mkdir(parents=True, exist_ok=True)
    init = {"plans": {**plans, "continue_training": True}}
    torch.save({"logging": LOG, "init_args": init, "trainer_name": TRAINING.trainer}, folder / name)
    return folder


def never(*_: object, **__: object) -> None:
    raise AssertionError("nothing is to be trained or predicted")


def train(study: Study, plans: dict = PLANS) -> dict:
    from nnunet_instance_trainers.study import training_jobs

    return training_jobs.train(study, {}, {"training": vars(TRAINING), "plans": plans}, 1)


def test_a_finished_training_with_equal_plans_is_taken_over(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_instance_trainers.study.training_jobs._trainer", never)
    folder = save_checkpoint(study)
    stamp = train(study)
    assert stamp["seconds_per_epoch"] == [4.0, 5.0]
    assert (stamp["train_loss"], stamp["val_loss"], stamp["pseudo_dice"]) == ([2, 1], [3, 2], [0.25, 0.5])
    assert json.loads((study.preprocessed / "nnUNetPlans-A-seed0.json").read_text()) == PLANS
    assert [path.name for path in folder.parent.iterdir()] == ["fold_all"]


class Trained:
    """In place of a trainer: notes whether it was to go on, and writes the checkpoint."""

    def __init__(self, study: Study, plans: dict, resumed: list[bool]) -> None:
        self.study, self.plans, self.resumed = study, plans, resumed

    def __call__(self, study: Study, training: Training, threads: int, *, resume: bool) -> Trained:
        self.resumed.append(resume)
        return self

    def run_training(self) -> None:
        save_checkpoint(self.study, plans=self.plans)


def test_a_training_with_other_plans_is_kept_beside_and_done_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed: list[bool] = []
    other = {**PLANS, "configurations": {"2d": {"instance_training": {"seed": 0, "scale": "unit"}}}}
    monkeypatch.setattr("nnunet_instance_trainers.study.training_jobs._trainer", Trained(study, other, resumed))
    folder = save_checkpoint(study)
    train(study, other)
    assert resumed == [False]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["fold_all", "replaced_0_fold_all"]
    assert json.loads((study.preprocessed / "nnUNetPlans-A-seed0.json").read_text()) == other


@pytest.mark.parametrize("whole, resume", [(True, True), (False, False)])
def test_an_interrupted_training_goes_on_unless_its_checkpoint_is_cut_off(
    study: Study, monkeypatch: pytest.MonkeyPatch, whole: bool, resume: bool
) -> None:
    resumed: list[bool] = []
    monkeypatch.setattr("nnunet_instance_trainers.study.training_jobs._trainer", Trained(study, PLANS, resumed))
    file = save_checkpoint(study, "checkpoint_latest.pth") / "checkpoint_latest.pth"
    if not whole:
        file.write_bytes(file.read_bytes()[:200])
    train(study)
    assert resumed == [resume]
    assert file.with_suffix(".damaged").exists() != whole


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def test_a_checkpoint_that_wants_to_be_executed_is_one_line(study: Study, tmp_path: Path) -> None:
    import torch

    folder = save_checkpoint(study)
    torch.save({"init_args": Bomb(tmp_path / "executed")}, folder / "checkpoint_final.pth")
    with pytest.raises(UserError, match="checkpoint_final.pth holds more than nnU-Net's checkpoints do"):
        train(study)
    assert not (tmp_path / "executed").exists()
    assert (folder / "checkpoint_final.pth").exists()


def test_predictions_of_equal_plans_are_taken_over_and_others_are_not(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_instance_trainers.study import training_jobs

    monkeypatch.setattr(training_jobs, "nnUNetPredictor", never)
    model = TRAINING.folder(study).parent
    predictions = TRAINING.predictions(study)
    for folder in (model, predictions):
        folder.mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(PLANS))
    (predictions / "a.png").touch()
    job = {"training": vars(TRAINING)}
    assert training_jobs.predict(study, {}, job, 1)["predictions"] == str(predictions)
    (model / "plans.json").write_text(json.dumps({**PLANS, "plans_name": "other"}))
    with pytest.raises(AssertionError, match="nothing is to be"):
        training_jobs.predict(study, {}, job, 1)
    assert not predictions.exists()
