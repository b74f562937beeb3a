"""Short trainings of a small U-Net on real images with every configuration of the trainers.

    python scripts/trial_losses.py --data DATA --csv trials.csv --out trials.md

DATA holds Dataset501_Nuclei2D (fluorescence nuclei, 2D), Dataset502_Lesions3D (white-matter lesions, of which axial
slices are used) and Dataset505_RetinalLesions2D (lesions of the retina, here all four classes as one, at half the
resolution) in nnU-Net's raw format. All losses see the same crops in the same order and start from the
same network. Each run is appended to the CSV as soon as it has ended, and runs that are there already are skipped,
so a trial can be stopped and started again. The tables hold what the CSV holds.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from skimage.io import imread
from torch import Tensor, nn
from torch.nn.functional import pad
from tqdm import tqdm

from nnunet_instance_trainers.evaluation import Counts, detect
from nnunet_instance_trainers.instances import label_components
from nnunet_instance_trainers.losses import CompoundLoss, PixelLoss
from nnunet_instance_trainers.losses.named_terms import TERMS

# --- losses -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A trainer's loss: weights of the pixel loss and of terms, and settings of these terms other than defaults."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"pixel": 1.0})
    pixel: str = "dice and cross-entropy"
    options: Mapping[str, Any] = field(default_factory=dict)
    warm_up: Mapping[str, float] = field(default_factory=dict)
    """Over which share of all iterations the weight of a term rises from 0."""

    def loss(self) -> CompoundLoss:
        terms = {name: TERMS[name][0](**self.options) for name in self.weights if name != "pixel"}
        return CompoundLoss(_pixel_loss(self.pixel), terms, {"pixel": 0.0, **self.weights})


def _pixel_loss(name: str) -> nn.Module:
    """nnU-Net's own loss or a part of it, or one of this package's criteria over the whole image."""
    parts = {"dice and cross-entropy": (1, 1), "dice": (0, 1), "cross-entropy": (1, 0)}
    if name not in parts:
        return PixelLoss(criterion=name)
    weight_ce, weight_dice = parts[name]
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(
        dice, {}, weight_ce=weight_ce, weight_dice=weight_dice, dice_class=MemoryEfficientSoftDiceLoss
    )


_SIDES = ("instance_target", "instance_prediction")
_RATES = ("missed_rate", "false_rate")
_CELL_SIDES = ("voronoi_target", "voronoi_prediction")
_CELLS = {"dice": {"smooth": 0}, "bce": {}}
_GDF = "generalized_dice+focal"
BASELINE = "pixel loss alone"
LOSSES: dict[str, Recipe] = {
    BASELINE: Recipe(),
    "Blob": Recipe({"pixel": 2.0, "blob": 1.0}),
    "BlobTversky": Recipe({"pixel": 2.0, "blob": 1.0}, options={"criterion": "tversky"}),
    "ICI": Recipe({"pixel": 0.25, "instance_target": 0.5, "center": 0.25}),
    "DualICI": Recipe(dict.fromkeys(("pixel", *_SIDES, "center"), 0.25)),
    "FalseInstance": Recipe(dict.fromkeys(("pixel", *_RATES), 1.0)),
    "Proximity": Recipe({"pixel": 1.0, "proximity": 0.1}),
    "Instance": Recipe({**dict.fromkeys(("pixel", *_SIDES, "center", *_RATES), 1.0), "proximity": 0.1}),
    "TopKDice": Recipe({"pixel": 1.0, "topk_dice": 1.0}, pixel="cross-entropy"),
    "TopKDice_k30": Recipe({"pixel": 1.0, "topk_dice": 1.0}, pixel="cross-entropy", options={"k_percent": 30}),
    "InverseWeighted": Recipe({"pixel": 1.0, "inverse_weighted": 1.0}, pixel="dice"),
    "InverseWeightedFocal": Recipe({"inverse_weighted": 1.0}, options={"criterion": "focal"}),
    "InverseWeightedASL": Recipe({"inverse_weighted": 1.0}, options={"criterion": "asl"}),
    "InverseWeightedDice": Recipe({"inverse_weighted": 1.0}, options={"criterion": "dice"}),
    "WeightedCE": Recipe(pixel="balanced_bce"),
    "Tversky": Recipe(pixel="tversky"),
    "GeneralizedDiceFocal": Recipe(pixel=_GDF),
    "BlobGDF": Recipe({"pixel": 2.0, "blob": 1.0}, pixel=_GDF),
    "ICIGDF": Recipe({"pixel": 0.25, "instance_target": 0.5, "center": 0.25}, pixel=_GDF),
    "FalseInstanceGDF": Recipe(dict.fromkeys(("pixel", *_RATES), 1.0), pixel=_GDF),
    "ProximityGDF": Recipe({"pixel": 1.0, "proximity": 0.1}, pixel=_GDF),
    "CCDiceCE": Recipe({"pixel": 1.0, "voronoi_target": 1.0}, options={"criterion": _CELLS}),
    "BiCC": Recipe({"pixel": 1.0, **dict.fromkeys(_CELL_SIDES, 0.5)}, options={"criterion": _CELLS}),
    "BalancedCells": Recipe({"pixel": 1.0, "voronoi_target": 1.0}, options={"criterion": "balanced_bce+dice"}),
    # As nnU-Net's 50 epochs of 1000.
    "CATMIL": Recipe(
        {"pixel": 1.0, "component_tversky": 0.1, "instance_mil": 0.2}, warm_up={"component_tversky": 0.05}
    ),
}

# --- data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A 2D image (channels, *S) of zero mean and unit variance, and its instance ids (*S)."""

    image: np.ndarray
    instances: np.ndarray


def nuclei(data: Path) -> tuple[list[Picture], list[Picture]]:
    """Training and test images with the annotators' instances."""
    folder = data / "Dataset501_Nuclei2D"

    def read(part: str) -> list[Picture]:
        pictures = []
        for file in sorted((folder / f"instances{part}").glob("*.png")):
            image = imread(folder / f"images{part}" / f"{file.stem}_0000.png").astype(np.float32)
            pictures.append(Picture(_standardised(image[None]), imread(file).astype(np.int64)))
        return pictures

    return read("Tr"), read("Ts")


def lesion_slices(data: Path) -> tuple[list[Picture], list[Picture]]:
    """Axial slices of two cases, and of a third one for the test (the last fold of the data's own splits).

    All slices with a lesion and every fourth of the others; instances are components of the slice.
    """
    folder = data / "Dataset502_Lesions3D"
    split = json.loads((folder / "splits_final.json").read_text())[-1]

    def read(case: str) -> list[Picture]:
        image, labels = (
            sitk.GetArrayFromImage(sitk.ReadImage(folder / name))
            for name in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz")
        )
        brain = image[image > 0]
        image = np.where(image > 0, (image - brain.mean()) / brain.std(), 0).astype(np.float32)
        return [
            Picture(plane[None], label_components(mask > 0)[0].astype(np.int64))
            for z, (plane, mask) in enumerate(zip(image, labels))
            if plane.any() and (mask.any() or z % 4 == 0)
        ]

    training, test = ([p for case in split[part] for p in read(case)] for part in ("train", "val"))
    return training, test


def retina(data: Path) -> tuple[list[Picture], list[Picture]]:
    """Training and test tiles at half their resolution; instances are components of all four classes as one."""
    folder = data / "Dataset505_RetinalLesions2D"

    def read(part: str) -> list[Picture]:
        pictures = []
        for file in sorted((folder / f"labels{part}").glob("*.png")):
            colours = imread(folder / f"images{part}" / f"{file.stem}_0000.png").astype(np.float32)
            image = np.moveaxis(colours, -1, 0).reshape(3, 256, 2, 256, 2).mean((2, 4))
            mask = (imread(file) > 0).reshape(256, 2, 256, 2).any((1, 3))
            pictures.append(Picture(_standardised(image), label_components(mask)[0].astype(np.int64)))
        return pictures

    return read("Tr"), read("Ts")


def _standardised(image: np.ndarray) -> np.ndarray:
    """Each channel of zero mean and unit variance."""
    return (image - image.mean((1, 2), keepdims=True)) / (image.std((1, 2), keepdims=True) + 1e-6)


DATASETS: dict[str, Callable[[Path], tuple[list[Picture], list[Picture]]]] = {
    "nuclei": nuclei,
    "lesion slices": lesion_slices,
    "retinal lesions": retina,
}


def batches(pictures: list[Picture], seed: int, n: int, batch: int, crop: int) -> Iterator[tuple[Tensor, Tensor]]:
    """n batches of random flipped crops: images (batch, channels, crop, crop) and ids (batch, 1, crop, crop).

    As in nnU-Net a third of the crops, rounded, is centred near a foreground voxel, where the picture has any.
    """
    random = np.random.default_rng(seed)
    n_centred = round(batch / 3)
    occupied = [np.argwhere(picture.instances) for picture in pictures]
    for _ in range(n):
        cuts = []
        for i in range(batch):
            chosen = random.integers(len(pictures))
            picture, foreground = pictures[chosen], occupied[chosen]
            room = np.array(picture.instances.shape) - crop
            low = random.integers(0, room + 1)
            if i < n_centred and len(foreground):
                low = (foreground[random.integers(len(foreground))] - crop // 2).clip(0, room)
            window = tuple(slice(start, start + crop) for start in low)
            flips = tuple(slice(None, None, step) for step in random.choice([1, -1], 2))
            arrays = (picture.image, picture.instances[None])
            cuts.append([array[(slice(None), *window)][(slice(None), *flips)] for array in arrays])
        images, ids = (torch.from_numpy(np.stack(of_crops)) for of_crops in zip(*cuts))
        yield images, ids


# --- training ---------------------------------------------------------------------------------------------------


class SmallUNet(nn.Module):
    """Three levels, convolutions with instance norm, two classes; small, so that a whole trial takes minutes."""

    def __init__(self, n_channels: int, widths: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(n_channels, widths[0]), *(_block(a, b, b) for a, b in pairwise(widths))])
        self.widen = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths)])
        self.up = nn.ModuleList([_block(2 * a, a) for a in widths[:-1]])
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for widen, block in zip(reversed(self.widen), reversed(self.up)):
            x = block(torch.cat([widen(x), skips.pop()], 1))
        return self.head(x)


def _block(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [
            nn.Conv2d(n_in, n_out, 3, padding=1),
            nn.InstanceNorm2d(n_out, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


def train(
    recipe: Recipe,
    pictures: list[Picture],
    seed: int,
    iterations: int,
    batch: int,
    crop: int,
    progress: Callable[[], object],
) -> SmallUNet:
    """A network trained with nnU-Net's optimiser and schedule."""
    torch.manual_seed(seed)
    network, loss = SmallUNet(pictures[0].image.shape[0]), recipe.loss()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: (1 - i / iterations) ** 0.9)
    for i, (images, ids) in enumerate(batches(pictures, seed, iterations, batch, crop)):
        for name, share in recipe.warm_up.items():
            loss.weights[name] = recipe.weights[name] * min(i / (share * iterations), 1.0)
        optimiser.zero_grad()
        loss(network(images), (ids > 0).long(), ids).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimiser.step()
        schedule.step()
        progress()
    return network.eval()


@torch.no_grad()
def evaluate(network: SmallUNet, pictures: list[Picture]) -> Counts:
    """Counts over all pictures, each predicted as a whole."""
    total = Counts()
    for picture in pictures:
        height, width = picture.instances.shape
        image = torch.from_numpy(picture.image)[None]
        logits = network(pad(image, (0, -width % 4, 0, -height % 4)))
        total += detect(picture.instances, logits.argmax(1)[0, :height, :width].numpy()).counts
    return total


# --- results ----------------------------------------------------------------------------------------------------

_KEY = ("dataset", "loss", "seed", "iterations", "batch", "crop")
_FIELDS = (*_KEY, "seconds", *asdict(Counts()))


def read_rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def append_row(file: Path, row: Mapping[str, object]) -> None:
    is_new = not file.is_file()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, _FIELDS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def table(rows: list[dict[str, str]], dataset: str) -> str:
    """A markdown table, and what in it went wrong: too large a volume, or Dice far below the pixel loss alone."""
    scores: dict[str, list[Counts]] = {}
    for row in rows:
        if row["dataset"] == dataset:
            counts = Counts(**{name: type(zero)(row[name]) for name, zero in asdict(Counts()).items()})
            scores.setdefault(row["loss"], []).append(counts)
    lines = [
        f"### {dataset.capitalize()}",
        "",
        "| loss | seeds | Dice | volume ratio | sensitivity | precision | F1 | F1, IoU > 0.5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reference = mean(c.dice for c in scores[BASELINE]) if BASELINE in scores else float("nan")
    large, poor = [], []
    for loss in (loss for loss in LOSSES if loss in scores):
        runs = scores[loss]
        cells = [_spread([c.dice for c in runs]), _spread([c.volume_ratio for c in runs])]
        cells += [_mean([getattr(c, name) for c in runs]) for name in ("sensitivity", "precision", "f1", "f1_iou50")]
        lines.append(f"| {loss} | {len(runs)} | {' | '.join(cells)} |")
        if mean(c.volume_ratio for c in runs) > 2:
            large.append(loss)
        if mean(c.dice for c in runs) < reference - 0.1:
            poor.append(loss)
    return "\n".join(
        [
            *lines,
            "",
            f"Mean volume above twice the true one: {'; '.join(large) or 'none'}.",
            f"Mean Dice more than 0.1 below the pixel loss alone: {'; '.join(poor) or 'none'}.",
        ]
    )


def _mean(values: list[float]) -> str:
    """nan (the precision of a network that predicts nothing) is left out."""
    known = [value for value in values if value == value]
    return f"{mean(known):.2f}" if known else "-"


def _spread(values: list[float]) -> str:
    return f"{mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the datasets")
    parser.add_argument("--csv", type=Path, default=Path("trials.csv"), help="a row per run; those in it are skipped")
    parser.add_argument("--out", type=Path, help="file for the tables in markdown; none prints them")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--batch", type=int, default=4, help="crops per iteration")
    parser.add_argument("--crop", type=int, default=64, help="edge of the crops in voxels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    size = {name: getattr(arguments, name) for name in ("iterations", "batch", "crop")}
    done = {tuple(row[name] for name in _KEY) for row in read_rows(arguments.csv)}
    runs = [
        {"dataset": dataset, "loss": loss, "seed": seed, **size}
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for loss in arguments.losses
    ]
    runs = [run for run in runs if tuple(str(run[name]) for name in _KEY) not in done]
    pictures = {name: DATASETS[name](arguments.data) for name in {run["dataset"] for run in runs}}
    with tqdm(total=len(runs) * arguments.iterations, unit="it", mininterval=1) as bar:
        for run in runs:
            bar.set_description(f"{run['dataset']}, {run['loss']}, seed {run['seed']}")
            training, test = pictures[run["dataset"]]
            start = perf_counter()
            network = train(LOSSES[run["loss"]], training, run["seed"], **size, progress=bar.update)
            seconds = round(perf_counter() - start, 1)
            append_row(arguments.csv, {**run, "seconds": seconds, **asdict(evaluate(network, test))})

    wanted = {name: str(value) for name, value in size.items()}
    rows = [row for row in read_rows(arguments.csv) if wanted.items() <= row.items()]
    tables = "\n\n".join(table(rows, dataset) for dataset in arguments.datasets) + "\n"
    if arguments.out:
        arguments.out.write_text(tables)
    else:
        print(tables)


if __name__ == "__main__":
    main()
