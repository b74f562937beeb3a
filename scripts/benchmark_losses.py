"""What every trainer's loss costs next to nnU-Net's own: forward and backward, alternating in one process.

    python scripts/benchmark_losses.py
    python scripts/benchmark_losses.py --trainers nnUNetTrainerBlob nnUNetTrainerInstance

Prints the median time of each loss over that of nnU-Net's Dice and cross-entropy, for a few and for many instances
(predictions as a half-trained network makes them), for predictions from noise, and the peak memory above the level
before the loss, over the same for nnU-Net's. CPU, one thread, logits 2x2x128^3; labelling the prediction is included.
"""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from nnunet_instance_trainers import trainers
from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.instances import label_components
from nnunet_instance_trainers.losses import CompoundLoss, PixelLoss
from nnunet_instance_trainers.losses.terms import make_term


def stock_loss(**changes: float) -> DC_and_CE_loss:
    """nnU-Net's loss as its trainer builds it for labels."""
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss, **changes)


def loss_of(trainer: str) -> CompoundLoss:
    """The loss that a trainer builds, at one scale."""
    settings = Settings.resolve(getattr(trainers, trainer), {}, where="benchmark")
    variants = {
        "nnunet": stock_loss,
        "nnunet_ce": lambda: stock_loss(weight_dice=0),
        "nnunet_dice": lambda: stock_loss(weight_ce=0),
    }
    make = variants.get(settings.pixel_loss)
    pixel_loss = make() if make else PixelLoss(criterion=settings.pixel_loss)
    terms = {name: make_term(name, vars(settings)) for name in settings.terms}
    return CompoundLoss(pixel_loss, terms, settings.effective_weights)


def random_boxes(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and ids (2, 1, *size) of about n boxes of 1 to 64 voxels in each sample."""
    random = np.random.default_rng(0)
    labels = np.zeros((2, 1, size, size, size), dtype=np.int16)
    for sample in labels[:, 0]:
        for low in random.integers(0, size - 4, (n, 3)):
            sample[tuple(slice(start, start + random.integers(1, 5)) for start in low)] = 1
    ids = np.stack([label_components(sample)[0][None] for sample in labels[:, 0]])
    return torch.from_numpy(labels), torch.from_numpy(ids.astype(np.int16))


def logits_of(mask: np.ndarray) -> torch.Tensor:
    """Logits (2, 2, *S) whose argmax is the mask (2, *S), uncertain by a random amount."""
    random = np.random.default_rng(1)
    strength = random.uniform(0.2, 4, mask.shape).astype(np.float32)
    foreground = np.where(mask, strength, -strength)
    return torch.from_numpy(np.stack((-foreground, foreground), 1) / 2).requires_grad_()


def half_trained(labels: torch.Tensor) -> np.ndarray:
    """A mask that misses a fifth of the objects' voxels in blocks and adds as many false blobs."""
    random = np.random.default_rng(2)
    blocks = np.kron(random.random([2, *(s // 8 for s in labels.shape[2:])]) < 0.2, np.ones((1, 8, 8, 8), dtype=bool))
    return (labels[:, 0].numpy() > 0) ^ (blocks & (random.random(blocks.shape) < 0.02))


def noise(density: float, size: int) -> np.ndarray:
    return np.random.default_rng(3).random((2, size, size, size)) < density


def smooth_noise(size: int) -> np.ndarray:
    random = np.random.default_rng(4).normal(size=(2, size, size, size))
    return np.stack([gaussian_filter(sample, 2) for sample in random]) > 0.08


def seconds(loss, logits: torch.Tensor) -> float:
    """Time of one forward and backward pass."""
    logits.grad = None
    start = perf_counter()
    loss().backward()
    return perf_counter() - start


def ratio(trainer: str, logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor, repeats: int) -> float:
    """Median time of a trainer's loss over that of the stock loss, measured in turn; the first pair warms up."""
    stock, loss = stock_loss(), loss_of(trainer)
    pairs = [
        (seconds(lambda: stock(logits, labels), logits), seconds(lambda: loss(logits, labels, ids), logits))
        for _ in range(repeats + 1)
    ]
    alone, ours = (median(times) for times in zip(*pairs[1:]))
    return ours / alone


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_kib(loss, logits: torch.Tensor) -> int:
    """Peak resident memory of a pass above the level before it, the highest of three passes (Linux)."""
    peaks = []
    for _ in range(3):
        logits.grad = None
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the level before holds what earlier passes have freed
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = status("VmRSS")
        loss().backward()
        peaks.append(status("VmHWM") - before)
    return max(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", nargs="+", default=trainers.__all__, choices=trainers.__all__, metavar="TRAINER")
    parser.add_argument("--instances", type=int, nargs="+", default=[10, 800], help="boxes per sample")
    parser.add_argument("--size", type=int, default=128, help="edge of the volume")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    labels, ids = {}, {}
    for n in arguments.instances:
        labels[n], ids[n] = random_boxes(n, arguments.size)
    many = max(arguments.instances)
    masks = {
        **{f"noise {density}": noise(density, arguments.size) for density in (0.5, 0.1, 0.05, 0.01)},
        "smooth noise": smooth_noise(arguments.size),
    }
    columns = [*(f"{int(ids[n].amax())} inst." for n in arguments.instances), *masks, "memory"]
    print(f"torch {torch.__version__}, 1 thread, logits 2x2x{arguments.size}^3, median of {arguments.repeats}")
    print(f"{'time over Dice+CE':36}", *(f"{column:>12}" for column in columns))
    for trainer in arguments.trainers:
        cells = []
        with tqdm(total=len(columns), desc=trainer, leave=False) as bar:
            for n in arguments.instances:
                logits = logits_of(half_trained(labels[n]))
                cells.append(ratio(trainer, logits, labels[n], ids[n], arguments.repeats))
                bar.update()
            stock, loss = stock_loss(), loss_of(trainer)
            ours = peak_kib(lambda: loss(logits, labels[many], ids[many]), logits)  # noqa: B023
            alone = peak_kib(lambda: stock(logits, labels[many]), logits)  # noqa: B023
            for mask in masks.values():
                cells.append(ratio(trainer, logits_of(mask), labels[many], ids[many], arguments.repeats))
                bar.update()
            cells.append(ours / alone)
        print(f"{trainer:36}", *(f"{cell:>12.2f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
