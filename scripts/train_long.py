"""Train for long with each family of losses, and see that memory, files and processes stay as they were.

    python scripts/train_long.py
    python scripts/train_long.py --families blob --workers 2

nnU-Net's own loop runs, in a process of its own for each family: real loaders with precomputed instances, epochs of 100
steps with validation, tables, figures and checkpoints, on patches of 16^3 with a tiny network, on the CPU. Memory is
the resident size of the process after each step; open files and child processes are counted before the loaders start
and after the training.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

DATASET = "Dataset901_Boxes"
STEPS_PER_EPOCH = 100
WARM_UP = 200
FAMILIES = {
    "blob": "nnUNetTrainerBlob",
    "ici": "nnUNetTrainerICI",
    "instance": "nnUNetTrainerInstance",
    "rates": "nnUNetTrainerFalseInstance",
    "center": "nnUNetTrainerInstanceBaseline",
    "proximity": "nnUNetTrainerProximity",
    "topk": "nnUNetTrainerTopKDice",
    "inverse": "nnUNetTrainerInverseWeighted",
    "cells": "nnUNetTrainerBiCC",
    "catmil": "nnUNetTrainerCATMIL",
}
SETTINGS = {"center": {"weights": {"pixel": 1.0, "center": 1.0}}}
COLUMNS = ("family", "steps", "ms per step", "MB at 200", "most MB later", "growth %", "files", "processes", "loss")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """Files, pipes and sockets; Matplotlib keeps the fonts open that it drew with."""
    places = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(place.is_symlink() and not os.readlink(place).endswith(".ttf") for place in places)


def children() -> set[str]:
    """Processes that this one started; Python's own resource tracker stays as long as it does."""
    ids = {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}
    return {child for child in ids if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()}


def train(family: str, steps: int, root: Path) -> dict[str, object]:
    """A row of the table."""
    import torch
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunet_datasets import Folders, make_trainer

    from nnunet_instance_trainers import trainers

    torch.set_num_threads(1)
    folders = Folders(root)
    plans = load_json(str(folders.preprocessed / DATASET / "nnUNetPlans.json"))
    short = {"num_epochs": steps // STEPS_PER_EPOCH, "num_iterations_per_epoch": STEPS_PER_EPOCH}
    own = {**short, "num_val_iterations_per_epoch": 5, **SETTINGS.get(family, {})}
    plans["configurations"]["3d_fullres"]["instance_training"] = own
    with open(root / f"{family}.log", "w") as log, redirect_stdout(log):
        trainer = make_trainer(getattr(trainers, FAMILIES[family]), folders, plans, "3d_fullres")
        trainer.output_folder = str(root / family)
        trainer.initialize()
        files, processes, memory, losses = open_files(), children(), [], []
        step = trainer.train_step

        def measured(batch: dict) -> dict:
            result = step(batch)
            memory.append(resident_mb())
            losses.append(float(result["loss"]))
            return result

        trainer.train_step = measured
        start = perf_counter()
        trainer.run_training()
        seconds = perf_counter() - start
        left = open_files() - files, len(children() - processes)
    assert all(map(torch.isfinite, torch.tensor(losses)))
    base, most = memory[WARM_UP - 1], max(memory[WARM_UP:])
    numbers = f"{1000 * seconds / steps:.0f}", f"{base:.0f}", f"{most:.0f}", f"{100 * (most / base - 1):.1f}"
    return dict(zip(COLUMNS, (family, len(memory), *numbers, *left, f"{losses[0]:.2f} to {losses[-1]:.2f}")))


def prepare(root: Path) -> None:
    from nnunet_datasets import Folders, boxes_dataset, configuration, preprocess, write_plans

    from nnunet_instance_trainers.data.precompute import precompute

    folders = Folders(root)
    folders.results.mkdir()
    boxes_dataset(folders, DATASET, {"background": 0, "box": 1}, lambda ids: ids > 0)
    plan = configuration("3d_fullres", [16, 16, 16], [1.0, 1.0, 1.0])
    preprocess(folders, write_plans(folders, DATASET, {"3d_fullres": plan}), "3d_fullres")
    precompute(DATASET, None, "nnUNetPlans", 1)


def run(families: Sequence[str], steps: int, workers: int) -> list[dict[str, object]]:
    from nnunet_datasets import Folders

    rows = []
    with TemporaryDirectory() as folder:
        environment = {**Folders(Path(folder)).environment, "nnUNet_n_proc_DA": str(workers)}
        os.environ.update(environment)
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            pool.submit(prepare, Path(folder)).result()
            print("".join(f"{column:>15}" for column in COLUMNS), flush=True)
            for family in families:
                rows.append(pool.submit(train, family, steps, Path(folder)).result())
                print("".join(f"{cell:>15}" for cell in rows[-1].values()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES, metavar="FAMILY")
    parser.add_argument("--steps", type=int, default=2000, help="a multiple of 100 above 200")
    parser.add_argument("--workers", type=int, default=0, help="processes that load batches; 0 loads in the training's")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there too")
    arguments = parser.parse_args()
    rows = run(arguments.families, arguments.steps, arguments.workers)
    if arguments.csv is not None:
        with open(arguments.csv, "w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    if any(float(row["growth %"]) >= 5 or row["files"] or row["processes"] for row in rows):
        raise SystemExit("memory grew by 5 % or more, or something was left open")


if __name__ == "__main__":
    main()
