"""What the blob term costs on top of nnU-Net's own loss: forward and backward, alternating in one process.

    python scripts/benchmark_losses.py

Prints, for a few and for many instances, the median time of nnU-Net's Dice and cross-entropy, of the same with
the blob term added, and their ratio. One thread, logits 2x2x128^3, on the CPU.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunet_instance_trainers.instances import label_components
from nnunet_instance_trainers.losses import BlobLoss


def random_boxes(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and ids (2, 1, *size) of about n boxes of 1 to 64 voxels in each sample."""
    random = np.random.default_rng(0)
    labels = np.zeros((2, 1, size, size, size), dtype=np.int16)
    for sample in labels[:, 0]:
        for low in random.integers(0, size - 4, (n, 3)):
            sample[tuple(slice(start, start + random.integers(1, 5)) for start in low)] = 1
    ids = np.stack([label_components(sample)[0][None] for sample in labels[:, 0]])
    return torch.from_numpy(labels), torch.from_numpy(ids.astype(np.int16))


def seconds(loss, logits: torch.Tensor) -> float:
    """Time of one forward and backward pass."""
    logits.grad = None
    start = perf_counter()
    loss().backward()
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=[10, 800], help="boxes per sample")
    parser.add_argument("--size", type=int, default=128, help="edge of the volume")
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    stock = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    blob = BlobLoss()
    torch.manual_seed(0)
    logits = torch.randn(2, 2, *[arguments.size] * 3, requires_grad=True)
    print(f"torch {torch.__version__}, 1 thread, logits {tuple(logits.shape)}, median of {arguments.repeats}")
    print(f"{'instances':>10} {'Dice+CE, s':>11} {'+ blob, s':>10} {'ratio':>6}")
    for n in arguments.instances:
        labels, ids = random_boxes(n, arguments.size)
        pairs = [
            (
                seconds(lambda: stock(logits, labels), logits),  # noqa: B023
                seconds(lambda: stock(logits, labels) + blob(logits, labels, ids), logits),  # noqa: B023
            )
            for _ in range(arguments.repeats + 1)
        ][1:]  # the first pair warms up
        alone, both = (median(times) for times in zip(*pairs))
        print(f"{int(ids.amax()):>10} {alone:>11.3f} {both:>10.3f} {both / alone:>6.2f}")


if __name__ == "__main__":
    main()
