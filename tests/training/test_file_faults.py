"""A training that is killed, or whose files go: nothing is lost, and the user reads which file and what to do."""

from __future__ import annotations

import csv
import errno
import subprocess
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.nnunet

BOXES = "Dataset901_Boxes"
GO_ON = "make room or allow it, then go on with --c"
TINY = {"num_epochs": 2, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "seed": 0}


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    from nnunet_instance_trainers.training.loss_csv import LossRecord
    from nnunet_instance_trainers.training.scores_csv import ScoreRecord

    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: None)
    monkeypatch.setattr(LossRecord, "_draw", lambda *_: None)
    monkeypatch.setattr(ScoreRecord, "_draw", lambda *_: None)


def make(boxes, *, resume=False, **settings):
    """A trainer that saves every epoch."""
    from nnunet_datasets import make_trainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    folders, plans = boxes
    plans[BOXES]["configurations"]["3d_fullres"]["instance_training"] = {"source": "patch", **TINY, **settings}
    trainer = make_trainer(nnUNetTrainerBlob, folders, plans[BOXES], "3d_fullres", resume=resume)
    trainer.save_every = 1
    return trainer


def resumed(boxes, **settings):
    """As ``nnUNetv2_train --c`` builds it."""
    from nnunetv2.run.run_training import maybe_load_checkpoint

    trainer = make(boxes, resume=True, **settings)
    maybe_load_checkpoint(trainer, True, False)
    return trainer


def stopped_with(trainer) -> str:
    with pytest.raises(SystemExit) as stop:
        trainer.run_training()
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


def epochs(trainer, name: str) -> list[int]:
    with open(Path(trainer.output_folder) / name, newline="") as stream:
        return [int(row["epoch"]) for row in csv.DictReader(stream)]


def files(trainer) -> set[str]:
    return {path.name for path in Path(trainer.output_folder).iterdir()}


class Killed(BaseException):
    """What a killed process does not catch."""


# --- killed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("metric", ["dice", "f1"])
def test_killed_in_the_midst_of_any_file_the_training_goes_on_to_the_same_end(boxes, monkeypatch, stop, metric):
    """The kill comes when the first, second, ... file of the epochs is half written under its temporary name."""
    from nnunet_instance_trainers.data import map_store

    replace, calls = map_store.os.replace, iter(range(100))

    def killed(source, target):
        if Path(target).suffix in (".csv", ".pth") and next(calls) == stop:
            Path(source).write_bytes(Path(source).read_bytes()[:7])
            raise Killed
        replace(source, target)

    trainer = make(boxes, checkpoint_metric=metric)
    with monkeypatch.context() as patch:
        patch.setattr(map_store.os, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process does not clean up
        with pytest.raises(Killed):
            trainer.run_training()
    assert any(name.startswith(".unfinished_") for name in files(trainer))
    going_on = resumed(boxes, checkpoint_metric=metric)
    going_on.run_training()
    for name in ("instance_losses.csv", "instance_scores.csv"):
        assert epochs(going_on, name) == [0, 1]
    assert {"checkpoint_final.pth", "checkpoint_best.pth"} <= files(going_on)
    assert not any(name.startswith(".unfinished_") for name in files(going_on))
    logging = torch.load(Path(going_on.output_folder) / "checkpoint_final.pth", weights_only=False)["logging"]
    assert {len(values) for values in logging.values()} == {2}


def test_the_best_epoch_by_scores_is_saved_before_the_latest(boxes, monkeypatch):
    """Otherwise a training resumed from the latest would take its epoch for saved."""
    from nnunet_instance_trainers.data import map_store

    saved, replace = [], map_store.os.replace
    monkeypatch.setattr(map_store.os, "replace", lambda a, b: (saved.append(Path(b).name), replace(a, b)))
    make(boxes, checkpoint_metric="f1").run_training()
    checkpoints = [name for name in saved if name.endswith(".pth")]
    assert checkpoints[:2] == ["checkpoint_best.pth", "checkpoint_latest.pth"]
    assert checkpoints[-1] == "checkpoint_final.pth" and checkpoints.count("checkpoint_best.pth") <= 2


# --- a disk that is full ----------------------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_is_one_line_and_the_last_one_stays(boxes, monkeypatch):
    save = torch.save

    def full(content, file):
        if "checkpoint_latest" in str(file) and content["current_epoch"] == 2:
            Path(file).write_bytes(b"half a checkpoint")
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534\nmore")
        save(content, file)

    trainer = make(boxes, num_epochs=3)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        line = stopped_with(trainer)
    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    assert f"cannot write to {latest} (" in line and line.endswith(GO_ON)
    assert torch.load(latest, weights_only=False)["current_epoch"] == 1
    going_on = resumed(boxes, num_epochs=3)
    going_on.run_training()
    assert epochs(going_on, "instance_losses.csv") == [0, 1, 2]


def test_a_real_full_disk_is_one_line(boxes, small_disk):
    trainer = make(boxes)
    trainer.output_folder = trainer.output_folder_base = str(small_disk)
    (small_disk / "rest").write_bytes(bytes(950_000))  # room for the copies of the plans, not for a checkpoint
    line = stopped_with(trainer)
    assert "cannot write to" in line and str(small_disk) in line and line.endswith(GO_ON)
    assert not [name for name in files(trainer) if name.endswith((".pth", ".csv")) and not _reads(small_disk / name)]


def _reads(file: Path) -> bool:
    return bool(torch.load(file, weights_only=False) if file.suffix == ".pth" else file.read_text())


@pytest.mark.parametrize("name", ["instance_training.json", "instance_losses.csv", "instance_scores.csv"])
def test_a_table_that_cannot_be_written_is_mended_by_going_on(boxes, monkeypatch, name):
    """The same command again would begin the training anew."""
    from nnunet_instance_trainers.data import map_store

    replace = map_store.os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    trainer = make(boxes)
    monkeypatch.setattr(map_store.os, "replace", full)
    line = stopped_with(trainer)
    assert line.endswith(f"cannot write to {Path(trainer.output_folder) / name} (No space left on device): {GO_ON}")


def test_a_failure_of_the_gpu_while_a_checkpoint_is_saved_is_no_full_disk(boxes, monkeypatch):
    trainer, bug = make(boxes), RuntimeError("CUDA error: device-side assert triggered")

    def save(*_):
        raise bug

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(RuntimeError) as info:
            trainer.run_training()
    assert info.value is bug


def test_a_read_only_folder_of_results_is_one_line(boxes, small_disk, monkeypatch):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    monkeypatch.setenv("nnUNet_results", str(small_disk))
    with pytest.raises(
        SystemExit, match=f"cannot write to {small_disk} .Read-only file system.: make room or allow it"
    ):
        make(boxes)


@pytest.mark.parametrize("ours", [True, False])
def test_a_file_that_may_not_be_written_is_one_line(boxes, monkeypatch, ours):
    """nnU-Net's copies of the plans; what is not in the results may be a file that cannot be read."""
    trainer = make(boxes)
    file = (Path(trainer.output_folder_base) if ours else boxes[0].raw) / "plans.json"

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.save_json", forbidden)
    if ours:
        assert f"cannot write to {file} (Permission denied): {GO_ON}" in stopped_with(trainer)
    else:
        with pytest.raises(PermissionError):
            trainer.run_training()


def test_a_write_of_nnunet_itself_that_fails_is_one_line(boxes, monkeypatch):
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = make(boxes)
    monkeypatch.setattr(MetaLogger, "plot_progress_png", full)
    assert f"cannot write to {trainer.output_folder} (No space left on device)" in stopped_with(trainer)


# --- files that go in mid-training ------------------------------------------------------------------------------


def spoil(boxes, trainer, name: str, damage: str):
    """Remove or cut off some files of all cases once the first epoch is over."""
    folder = boxes[0].preprocessed / BOXES
    end = trainer.on_epoch_end

    def ending():
        end()
        for path in folder.glob(name):
            if damage == "gone":
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[:-9])

    trainer.on_epoch_end = ending


MAPS, CASES = "nnUNetPlans_3d_fullres_instances", "nnUNetPlans_3d_fullres"
PRECOMPUTE, PREPROCESS = "nnunet-instance precompute -d 901 -c 3d_fullres", "nnUNetv2_preprocess -d 901"


@pytest.mark.parametrize(
    "source, name, damage, remedy, workers",
    [
        ("precomputed", f"{MAPS}/case_?.b2nd", "gone", PRECOMPUTE, "0"),
        ("precomputed", f"{MAPS}/case_?.b2nd", "cut", PRECOMPUTE, "1"),
        ("precomputed", f"{CASES}/case_?_seg.b2nd", "gone", PREPROCESS, "0"),
        ("patch", f"{CASES}/case_?_seg.b2nd", "cut", PREPROCESS, "0"),
        ("patch", f"{CASES}/case_?.pkl", "gone", PREPROCESS, "1"),
    ],
)
def test_a_file_that_goes_in_mid_training_is_named_with_the_command(
    boxes, monkeypatch, source, name, damage, remedy, workers
):
    from nnunet_instance_trainers.data.precompute import precompute

    monkeypatch.setenv("nnUNet_n_proc_DA", workers)
    if source == "precomputed":
        precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    trainer = make(boxes, source=source, num_epochs=200)
    spoil(boxes, trainer, name, damage)
    line = stopped_with(trainer)
    assert "case 'case_" in line and f"run '{remedy}" in line
    assert "checkpoint_latest.pth" in files(trainer)  # so the training goes on once the file is mended


def test_maps_that_went_are_mended_by_the_command_and_the_training_goes_on(boxes):
    from nnunet_instance_trainers.data.precompute import precompute

    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    trainer = make(boxes, source="precomputed")
    spoil(boxes, trainer, f"{MAPS}/*", "gone")
    stopped_with(trainer)
    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    going_on = resumed(boxes, source="precomputed")
    going_on.run_training()
    assert epochs(going_on, "instance_losses.csv") == [0, 1]


def test_a_table_that_goes_does_no_harm_before_the_next_start(boxes):
    from nnunet_instance_trainers.data.precompute import precompute

    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    trainer = make(boxes, source="precomputed")
    spoil(boxes, trainer, f"{MAPS}/case_?.npz", "gone")
    trainer.run_training()
    assert PRECOMPUTE in stopped_with(make(boxes, source="precomputed"))


def test_half_a_file_of_folds_is_named(boxes):
    file = boxes[0].preprocessed / BOXES / "splits_final.json"
    file.write_text(file.read_text()[:9])
    assert f"{file} is damaged: restore it, or delete it" in stopped_with(make(boxes))


def test_the_log_keeps_the_failure_that_a_file_explains(boxes, monkeypatch):
    """The file may have gone by chance, and the failure may come again."""
    trainer = make(boxes)

    def step(_):
        (boxes[0].preprocessed / BOXES / CASES / "case_0.pkl").unlink()
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(trainer, "train_step", step)
    assert f"run '{PREPROCESS}" in stopped_with(trainer)
    (log,) = Path(trainer.output_folder).glob("training_log*.txt")
    assert "RuntimeError: CUDA out of memory" in log.read_text()


def test_a_failure_that_no_file_explains_stays_as_it_is(boxes, monkeypatch):
    trainer = make(boxes)
    bug = RuntimeError("a bug")

    def step(_):
        raise bug

    monkeypatch.setattr(trainer, "train_step", step)
    with pytest.raises(RuntimeError) as info:
        trainer.run_training()
    assert info.value is bug
