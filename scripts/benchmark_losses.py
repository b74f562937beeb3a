"""What every trainer's loss costs next to nnU-Net's own: forward and backward, alternating in one process.

    python scripts/benchmark_losses.py
    python scripts/benchmark_losses.py --trainers nnUNetTrainerBlob nnUNetTrainerInstance --shape 512 512 --batch 12
    python scripts/benchmark_losses.py --instances 10 100 800 5000 --predictions half --figure losses.png

Prints the time of each loss over that of nnU-Net's Dice and cross-entropy just before it, the median over rounds, and
its peak memory above the level before the pass, over the same for nnU-Net's. Predictions are half-trained (objects
missed and invented), noise of a density, smoothed noise, or nearly perfect; labelling them is included. On a CPU memory
is handed back to the system before every pass: otherwise a loss takes up to twice as long or half as long by luck, as
pages of earlier passes are at hand or not. On a GPU times are CUDA events.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from nnunet_instance_trainers import trainers
from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.instances import label_components
from nnunet_instance_trainers.losses import CompoundLoss, PixelLoss
from nnunet_instance_trainers.losses.named_terms import make_term

MONAI = ("MONAI DiceCELoss", "MONAI GeneralizedDiceFocalLoss", "MONAI TverskyLoss")
PREDICTIONS = ("half", "0.5", "0.1", "0.05", "0.01", "smooth", "good")
Pass = Callable[[], torch.Tensor]


def stock_loss(**changes: float) -> DC_and_CE_loss:
    """nnU-Net's loss as its trainer builds it for labels."""
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss, **changes)


def loss_of(name: str, overrides: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    """The loss that a trainer builds, at one scale, or one of MONAI's, which see no instances."""
    if name in MONAI:
        loss = getattr(import_module("monai.losses"), name.removeprefix("MONAI "))(to_onehot_y=True, softmax=True)
        return lambda logits, labels, ids: loss(logits, labels)
    settings = Settings.resolve(getattr(trainers, name), overrides, where="benchmark")
    variants = {
        "nnunet": stock_loss,
        "nnunet_ce": lambda: stock_loss(weight_dice=0),
        "nnunet_dice": lambda: stock_loss(weight_ce=0),
    }
    make = variants.get(settings.pixel_loss)
    pixel_loss = make() if make else PixelLoss(criterion=settings.pixel_loss)
    terms = {name: make_term(name, vars(settings)) for name in settings.terms}
    return CompoundLoss(pixel_loss, terms, settings.effective_weights)


# --- targets and predictions -------------------------------------------------------------------------------


def random_boxes(n: int, shape: tuple[int, ...], batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and ids (batch, 1, *shape) of about n boxes of 1 to 4 voxels an edge in each sample."""
    random = np.random.default_rng(0)
    labels = np.zeros((batch, 1, *shape), dtype=np.int16)
    for sample in labels[:, 0]:
        for low in random.integers(0, np.array(shape) - 4, (n, len(shape))):
            sample[tuple(slice(start, start + random.integers(1, 5)) for start in low)] = 1
    ids = np.stack([label_components(sample)[0][None] for sample in labels[:, 0]])
    return torch.from_numpy(labels), torch.from_numpy(ids.astype(np.int16))


def predicted(kind: str, labels: torch.Tensor) -> np.ndarray:
    """A predicted mask (batch, *shape) of one of :data:`PREDICTIONS`."""
    truth = labels[:, 0].numpy() > 0
    random = np.random.default_rng(2)
    if kind == "smooth":
        return np.stack([gaussian_filter(random.normal(size=sample.shape), 2) for sample in truth]) > 0.08
    if kind in ("half", "good"):  # in half of the image's blocks, or in few, voxels are swapped
        coarse = random.random([len(truth), *(-(-s // 8) for s in truth.shape[1:])]) < (0.2 if kind == "half" else 0.01)
        blocks = np.kron(coarse, np.ones((1, *[8] * (truth.ndim - 1)), dtype=bool))
        blocks = blocks[tuple(slice(s) for s in truth.shape)]
        return truth ^ (blocks & (random.random(truth.shape) < 0.02))
    return np.random.default_rng(3).random(truth.shape) < float(kind)


def logits_of(mask: np.ndarray) -> torch.Tensor:
    """Logits (B, 2, *S) whose argmax is the mask (B, *S), uncertain by a random amount."""
    random = np.random.default_rng(1)
    strength = random.uniform(0.2, 4, mask.shape).astype(np.float32)
    foreground = np.where(mask, strength, -strength)
    return torch.from_numpy(np.stack((-foreground, foreground), 1) / 2)


# --- measuring ---------------------------------------------------------------------------------------------


class Case(NamedTuple):
    logits: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor


def seconds(loss: Pass, logits: torch.Tensor) -> float:
    """Time of one forward and backward pass."""
    logits.grad = None
    if logits.is_cuda:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        loss().backward()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    hand_back_memory()
    begin = perf_counter()
    loss().backward()
    return perf_counter() - begin


def hand_back_memory() -> None:
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_bytes(loss: Pass, logits: torch.Tensor) -> int:
    """Peak memory of a pass above the level before it, the highest of three passes (CPU: resident, Linux)."""
    peaks = []
    for _ in range(3):
        logits.grad = None
        if logits.is_cuda:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            loss().backward()
            peaks.append(torch.cuda.max_memory_allocated() - before)
            continue
        hand_back_memory()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        resident = status("VmRSS")
        loss().backward()
        peaks.append(1024 * (status("VmHWM") - resident))
    return max(peaks)


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(trainer: str, cases: list[Case], repeats: int, overrides: Mapping[str, Any]) -> list[dict[str, float]]:
    """Milliseconds and bytes of a trainer's loss and of the stock loss, a dictionary per case.

    Rounds go over all cases, the stock loss before each loss; the first round warms up. A machine is faster at some
    times than at others, and so a growth over cases or a ratio is not that of its moods.
    """
    stock, loss = stock_loss(), loss_of(trainer, overrides)
    passes = [
        (case.logits, (lambda c=case: stock(c.logits, c.labels), lambda c=case: loss(c.logits, c.labels, c.ids)))
        for case in cases
    ]
    rounds = range(repeats + 1)
    times = [
        [[seconds(one, logits) for one in pair] for logits, pair in passes] for _ in tqdm(rounds, trainer, leave=False)
    ]
    rows = []
    for of_case, (logits, pair) in zip(zip(*times[1:]), passes):
        alone, ours = (1000 * median(each) for each in zip(*of_case))
        memory_alone, memory = (peak_bytes(one, logits) for one in pair)
        rows.append(
            {
                **{"nnunet_ms": alone, "ms": ours, "ratio": median(mine / its for its, mine in of_case)},
                **{"nnunet_mib": memory_alone / 2**20, "mib": memory / 2**20, "memory_ratio": memory / memory_alone},
            }
        )
    return rows


# --- results -----------------------------------------------------------------------------------------------


def draw(rows: list[dict[str, Any]], file: Path, title: str) -> None:
    """Time against the number of instances, a line per trainer and nnU-Net's loss as a band."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for n, trainer in enumerate(dict.fromkeys(row["trainer"] for row in rows)):
        own = sorted((row["instances"], row["ms"]) for row in rows if row["trainer"] == trainer)
        axes.plot(*zip(*own), marker="os^Dv<>P*X"[n % 10], label=trainer, color=f"C{n % 10}")
    stock = [row["nnunet_ms"] for row in rows]
    axes.axhspan(min(stock), max(stock), color="0.85")
    axes.axhline(median(stock), color="0.4", linestyle="--", label="nnU-Net's Dice + CE")
    axes.set(
        xscale="log", ylim=(0, None), xlabel="instances per sample", ylabel="ms, forward and backward", title=title
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", nargs="+", default=trainers.__all__, choices=trainers.__all__, metavar="TRAINER")
    parser.add_argument(
        "--settings", type=json.loads, default={}, help='of all trainers, as in plans: {"scale": "unit"}'
    )
    parser.add_argument("--monai", action="store_true", help="MONAI's pixel losses too, where it is installed")
    parser.add_argument("--shape", type=int, nargs="+", default=[128, 128, 128], help="of a sample")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--instances", type=int, nargs="+", default=[10, 800], help="boxes per sample")
    parser.add_argument("--predictions", nargs="+", default=list(PREDICTIONS), choices=PREDICTIONS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--csv", type=Path, help="a row per loss and condition")
    parser.add_argument("--figure", type=Path, help="time against the number of instances, half-trained predictions")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape, many = tuple(arguments.shape), max(arguments.instances)
    targets = {n: random_boxes(n, shape, arguments.batch) for n in arguments.instances}
    # Half-trained predictions for every number of instances, the others for the largest.
    conditions = [
        (n, kind) for kind in arguments.predictions for n in (arguments.instances if kind == "half" else [many])
    ]
    size = f"{arguments.batch}x2x{'x'.join(map(str, shape))}"
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} thread(s), logits {size}")
    heads = [f"{int(targets[n][1].amax())} inst." if kind == "half" else kind for n, kind in conditions]
    print(f"{'time over Dice+CE':36}", *(f"{head:>10}" for head in heads), f"{'memory':>10}")
    cases = [
        Case(
            logits_of(predicted(kind, targets[n][0])).to(arguments.device).requires_grad_(),
            *(target.to(arguments.device) for target in targets[n]),
        )
        for n, kind in conditions
    ]
    rows = []
    for trainer in [*arguments.trainers, *(MONAI if arguments.monai and find_spec("monai") else ())]:
        own = [
            {"trainer": trainer, "instances": int(case.ids.amax()), "prediction": kind, **measured}
            for case, (_, kind), measured in zip(
                cases, conditions, measure(trainer, cases, arguments.repeats, arguments.settings)
            )
        ]
        rows += own
        print(
            f"{trainer:36}", *(f"{row['ratio']:>10.2f}" for row in own), f"{own[0]['memory_ratio']:>10.2f}", flush=True
        )
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    if arguments.figure:
        chosen = [row for row in rows if row["prediction"] == "half"]
        draw(chosen, arguments.figure, f"{arguments.device}, {arguments.threads} thread(s), logits {size}")


if __name__ == "__main__":
    main()
