"""Weights & Biases beside nnU-Net's own logger, with the real package and no network."""

from __future__ import annotations

import csv
import json
import struct
from math import nan
from pathlib import Path

import pytest

pytestmark = pytest.mark.nnunet

CLASSES = "Dataset902_Classes"


def epochs_in(file: Path) -> list[dict[str, float]]:
    """What an offline run logged for each step: records in the log format of LevelDB, each a protocol buffer."""
    from wandb.proto import wandb_internal_pb2 as proto

    content, place, record, history = file.read_bytes(), 7, b"", {}
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            parsed = proto.Record.FromString(record)
            record = b""
            if parsed.HasField("history"):
                items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in parsed.history.item}
                history.setdefault(items["_step"], {}).update(items)
    return [history[step] for step in sorted(history)]


@pytest.fixture
def trainer(boxes, monkeypatch):
    """Two epochs to go, with Weights & Biases."""
    from nnunet_datasets import make_trainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    for name, value in {"nnUNet_wandb_enabled": "1", "nnUNet_wandb_mode": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    folders, plans = boxes
    schedule = {"num_epochs": 2, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "seed": 0}
    plans[CLASSES]["configurations"]["3d_fullres"]["instance_training"] = {"source": "patch", **schedule}
    yield make_trainer(nnUNetTrainerBlob, folders, plans[CLASSES], "3d_fullres")
    finish()


def finish() -> None:
    """End the run and wait until its service has written all."""
    import wandb

    wandb.finish()
    wandb.teardown()


def rows(trainer, name: str) -> list[dict[str, str]]:
    with open(Path(trainer.output_folder) / f"{name}.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_losses_and_scores_stand_in_wandb_under_their_own_prefix(trainer) -> None:
    trainer.run_training()
    assert set(trainer.logger.local_logger.my_fantastic_logging) == {
        *("mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region", "train_losses", "val_losses", "lrs"),
        *("epoch_start_timestamps", "epoch_end_timestamps"),
    }
    finish()
    (file,) = Path(trainer.output_folder).glob("wandb/offline-run-*/*.wandb")
    logged = epochs_in(file)
    assert len(logged) == 2
    losses, scores = rows(trainer, "instance_losses"), rows(trainer, "instance_scores")
    for epoch, (values, loss, score) in enumerate(zip(logged, losses, scores)):
        assert values["train_losses"] == pytest.approx(trainer.logger.get_value("train_losses", step=epoch))
        own = {key: value for key, value in values.items() if key.startswith("instance_")}
        expected = {f"instance_losses/{name}": float(loss[name]) for name in loss if name != "epoch"}
        for name in ("odd", "even"):
            for column in ("instances", "missed", "false", "sensitivity", "volume_ratio"):
                if score[f"{name}_{column}"]:
                    expected[f"instance_scores/{column}/{name}"] = float(score[f"{name}_{column}"])
        assert {f"instance_scores/instances/{name}" for name in ("odd", "even")} < expected.keys()
        assert {key: own[key] for key in expected} == pytest.approx(expected, rel=1e-5)
        assert all(value == value for value in own.values())


class Broken:
    """A logger without a network, say."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def log(self, key: str, value: object, step: int) -> None:
        self.keys.append(key)
        if key.startswith("instance_"):
            raise ConnectionError("no network")

    log_summary = update_config = lambda self, *_: None


def test_a_logger_that_fails_ends_no_training(trainer) -> None:
    broken = Broken()
    trainer.logger.loggers.append(broken)
    trainer.num_epochs = 1
    trainer.run_training()
    log = next(Path(trainer.output_folder).glob("training_log*.txt")).read_text()
    for what in ("instance_losses", "instance_scores"):
        assert f"Broken did not take the {what}: ConnectionError: no network" in log
    assert len(rows(trainer, "instance_losses")) == 1 and "epoch_end_timestamps" in broken.keys


def test_nothing_is_told_without_another_logger_and_nan_never(monkeypatch) -> None:
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    from nnunet_instance_trainers.training.other_loggers import log_epoch, log_summary

    monkeypatch.setenv("nnUNet_wandb_enabled", "0")
    logger, said = MetaLogger("", False), []
    log_epoch(logger, "instance_losses", {"blob": 1.0}, 0, said.append)
    logger.loggers.append(Broken())
    log_epoch(logger, "a", {"x": nan, "y": 2.0}, 3, said.append)
    assert logger.loggers[0].keys == ["a/y"] and said == []
    del Broken.log_summary
    try:
        log_summary(logger, "b", {"x": 1.0}, said.append)
    finally:
        Broken.log_summary = lambda self, *_: None
    assert len(said) == 1 and said[0].startswith("Broken did not take the b: AttributeError")
