"""What training with this package costs beside stock nnU-Net: instance maps, the loader, the steps, whole epochs.

    python scripts/benchmark_epochs.py -d 27 -c 3d_fullres -tr nnUNetTrainerBlob

Needs a preprocessed dataset and leaves it as it is: links to it lie in a temporary folder, where the instance maps are
made too. All trainers run in one process on the same data, a short epoch of each in turn, so that the machine's moods
meet all alike. The last column is an epoch of nnU-Net's length, 250 training and 50 validation steps, from the medians
of its parts. Batches are loaded in that process (``nnUNet_n_proc_DA=0``): in a real training workers load while the
device computes, and the slower of both decides. With several workers and a GPU set ``nnUNet_n_proc_DA`` and
``-device cuda``; the loader's time is then what the step waits for.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

os.environ.setdefault("nnUNet_n_proc_DA", "0")
os.environ.setdefault("nnUNet_compile", "f")

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from tqdm import tqdm

from nnunet_instance_trainers import trainers
from nnunet_instance_trainers.configuration import PLANS_KEY
from nnunet_instance_trainers.data.precompute import precompute

Times = dict[str, list[float]]


def linked(dataset: str, root: Path) -> Path:
    """A copy of a preprocessed dataset made of links; instance maps that are there are left out."""
    source, copy = Path(os.environ["nnUNet_preprocessed"]) / dataset, root / dataset
    copy.mkdir()
    for entry in source.iterdir():
        if not entry.name.endswith("_instances"):
            (copy / entry.name).symlink_to(entry.resolve())
    return copy


def started(
    trainer: type[nnUNetTrainer], folder: Path, arguments: argparse.Namespace, **settings: Any
) -> nnUNetTrainer:
    """A trainer whose loaders and network are ready."""
    plans, dataset = (load_json(str(folder / name)) for name in (f"{arguments.p}.json", "dataset.json"))
    plans["continue_training"] = False  # as nnUNetv2_train adds it
    plans["configurations"][arguments.c].setdefault(PLANS_KEY, {}).update(settings)
    instance = trainer(plans, arguments.c, arguments.f, dataset, torch.device(arguments.device))
    instance.initialize()
    instance.on_train_start()
    return instance


def timed(times: list[float], action: Callable[..., Any], *arguments: Any) -> Any:
    start = perf_counter()
    result = action(*arguments)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    times.append(perf_counter() - start)
    return result


def load(trainer: nnUNetTrainer, steps: int, times: Times) -> None:
    """Load some batches and forget them."""
    for _ in range(steps):
        timed(times["loader"], next, trainer.dataloader_train)


def short_epoch(trainer: nnUNetTrainer, steps: int, times: Times) -> None:
    """An epoch as nnU-Net runs it, with few steps; adds the seconds of each part to ``times``."""
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trained = []
    for _ in range(steps):
        batch = timed(times["loader"], next, trainer.dataloader_train)
        trained.append(timed(times["training step"], trainer.train_step, batch))
    trainer.on_train_epoch_end(trained)
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        batches = [next(trainer.dataloader_val) for _ in range(2)]
        validated = [timed(times["validation step"], trainer.validation_step, batch) for batch in batches]
        trainer.on_validation_epoch_end(validated)
    timed(times["end of epoch"], trainer.on_epoch_end)


def in_nnunets_length(seconds: dict[str, float]) -> float:
    steps = 250 * (seconds["loader"] + seconds["training step"])
    return steps + 50 * (seconds["loader"] + seconds["validation step"]) + seconds["end of epoch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="dataset id or name, preprocessed")
    parser.add_argument("-c", default="3d_fullres", help="configuration")
    parser.add_argument("-p", default="nnUNetPlans", help="plans")
    parser.add_argument("-f", default="all", help="fold; 'all' trains and validates on every case")
    parser.add_argument("-tr", default="nnUNetTrainerBlob", choices=trainers.__all__, metavar="TRAINER")
    parser.add_argument("-np", type=int, default=2, help="processes that make the instance maps")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=5, help="training steps of a short epoch")
    parser.add_argument("--epochs", type=int, default=6, help="short epochs per trainer; the first warms up")
    parser.add_argument("--loader-only", action="store_true", help="load batches and train none")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.f = int(arguments.f) if arguments.f.isdigit() else arguments.f
    torch.set_num_threads(arguments.threads)
    with TemporaryDirectory() as temporary, open(os.devnull, "w") as nowhere:
        dataset = maybe_convert_to_dataset_name(arguments.d)
        folder = linked(dataset, Path(temporary))
        os.environ.update(nnUNet_preprocessed=temporary, nnUNet_results=temporary)
        with redirect_stdout(nowhere):
            start = perf_counter()
            precompute(dataset, [arguments.c], arguments.p, arguments.np)
            minutes = (perf_counter() - start) / 60
        n_cases = len(list((folder / "gt_segmentations").iterdir()))
        print(
            f"instance maps: {n_cases / minutes:.0f} cases per minute with {arguments.np} processes ({n_cases} cases)"
        )
        ours = getattr(trainers, arguments.tr)
        with redirect_stdout(nowhere):
            running = {"nnUNetTrainer": started(nnUNetTrainer, folder, arguments)}
            for source in ("patch", "precomputed"):
                running[f"{arguments.tr}, {source}"] = started(ours, folder, arguments, source=source)
        times: dict[str, Times] = {name: defaultdict(list) for name in running}
        for n in tqdm(range(arguments.epochs), desc="short epochs of each"):
            for name, trainer in running.items():
                with redirect_stdout(nowhere):
                    run = load if arguments.loader_only else short_epoch
                    run(trainer, arguments.steps, times[name] if n else defaultdict(list))
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} thread(s), medians, ms and over stock")
    seconds = {name: {part: median(values) for part, values in of_parts.items()} for name, of_parts in times.items()}
    if not arguments.loader_only:
        for of_parts in seconds.values():
            of_parts["250 + 50 steps"] = in_nnunets_length(of_parts)
    stock = seconds["nnUNetTrainer"]
    print(f"{'':32}", *(f"{part:>18}" for part in stock))
    for name, of_parts in seconds.items():
        cells = (f"{1000 * value:10.1f} {value / stock[part]:6.2f}x" for part, value in of_parts.items())
        print(f"{name:32}", *cells)


if __name__ == "__main__":
    main()
