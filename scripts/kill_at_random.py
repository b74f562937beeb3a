"""Kill the long commands at random moments, and see that the same command then ends as if nothing had happened.

    python scripts/kill_at_random.py precompute --kills 20
    python scripts/kill_at_random.py ensemble --kills 20
    python scripts/kill_at_random.py train --kills 10

Each kill is a SIGKILL to the command and all its workers. Moments are drawn evenly over the work, which begins when its
first file appears, so none is wasted on imports; one that comes too late is drawn again. ``precompute`` and
``ensemble`` run in turn in one process and in two. Half of the ensembles take the place of an earlier one. Trainings
are 2D with one batch per epoch and ``save_every = 1``; a kill falls into an epoch drawn at random, every fifth into the
final validation.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import blosc2
import numpy as np
import torch
from nnunet_datasets import Folders, boxes_dataset, configuration, preprocess, save, touching_boxes, write_plans

DATASET = "Dataset901_Boxes"
EPOCHS = 8
TRAINER = '''
import torch
from nnunet_instance_trainers.trainers import nnUNetTrainerBlob


class nnUNetTrainerBlobSaving(nnUNetTrainerBlob):
    """Blob loss, a checkpoint after every epoch."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.save_every = 1
'''

Begun = Callable[[], bool]


# --- a command, killed or not ------------------------------------------------------------------------------


class Command:
    """A command and the sign that its imports are over."""

    def __init__(self, words: Iterable[object], folders: Folders, begun: Begun) -> None:
        self.words = [str(word) for word in words]
        self.environment = {**os.environ, **folders.environment, "nnUNet_extTrainer": str(folders.root / "trainers")}
        self.log = folders.root / "last_command.log"
        self.begun = begun

    def run(self, kill_after: float | None = None) -> float | None:
        """Run to the end and return the seconds of work, or kill it that long after its beginning and return None."""
        with open(self.log, "w") as log:
            process = subprocess.Popen(
                self.words, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        while not self.begun() and process.poll() is None:
            time.sleep(0.002)
        start = time.perf_counter()
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(self.words)} failed:\n{self.log.read_text()[-3000:]}")
        return time.perf_counter() - start


# --- what must be true of files ----------------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_readable(folder: Path) -> None:
    """Read every file that has its final name."""
    readers: dict[str, Callable[[Path], object]] = {
        ".b2nd": lambda path: blosc2.open(str(path), mode="r")[:],
        ".npz": lambda path: [np.load(path)[name] for name in np.load(path)],
        ".gz": lambda path: gzip.decompress(path.read_bytes()),
        ".json": lambda path: json.loads(path.read_text()),
        ".csv": lambda path: list(csv.DictReader(path.read_text().splitlines())),
        ".pth": lambda path: torch.load(path, weights_only=False),
    }
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in readers and ".unfinished_" not in str(path):
            readers[path.suffix](path)


# --- precompute and ensemble -------------------------------------------------------------------------------


def precompute(folders: Folders, kills: int) -> None:
    shape, n_cases = (48, 72, 72), 48
    boxes_dataset(folders, DATASET, {"background": 0, "box": 1}, lambda ids: ids > 0, n_cases=n_cases, shape=shape)
    plans = write_plans(folders, DATASET, {"3d_fullres": configuration("3d_fullres", [24, 32, 32], [1.0, 1.0, 1.0])})
    maps = preprocess(folders, plans, "3d_fullres").with_name("nnUNetPlans_3d_fullres_instances")

    def command(processes: int) -> Command:
        words = ["nnunet-instance", "precompute", "-d", "901", "-np", processes]
        return Command(words, folders, maps.is_dir if processes == 1 else lambda: any(maps.glob("*")))

    kill_and_finish("precompute", maps, command, lambda _: shutil.rmtree(maps, ignore_errors=True), kills)


def ensemble(folders: Folders, kills: int) -> None:
    output, earlier = folders.root / "merged", folders.root / "earlier"
    dataset = {"labels": {"background": 0, "box": 1}, "file_ending": ".nii.gz"}
    for m, model in enumerate("AB"):
        for number in range(48):
            ids = touching_boxes((48, 72, 72), seed=1000 * m + number, n=30)
            save((ids > 0).astype(np.uint8), folders.root / model / f"case_{number:02d}.nii.gz")
        (folders.root / model / "dataset.json").write_text(json.dumps(dataset))
    members = [
        word for model, part in (("A", "0-0.05"), ("B", "0.05-")) for word in ("-m", f"{folders.root / model}:{part}")
    ]
    working = output.with_name(".unfinished_merged")

    def command(processes: int, place: Path = output, *more: str) -> Command:
        words = ["nnunet-instance", "ensemble", *members, "-o", place, "-np", processes, *more]
        return Command(words, folders, working.is_dir if processes == 1 else lambda: any(working.glob(".writing_*")))

    command(1, earlier, "--min-volume-ml", "0.01", "--instances").run()

    def clean(trial: int) -> None:
        for folder in (output, working):
            shutil.rmtree(folder, ignore_errors=True)
        if trial % 4 >= 2:
            shutil.copytree(earlier, output)

    kill_and_finish("ensemble", output, command, clean, kills)
    if working.exists():
        raise SystemExit(f"{working} is left over")


def kill_and_finish(
    name: str, output: Path, command: Callable[[int], Command], clean: Callable[[int], None], kills: int
) -> None:
    seconds: dict[int, float] = {}
    expected: dict[str, bytes] = {}
    for processes in (1, 2):
        seconds[processes] = command(processes).run() or 0
        if expected and content(output) != expected:
            raise SystemExit("two undisturbed runs differ")
        expected = content(output)
        clean(0)
    hits = late = partly = 0
    while hits < kills:
        processes = 1 + hits % 2
        clean(hits)
        if command(processes).run(random.uniform(0, seconds[processes])) is not None:
            late += 1
            continue
        hits += 1
        check_readable(output)
        before = content(output) if output.is_dir() else {}
        partly += any(name not in before or before[name] != value for name, value in expected.items())
        command(3 - processes).run()  # the number of processes is no part of the result
        if content(output) != expected:
            odd = sorted({*expected} ^ {*content(output)}) or [n for n in expected if content(output)[n] != expected[n]]
            raise SystemExit(f"kill {hits}: other files than of an undisturbed run: {', '.join(odd)}")
        print(f"kill {hits}: {len(before)} of {len(expected)} files were there, now all and the same", flush=True)
    print(
        f"{name}: {hits} kills during work of {seconds[1]:.1f} s (one process) or {seconds[2]:.1f} s (two), "
        f"{partly} of them before all files were in place, {late} more came too late"
    )


# --- train -------------------------------------------------------------------------------------------------


def train(folders: Folders, kills: int) -> None:
    boxes_dataset(folders, DATASET, {"background": 0, "box": 1}, lambda ids: ids > 0, annotated=False)
    short = {"num_epochs": EPOCHS, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
    plan = configuration("2d", [32, 32], [1.0, 1.0], instance_training=short)
    preprocess(folders, write_plans(folders, DATASET, {"2d": plan}), "2d")
    (folders.root / "trainers").mkdir()
    (folders.root / "trainers" / "saving.py").write_text(TRAINER)
    results = folders.results / DATASET / "nnUNetTrainerBlobSaving__nnUNetPlans__2d" / "fold_0"

    def logged(text: str) -> int:
        return sum(path.read_text().count(text) for path in results.glob("training_log*.txt"))

    def command(sign: str) -> Command:
        seen = logged(sign)
        words = ["nnUNetv2_train", "901", "2d", "0", "-tr", "nnUNetTrainerBlobSaving", "-device", "cpu", "--c"]
        return Command(words, folders, lambda: logged(sign) > seen)

    start, done = "instance ids:", "Training done."
    command(start).run()
    per_epoch = (results / "progress.png").stat().st_mtime - (results / "instance_training.json").stat().st_mtime
    per_epoch /= EPOCHS
    shutil.rmtree(results.parent)
    hits = trainings = 0
    while hits < kills:
        in_validation = hits % 5 == 4
        next_epoch = min([0, *epochs(results / "instance_scores.csv")][-1], EPOCHS - 1)
        sign = done if in_validation else f": Epoch {random.randrange(next_epoch, EPOCHS)} \n"
        if command(sign).run(random.uniform(0, 5 if in_validation else per_epoch)) is None:
            hits += 1
            check_readable(results)
            at = epochs(results / "instance_scores.csv")
            checkpoints = sorted(path.name for path in results.glob("*.pth"))
            print(
                f"kill {hits}: after epoch {at[-1] if at else None}, {', '.join(checkpoints) or 'no checkpoint'}",
                flush=True,
            )
            if hits < kills and not (results / "checkpoint_final.pth").is_file():
                continue
            command(start).run()
        trainings += 1
        check_finished(results)
        shutil.rmtree(results.parent)
    print(
        f"train: {hits} kills in {trainings} trainings of {EPOCHS} epochs of {per_epoch:.1f} s, all finished with --c"
    )


def epochs(file: Path) -> list[int]:
    return [int(row["epoch"]) for row in csv.DictReader(file.read_text().splitlines())] if file.is_file() else []


def check_finished(results: Path) -> None:
    check_readable(results)
    for name in ("instance_losses.csv", "instance_scores.csv"):
        if epochs(results / name) != list(range(EPOCHS)):
            raise SystemExit(f"{name} has the epochs {epochs(results / name)}")
    names = {path.name for path in results.iterdir()}
    if not {"checkpoint_final.pth", "checkpoint_best.pth", "validation"} <= names or "checkpoint_latest.pth" in names:
        raise SystemExit(f"a finished training has {sorted(names)}")
    if any(name.startswith(".unfinished_") for name in names):
        raise SystemExit(f"left over: {sorted(names)}")
    logs = torch.load(results / "checkpoint_final.pth", weights_only=False)["logging"]
    if {len(values) for values in logs.values()} != {EPOCHS}:
        raise SystemExit("nnU-Net's log in the checkpoint lacks an epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("precompute", "ensemble", "train"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    random.seed(arguments.seed)
    with TemporaryDirectory() as folder:
        {"precompute": precompute, "ensemble": ensemble, "train": train}[arguments.what](
            Folders(Path(folder)), arguments.kills
        )


if __name__ == "__main__":
    main()
