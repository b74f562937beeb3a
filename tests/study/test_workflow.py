"""What Snakemake is called with; and a toy study through it and nnU-Net: killed, gone on with, changed, and broken."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.study.locks import hold
from nnunet_instance_trainers.study.study_file import Arm, Study
from nnunet_instance_trainers.study.workflow import Options, _command, _gpus, run_study

psutil = pytest.importorskip("psutil")
pytest.importorskip("snakemake")

BROKEN = """
from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

class nnUNetTrainerBroken(nnUNetTrainerBlob):
    def on_train_start(self):
        raise RuntimeError("the broken arm breaks")
"""


def made(**changes) -> Study:
    values = {"file": Path("s.yaml"), "dataset": "Dataset001_X", "configuration": "2d", "seeds": (0,), "reference": "A"}
    return Study(**{**values, "arms": (Arm("A", "T"),), "folds": (0,), "output": Path("/study"), **changes})


def test_a_machine_gets_cores_and_gpus_and_a_cluster_jobs() -> None:
    here = _command(made(), {"gpus": 2}, Options(8), Path("/study/plan.json"))
    assert "--cores 8 --resources study_gpus=2" in " ".join(here)
    there = _command(made(), {"gpus": 0}, Options(50, executor="slurm", more=("--slurm-no-account",)), Path("p.json"))
    assert " ".join(there).endswith("--executor slurm --jobs 50 --slurm-no-account")
    assert "--cores" not in there
    assert "--dry-run" in _command(made(), {"gpus": 0}, Options(1, dry_run=True), Path("p.json"))


def test_gpus_are_shared_where_trainings_use_them_and_no_cluster_hands_them_out() -> None:
    assert _gpus(made(device="cuda"), Options(1, gpus=3)) == 3
    assert _gpus(made(device="cpu"), Options(1, gpus=3)) == 0
    assert _gpus(made(device="cuda"), Options(1, gpus=3, executor="slurm")) == 0


def test_a_study_that_runs_is_not_started_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "nnunet_instance_trainers.study.workflow"
    monkeypatch.setattr(f"{module}.read_study", lambda _: made(output=tmp_path))
    monkeypatch.setattr(f"{module}._check", lambda _: {"A": True})
    with hold(tmp_path / ".lock") or pytest.fail("held"), pytest.raises(UserError, match="this study runs already"):
        run_study(tmp_path / "study.yaml", Options(1))


class Toy:
    """The toy study and its command."""

    def __init__(self, root: Path) -> None:
        from nnunet_datasets import Folders
        from toy_study import DATASET, make_toy

        self.results = root / "results" / DATASET
        self.file, self.folders = make_toy(root), Folders(root)
        self.output = self.file.with_suffix("")
        (root / "trainers").mkdir()
        (root / "trainers" / "broken.py").write_text(BROKEN)
        self.environment = {**os.environ, **self.folders.environment, "nnUNet_extTrainer": str(root / "trainers")}
        self.command = [sys.executable, "-m", "nnunet_instance_trainers.cli", "study", str(self.file), "-j", "2"]

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command, env=self.environment, capture_output=True, text=True)

    def kill_in_training(self) -> None:
        """Start it, and kill all of its processes when some training has ended its second epoch and none its last."""
        with subprocess.Popen(self.command, env=self.environment, stderr=subprocess.DEVNULL) as process:
            while not any(len(rows) >= 2 for rows in self.epochs().values()):
                assert process.poll() is None
                time.sleep(0.05)
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()

    def epochs(self) -> dict[str, list[int]]:
        """The epochs in the CSV of every training."""
        files = self.results.glob("*/fold_*/instance_losses.csv")
        return {f"{file.parts[-3]}/{file.parts[-2]}": _epochs(file) for file in files}

    def checkpoints(self, arm: str) -> dict[Path, int]:
        files = self.results.glob(f"*-{arm}-seed*/fold_?/checkpoint_final.pth")
        return {file: file.stat().st_mtime_ns for file in files}


def _epochs(file: Path) -> list[int]:
    try:
        return [int(row["epoch"]) for row in csv.DictReader(file.read_text().splitlines())]
    except FileNotFoundError:
        return []


def _arms(toy: Toy) -> set[str]:
    return {row["arm"] for row in csv.DictReader((toy.output / "study.csv").read_text().splitlines())}


@pytest.mark.nnunet
@pytest.mark.heavy
def test_a_study_is_killed_finished_changed_and_reports_a_broken_arm(tmp_path: Path) -> None:
    from toy_study import EPOCHS, STUDY

    toy = Toy(tmp_path)
    toy.kill_in_training()
    assert not (toy.output / "report.html").exists()

    done = toy.run()
    assert done.returncode == 0, done.stderr
    assert len(toy.epochs()) == 8
    assert set(map(tuple, toy.epochs().values())) == {tuple(range(EPOCHS))}
    names = ("report.html", "study.csv", "table.md", "table.tex", "provenance.json")
    assert all((toy.output / name).stat().st_size > 500 for name in names)
    assert _arms(toy) == {"Baseline", "Blob"}

    before, logs = toy.checkpoints("Baseline") | toy.checkpoints("Blob"), _sizes(toy.output / "logs")
    again = toy.run()
    assert again.returncode == 0 and "Nothing to be done" in again.stderr
    assert toy.checkpoints("Baseline") | toy.checkpoints("Blob") == before
    assert _sizes(toy.output / "logs") == logs

    kept = toy.checkpoints("Baseline")
    changed = STUDY.replace("nnUNetTrainerBlob}", "nnUNetTrainerBlob, settings: {weights: {blob: 0.5}}}")
    toy.file.write_text(changed.replace("reference:", "  - {name: Broken, trainer: nnUNetTrainerBroken}\nreference:"))
    broken = toy.run()
    assert broken.returncode == 1
    line = broken.stderr.splitlines()[-1]
    assert line.startswith("nnunet-instance: error: ")
    assert "training of Broken, seed0, fold_0: RuntimeError: the broken arm breaks" in line
    assert toy.checkpoints("Baseline") == kept
    assert len(toy.checkpoints("Blob")) == 4
    assert not set(toy.checkpoints("Blob").items()) & set(before.items())
    assert len(list(toy.results.glob("*-Blob-seed*/replaced_0_fold_*"))) == 4
    page = (toy.output / "report.html").read_text()
    assert "Missing." in page and "the broken arm breaks" in page
    assert _arms(toy) == {"Baseline", "Blob"}


def _sizes(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_size for file in folder.rglob("*.log")}
