"""What training with this package costs beside stock nnU-Net: the loader, the steps, and whole epochs.

    nnunet-instance precompute -d 27 -c 3d_fullres
    python scripts/benchmark_epochs.py -d 27 -c 3d_fullres -tr nnUNetTrainerBlob

All trainers run in one process on one preprocessed dataset with the same number of steps, a block of each in turn, so
that the machine's moods meet all alike. Batches are loaded in that process (``nnUNet_n_proc_DA=0``): in a real training
workers load while the device computes, and the slower of both decides. An epoch here is the sum of both. With several
workers and a GPU set ``nnUNet_n_proc_DA`` and ``-device cuda``; the loader's time is then what the step waits for.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

os.environ.setdefault("nnUNet_n_proc_DA", "0")
os.environ.setdefault("nnUNet_compile", "f")

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from tqdm import tqdm

from nnunet_instance_trainers import trainers
from nnunet_instance_trainers.configuration import PLANS_KEY


def started(trainer: type[nnUNetTrainer], arguments: argparse.Namespace, **settings: Any) -> nnUNetTrainer:
    """A trainer whose loaders and network are ready."""
    folder = os.path.join(str(nnUNet_preprocessed), maybe_convert_to_dataset_name(arguments.d))
    plans, dataset = (load_json(os.path.join(folder, name)) for name in (f"{arguments.p}.json", "dataset.json"))
    plans["continue_training"] = False  # as nnUNetv2_train adds it
    plans["configurations"][arguments.c].setdefault(PLANS_KEY, {}).update(settings)
    instance = trainer(plans, arguments.c, arguments.f, dataset, torch.device(arguments.device))
    instance.initialize()
    instance.on_train_start()
    return instance


def timed(action: Callable[[], Any], device: str) -> tuple[float, Any]:
    start = perf_counter()
    result = action()
    if device == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start, result


def block(trainer: nnUNetTrainer, steps: int, device: str) -> Iterator[tuple[float, float]]:
    """Seconds of the loader and of the step, for some training steps."""
    trainer.network.train()
    for _ in range(steps):
        loading, batch = timed(lambda: next(trainer.dataloader_train), device)
        step, _ = timed(lambda: trainer.train_step(batch), device)  # noqa: B023
        yield loading, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="dataset id or name, preprocessed and precomputed")
    parser.add_argument("-c", default="3d_fullres", help="configuration")
    parser.add_argument("-p", default="nnUNetPlans", help="plans")
    parser.add_argument("-f", default="all", help="fold; 'all' trains and validates on every case")
    parser.add_argument("-tr", default="nnUNetTrainerBlob", choices=trainers.__all__, metavar="TRAINER")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=5, help="in a block")
    parser.add_argument("--blocks", type=int, default=6, help="per trainer; the first warms up")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.f = int(arguments.f) if arguments.f.isdigit() else arguments.f
    torch.set_num_threads(arguments.threads)
    ours = getattr(trainers, arguments.tr)
    with TemporaryDirectory() as results, open(os.devnull, "w") as nowhere:
        os.environ["nnUNet_results"] = results
        with redirect_stdout(nowhere):
            running = {
                "nnUNetTrainer": started(nnUNetTrainer, arguments),
                **{
                    f"{arguments.tr}, {source}": started(ours, arguments, source=source)
                    for source in ("patch", "precomputed")
                },
            }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
        for n in tqdm(range(arguments.blocks), desc="blocks"):
            for name, trainer in running.items():
                measured = list(block(trainer, arguments.steps, arguments.device))
                times[name] += measured if n else []
    stock = times["nnUNetTrainer"]
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.threads} thread(s); medians over {len(stock)} steps"
    )
    print(f"{'':36}{'loader, ms':>12}{'step, ms':>12}{'loader':>9}{'step':>9}{'both':>9}")
    base = [median(part) for part in (*zip(*stock), map(sum, stock))]
    for name, measured in times.items():
        loading, step, both = (median(part) for part in (*zip(*measured), map(sum, measured)))
        ratios = (f"{a / b:>8.2f}x" for a, b in zip((loading, step, both), base))
        print(f"{name:36}{1000 * loading:12.1f}{1000 * step:12.1f}{''.join(ratios)}")


if __name__ == "__main__":
    main()
