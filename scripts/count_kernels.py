"""What a step of each trainer's instance terms asks of a GPU, counted without one: kernels, waits and bytes.

    python scripts/count_kernels.py
    python scripts/count_kernels.py --shape 512 512 --batch 12 --scales 7

Forward and backward of the terms at all scales of deep supervision, labelling in PyTorch included, on the counted
device of the tests. The target's side is made before the network starts, in its own column, as in a training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from benchmark_losses import predicted, random_boxes

from nnunet_instance_trainers import trainers
from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.instances import labelling
from nnunet_instance_trainers.instances.labelling import Labeller
from nnunet_instance_trainers.instances.propagation import propagate_labels
from nnunet_instance_trainers.losses import CompoundLoss, PixelLoss
from nnunet_instance_trainers.losses.named_terms import make_term

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from counted_device import CountedDevice

TRAINERS = ("nnUNetTrainerBlob", "nnUNetTrainerICI", "nnUNetTrainerInstance", "nnUNetTrainerBiCC")
Lists = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]


def batch(n_classes: int, shape: tuple[int, ...], size: int, n_scales: int) -> Lists:
    """Logits of half-trained predictions, labels and ids (size, C, *S) at each scale; 800 boxes in a sample."""
    random = np.random.default_rng(0)
    foreground, ids = random_boxes(800, shape, size)
    labels = torch.where(ids > 0, ids % n_classes + 1, 0).to(torch.int16)
    mask = torch.from_numpy(predicted("half", foreground))
    logits, targets, instances = [], [], []
    for scale in range(n_scales):
        step = (slice(None), slice(None), *[slice(None, None, 2**scale)] * len(shape))
        label = labels[step]
        invented = torch.from_numpy(random.integers(1, n_classes + 1, label[:, 0].shape))
        answer = torch.where(label[:, 0] > 0, label[:, 0], invented) * mask[:, None][step][:, 0]
        one_hot = torch.nn.functional.one_hot(answer.long(), n_classes + 1).movedim(-1, 1)
        logits.append(3 * one_hot + torch.rand(one_hot.shape))
        targets.append(label)
        instances.append(ids[step])
    return logits, targets, instances


def count(trainer: str, lists: Lists) -> str:
    settings = Settings.resolve(getattr(trainers, trainer), {}, where="count")
    terms = {name: make_term(name, vars(settings)) for name in settings.terms}
    weights = {"pixel": 0.0, **{name: settings.effective_weights[name] for name in terms}}
    loss = CompoundLoss(PixelLoss(), terms, weights, scale_weights=[0.5**scale for scale in range(len(lists[0]))])
    found = []
    with CountedDevice() as device:
        outputs, targets, ids = (device.send(*part) for part in lists)
        for _ in range(2):  # what is kept from step to step is made in the first
            device.clear()
            side = loss.target_side(targets, ids, outputs[0].shape[1])
            before = f"{device.kernels.total()} ({device.waits.total()})"
            device.clear()
            logits = [scale.detach().requires_grad_() for scale in outputs]
            value = loss(logits, targets, side)
            forward = device.kernels.total()
            torch.autograd.grad(value, logits)
            step = f"{forward} + {device.kernels.total() - forward} ({device.waits.total()})"
            found = [before, step, f"{device.n_bytes / 1e9:.1f} GB"]
    return " | ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[128, 128, 128], help="of a sample")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--scales", type=int, default=4)
    parser.add_argument("--trainers", nargs="+", default=TRAINERS)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 5])
    arguments = parser.parse_args()
    there = Labeller("PyTorch", "as on CUDA without CuPy", propagate_labels)
    labelling.labeller = lambda device: there  # type: ignore[assignment]
    print("| trainer | classes | before the step, kernels (waits) | forward + backward (waits) | bytes |")
    print("|---|---|---|---|---|")
    for n_classes in arguments.classes:
        lists = batch(n_classes, tuple(arguments.shape), arguments.batch, arguments.scales)
        for trainer in arguments.trainers:
            print(f"| `{trainer}` | {n_classes} | {count(trainer, lists)} |", flush=True)


if __name__ == "__main__":
    main()
