"""Several processes train as one: what two gloo processes made of nnU-Net's own trainer code, in tests/ranks.py."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.nnunet

SECONDS = 600
TRAININGS = ["patch", "precomputed", "uneven", "scales"]


@pytest.fixture(scope="module")
def results(_boxes, tmp_path_factory) -> Path:
    """The folder in which two processes wrote their results; a deadlock fails instead of hanging."""
    from nnunet_datasets import Folders

    folder = tmp_path_factory.mktemp("ranks")
    folders = Folders(folder / "nnunet")
    shutil.copytree(_boxes[0].root, folders.root)
    folders.results.mkdir(exist_ok=True)
    script = Path(__file__).parents[1] / "ranks.py"
    environment = {**os.environ, **folders.environment}
    logs = [folder / f"{rank}.log" for rank in (0, 1)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, str(script), str(rank), str(folder)]
            with open(log, "w") as stream:
                processes.append(subprocess.Popen(command, env=environment, stdout=stream, stderr=stream))
        for process in processes:
            process.wait(SECONDS)
            if process.returncode:
                break
    finally:
        for process in processes:
            process.kill()
            process.wait()
    ends = "\n".join(log.read_text()[-3000:] for log in logs)
    assert [process.returncode for process in processes] == [0, 0], ends
    return folder


@pytest.fixture(scope="module")
def ranks(results: Path) -> list[dict]:
    return [torch.load(results / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(results: Path) -> dict:
    return torch.load(results / "alone.pt", weights_only=False)


# --- loss and gradient ----------------------------------------------------------------------------------------


def cases(alone: dict, share: str) -> list[tuple[str, ...]]:
    return [case for case in alone if case[2] == share]


SHARES = ["2 and 1", "one without instances", "nothing anywhere", "even", "even, batch Dice"]


@pytest.mark.parametrize("share", SHARES)
def test_loss_and_gradient_are_those_of_one_process_with_the_joined_batch(ranks, alone, share):
    """For every trainer, with deep supervision, on labels and regions, with and without ignored voxels."""
    for case in cases(alone, share):
        one, (first, second) = alone[case], (rank["steps"][case] for rank in ranks)
        # nnU-Net gives the coarsest scale a weight of 1e-6 with several processes, and 0 with one.
        assert (first["loss"] + second["loss"]) / 2 == pytest.approx(one["loss"], abs=1e-5), case
        for part, value in one["parts"].items():
            mean = (first["parts"][part] + second["parts"][part]) / 2
            assert mean == pytest.approx(value, abs=1e-5), (case, part)
        assert (first["gradient"] == second["gradient"]).all(), case
        difference = (first["gradient"] - one["gradient"]).norm()
        assert difference <= 1e-4 * one["gradient"].norm() + 1e-8, case


def test_every_trainer_was_compared_and_the_shares_matter(ranks, alone):
    from nnunet_instance_trainers import trainers

    own = set(trainers.__all__) - {"nnUNetTrainerInstanceBaseline"}
    for share in SHARES[:3]:
        assert {name for _, name, _ in cases(alone, share)} == own
    assert {(dataset, name) for dataset, name, _ in cases(alone, "even")} > {
        ("Dataset905_Both", name) for name in trainers.__all__
    }
    blob = ("Dataset902_Classes", "nnUNetTrainerBlob", "2 and 1")
    assert all(rank["steps"][blob]["loss"] != pytest.approx(alone[blob]["loss"], rel=0.01) for rank in ranks)
    assert alone[blob]["gradient"].norm() > 1e-4


def test_a_process_without_instances_gets_the_gradient_of_the_other(ranks, alone):
    for dataset in ("Dataset902_Classes", "Dataset903_Regions", "Dataset904_Ignore", "Dataset905_Both"):
        case = (dataset, "nnUNetTrainerBlob", "one without instances")
        values = [rank["steps"][case]["parts"]["blob"] for rank in ranks]
        assert values[0] > 0 and values[1] == 0 and ranks[1]["steps"][case]["gradient"].norm() > 0
        nothing = alone[(dataset, "nnUNetTrainerBlob", "nothing anywhere")]
        assert nothing["loss"] == 0 and (nothing["gradient"] == 0).all()


# --- whole trainings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_keeps_the_weights_of_all_processes_the_same(ranks, training):
    first, second = (rank[training] for rank in ranks)
    for when in ("before", "after"):
        assert all((p == q).all() for p, q in zip(first[when], second[when], strict=True))
    assert any((p != q).any() for p, q in zip(first["before"], first["after"]))
    assert all(p.isfinite().all() for p in first["after"])


def test_the_seed_gives_each_process_patches_of_its_own(ranks):
    first, second = (rank["patch"] for rank in ranks)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert len(first["batches"]) == len(second["batches"]) == 2 * (3 + 2)
    assert all(len(batch) == 1 for batch in first["batches"] + second["batches"])
    in_training = [0, 1, 2, 5, 6, 7]
    assert all((first["batches"][i] != second["batches"][i]).any() for i in in_training)


def rows(training: dict, name: str) -> list[dict[str, str]]:
    with open(Path(training["folder"]) / name, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("training", ["patch", "precomputed", "uneven"])
def test_the_first_process_alone_writes_the_mean_of_the_losses_over_all(ranks, training):
    first, second = (rank[training] for rank in ranks)
    table = rows(first, "instance_losses.csv")
    assert [row["epoch"] for row in table] == ["0", "1"]
    for epoch, row in enumerate(table):
        for column in ("train_pixel", "train_blob", "val_pixel", "val_blob"):
            phase, _, part = column.partition("_")
            noted = [
                values[part]
                for process in (first, second)
                for at, of, values in process["values"]
                if (at, of) == (epoch, phase)
            ]
            assert len(noted) == {"train": 6, "val": 4}[phase]
            assert float(row[column]) == pytest.approx(np.mean(noted), rel=1e-5)
            assert float(row[column]) != pytest.approx(np.mean(noted[: len(noted) // 2]), rel=1e-5)


@pytest.mark.parametrize("training", TRAININGS)
def test_each_file_is_written_once_an_epoch(ranks, training):
    first, second = (rank[training] for rank in ranks)
    names = ["instance_scores.csv", "instance_losses.csv"]
    assert first["written"] == [(epoch, name) for epoch in (0, 1) for name in names] and second["written"] == []


@pytest.mark.parametrize("training", ["patch", "precomputed", "uneven"])
def test_the_scores_are_of_the_validation_patches_of_all_processes(ranks, training):
    first, second = (rank[training] for rank in ranks)
    for epoch, row in enumerate(rows(first, "instance_scores.csv")):
        counted = sum(sum(process["objects"][2 * epoch : 2 * epoch + 2]) for process in (first, second))
        for name, counts in zip(("odd", "even"), counted, strict=True):
            written = [int(row[f"{name}_{column}"]) for column in ("instances", "components", "found", "hits")]
            assert written == counts[:4].tolist()
        assert counted[:, 0].min() > 0
    assert any(count.any() for count in second["objects"])


# --- faults ---------------------------------------------------------------------------------------------------


def test_what_one_process_finds_wrong_stops_all_with_its_line(ranks):
    line = "nnunet-instance: error: case 'case_1': its instance map is missing"
    assert [rank["mistake"] for rank in ranks] == [line, line]


def test_each_process_checks_its_share_of_the_maps(ranks):
    assert [rank["checked"] for rank in ranks] == [["case_0", "case_2"], ["case_1", "case_3"]]


def test_shares_that_nnunets_batch_dice_cannot_gather_are_refused(ranks):
    line = (
        "nnunet-instance: error: nnU-Net's batch Dice cannot share a batch of 3 between 2 GPUs: set batch_size of "
        "configuration '3d_fullres' to a multiple in the plans, or give another -num_gpus"
    )
    assert [rank["uneven batch Dice"] for rank in ranks] == [line, line]
    assert [rank["uneven without nnU-Net's Dice"] for rank in ranks] == [2, 1]
