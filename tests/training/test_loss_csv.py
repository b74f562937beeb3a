from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from nnunet_instance_trainers.training.loss_csv import LossRecord

pytestmark = pytest.mark.nnunet  # importing the trainers imports nnU-Net

PARTS = ["pixel", "blob"]
COLUMNS = ["epoch", "train_pixel", "train_blob", "val_pixel", "val_blob"]


def read(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def record_epochs(record: LossRecord, epochs: range, value: float) -> None:
    for epoch in epochs:
        record.add("train", {"pixel": torch.tensor(value), "blob": torch.tensor(value)})
        record.end_epoch(epoch)


def test_a_row_holds_the_mean_over_the_steps_of_its_epoch(tmp_path: Path) -> None:
    record = LossRecord(tmp_path / "losses.csv", PARTS, first_epoch=0)
    for pixel, blob in [(1.0, 0.5), (2.0, 0.25), (6.0, 0.0)]:
        record.add("train", {"pixel": torch.tensor(pixel), "blob": torch.tensor(blob)})
    record.add("val", {"pixel": torch.tensor(-0.5), "blob": torch.tensor(1.0)})
    assert record.end_epoch(0) == {"train_pixel": 3.0, "train_blob": 0.25, "val_pixel": -0.5, "val_blob": 1.0}
    (row,) = read(tmp_path / "losses.csv")
    assert list(row) == COLUMNS
    assert row == {"epoch": "0", "train_pixel": "3", "train_blob": "0.25", "val_pixel": "-0.5", "val_blob": "1"}


def test_epochs_do_not_run_into_each_other(tmp_path: Path) -> None:
    record = LossRecord(tmp_path / "losses.csv", PARTS, first_epoch=0)
    record_epochs(record, range(1), value=4.0)
    record_epochs(record, range(1, 2), value=8.0)
    assert [(row["epoch"], row["train_pixel"]) for row in read(tmp_path / "losses.csv")] == [("0", "4"), ("1", "8")]


def test_the_file_is_whole_after_every_epoch(tmp_path: Path) -> None:
    record = LossRecord(tmp_path / "losses.csv", PARTS, first_epoch=0)
    for epoch in range(3):
        record_epochs(record, range(epoch, epoch + 1), value=1.0)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.csv", "losses.png"]
        assert len(read(tmp_path / "losses.csv")) == epoch + 1


def test_a_part_without_steps_is_left_blank(tmp_path: Path) -> None:
    record = LossRecord(tmp_path / "losses.csv", PARTS, first_epoch=0)
    record.add("train", {"pixel": torch.tensor(2.0)})
    assert record.end_epoch(0) == {"train_pixel": 2.0}
    assert read(tmp_path / "losses.csv") == [
        {"epoch": "0", "train_pixel": "2", "train_blob": "", "val_pixel": "", "val_blob": ""}
    ]


def test_half_precision_is_averaged_in_single_precision(tmp_path: Path) -> None:
    record = LossRecord(tmp_path / "losses.csv", ["pixel"], first_epoch=0)
    for value in (1.0, 1.0 + 2**-10):  # neighbours in float16, so their mean is no float16
        record.add("train", {"pixel": torch.tensor(value, dtype=torch.float16)})
    assert record.end_epoch(0) == {"train_pixel": 1.0 + 2**-11}


@pytest.mark.parametrize("first_epoch, kept", [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2, 3, 4])])
def test_a_resumed_training_has_each_epoch_once(tmp_path: Path, first_epoch: int, kept: list[int]) -> None:
    file = tmp_path / "losses.csv"
    record_epochs(LossRecord(file, PARTS, first_epoch=0), range(5), value=1.0)
    record_epochs(LossRecord(file, PARTS, first_epoch), range(first_epoch, first_epoch + 2), value=2.0)
    expected = [(epoch, "1") for epoch in kept] + [(first_epoch, "2"), (first_epoch + 1, "2")]
    assert [(int(row["epoch"]), row["train_blob"]) for row in read(file)] == expected


@pytest.mark.parametrize("old", ["epoch,train_pixel\n0,1\n1,1\n", "rubbish\n1\n", ""])
def test_a_training_from_scratch_starts_a_new_file_whatever_is_there(tmp_path: Path, old: str) -> None:
    file = tmp_path / "losses.csv"
    file.write_text(old)
    record_epochs(LossRecord(file, PARTS, first_epoch=0), range(1), value=2.0)
    assert [(row["epoch"], row["train_blob"]) for row in read(file)] == [("0", "2")]


def test_a_training_resumed_without_its_file_goes_on(tmp_path: Path) -> None:
    record_epochs(LossRecord(tmp_path / "losses.csv", PARTS, first_epoch=7), range(7, 8), value=2.0)
    assert [row["epoch"] for row in read(tmp_path / "losses.csv")] == ["7"]


def test_a_training_resumed_with_a_term_less_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "losses.csv"
    record_epochs(LossRecord(file, PARTS, first_epoch=0), range(2), value=1.0)
    record = LossRecord(file, ["pixel"], first_epoch=2)
    record.add("train", {"pixel": torch.tensor(2.0)})
    record.end_epoch(2)
    assert [row["train_pixel"] for row in read(file)] == ["1", "1", "2"]


def test_only_one_of_several_processes_writes(tmp_path: Path) -> None:
    record = LossRecord(tmp_path / "losses.csv", ["pixel"], first_epoch=0)
    record.add("train", {"pixel": torch.tensor(2.0)})
    assert record.end_epoch(0, write=False) == {"train_pixel": 2.0}
    assert list(tmp_path.iterdir()) == []


def test_the_mean_is_over_the_steps_of_all_processes(tmp_path: Path) -> None:
    record = LossRecord(tmp_path / "losses.csv", ["pixel"], first_epoch=0)
    for value in (1.0, 2.0, 3.0):
        record.add("train", {"pixel": torch.tensor(value)})
    handed = []

    def of_all_processes(own: dict) -> list[dict]:
        handed.append(own)
        return [own, {"train_pixel": (14.0, 1)}]

    assert record.end_epoch(0, of_all_processes=of_all_processes) == {"train_pixel": 5.0}  # (1 + 2 + 3 + 14) / 4
    assert handed == [{"train_pixel": (6.0, 3)}]


def test_the_figure_does_not_take_over_what_nnunet_leaves_of_its_own(tmp_path: Path) -> None:
    """Its progress.png sets fonts for all later figures; ours then had no room for its axes."""
    import seaborn
    from matplotlib import rc_context

    pictures = []
    for scale in (1, 2.5):
        with rc_context():
            seaborn.set_theme(font_scale=scale)
            record_epochs(LossRecord(tmp_path / "losses.csv", PARTS, first_epoch=0), range(2), value=1.0)
        pictures.append((tmp_path / "losses.png").read_bytes())
    assert pictures[0] == pictures[1]
