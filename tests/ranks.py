"""One of two gloo processes that train through nnU-Net's own trainer code: ``python ranks.py RANK FOLDER``.

nnU-Net's own start of several processes needs as many GPUs, so its DDP is replaced by one on the CPU. Each job's
result is in FOLDER/RANK.pt; tests/trainers/test_processes.py says what must be in there.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from time import sleep
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer
import torch
from nnunet_datasets import Folders, make_trainer
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_instance_trainers import trainers
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.training import instance_loading
from nnunet_instance_trainers.training.loss_csv import EpochTable, LossRecord
from nnunet_instance_trainers.training.scores_csv import ScoreRecord

LABELS, REGIONS, IGNORE, BOTH = "Dataset902_Classes", "Dataset903_Regions", "Dataset904_Ignore", "Dataset905_Both"
DATASETS = (LABELS, REGIONS, IGNORE, BOTH)
SHARES = {
    "2 and 1": ([0, 1], [2]),
    "one without instances": ([0, 1], [3]),
    "nothing anywhere": ([3], [3]),
    "even": ([0], [2]),
    "even, batch Dice": ([0], [2]),
}
"""Which of four samples each process has; the last sample has no instance."""
NNUNETS = ("nnunet", "nnunet_ce", "nnunet_dice")
"""The pixel losses that are nnU-Net's own."""


class nnUNetTrainerScales(trainers.nnUNetTrainerInverseWeightedFocal):
    """No pixel loss, and terms at the full scale only, so that the other scales' outputs are used by nothing."""

    scales = 1


# --- trainers -------------------------------------------------------------------------------------------------


def make(folders: Folders, job: str, dataset: str = LABELS, trainer: str = "nnUNetTrainerBlob", **options: Any):
    """A trainer on the CPU, whose results lie in a folder of this job."""
    plans = json.loads((folders.preprocessed / dataset / "nnUNetPlans.json").read_text())
    plan = plans["configurations"]["3d_fullres"]
    own = {name: options.pop(name) for name in ("batch_size", "batch_dice", "patch_size") if name in options}
    steps = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 2}
    plan.update({**own, "instance_training": {"source": "patch", "seed": 0, **steps, **options}})
    cls = globals().get(trainer) or getattr(trainers, trainer)
    made = make_trainer(cls, folders, {**plans, "plans_name": job}, "3d_fullres")
    made.device, made.grad_scaler = torch.device("cpu"), None
    return made


def weights(trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trainer.network.parameters()]


# --- whole trainings ------------------------------------------------------------------------------------------


def train(folders: Folders, job: str, **options: Any) -> dict[str, Any]:
    """A whole training, and all that went into its records."""
    trainer = make(folders, job, **options)
    trainer.initialize()
    before, seed = weights(trainer), torch.initial_seed()
    seen: dict[str, list] = {"objects": [], "values": [], "batches": [], "written": []}
    trainer.validation_step = _noting(trainer.validation_step, lambda result: seen["objects"].append(result["objects"]))
    trainer._take_instances = _noting(trainer._take_instances, lambda batch: seen["batches"].append(batch["data"]))
    add, write = LossRecord.add, EpochTable.write

    def noting_add(self, phase, values):
        seen["values"].append((trainer.current_epoch, phase, {name: value.item() for name, value in values.items()}))
        add(self, phase, values)

    def noting_write(self):
        seen["written"].append((trainer.current_epoch, self.file.name))
        write(self)

    LossRecord.add, EpochTable.write = noting_add, noting_write
    try:
        trainer.run_training()
    finally:
        LossRecord.add, EpochTable.write = add, write
    return {"before": before, "after": weights(trainer), "seed": seed, "folder": trainer.output_folder, **seen}


def _noting(step: Callable, note: Callable) -> Callable:
    def noted(*args):
        result = step(*args)
        note(result)
        return result

    return noted


# --- one step on shared batches -------------------------------------------------------------------------------


def four_samples(folders: Folders, dataset: str) -> dict[str, Any]:
    """A batch whose last class occurs in its first sample only, and whose last sample has no instance."""
    trainer = make(folders, "samples", REGIONS if dataset == BOTH else dataset, batch_size=4)
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[0])
    targets = []
    for scale in batch["target"]:
        if trainer.n_regions:
            scale[1:, 1] = scale[1:, -1] = 0
            scale[3] = 0
        else:
            if dataset == LABELS:
                scale[1:] *= scale[1:, :1] != 2
            scale[3] *= scale[3] == 2  # the label to be ignored
        if dataset == BOTH:
            scale[..., :4] = 0
            ignored = torch.zeros_like(scale[:, :1])
            ignored[..., :4] = 1
            scale = torch.cat([scale[:, :2], ignored, scale[:, 2:]], 1)
        targets.append(scale)
    return {"data": batch["data"], "target": targets}


class Weights(nn.Module):
    """In place of a network: a weight per class and voxel, pooled to each scale, so that no voxel's gradient hides."""

    def __init__(self, classes: int, shapes: list[torch.Size]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(classes, *shapes[0], dtype=torch.float64, generator=generator) + 1)
        self.shapes = shapes

    def forward(self, data: Tensor) -> list[Tensor]:
        return [nn.functional.adaptive_avg_pool3d(data * self.weight, shape) for shape in self.shapes]


def step(trainer, batch: dict[str, Any], samples: list[int]) -> dict[str, Any]:
    """Loss, its parts and the gradient of some samples; several processes have the mean gradient that DDP takes."""
    scales = [scale[samples] for scale in batch["target"]]
    if not trainer.settings.needs_ids:  # its own loader gives none
        scales = [scale[:, : -max(trainer.n_regions, 1)] for scale in scales]
    network = Weights(trainer.label_manager.num_segmentation_heads, [scale.shape[2:] for scale in scales])
    if trainer.is_ddp:
        network = DistributedDataParallel(network)
    target = trainer._take_instances({"target": scales})["target"]
    loss = trainer.loss(network(batch["data"][samples].double()), target)
    loss.backward()
    (gradient,) = (parameter.grad for parameter in network.parameters())
    parts = {name: value.item() for name, value in trainer.loss.compound.values.items()}
    return {"loss": loss.item(), "parts": parts, "gradient": gradient}


def steps(folders: Folders, batches: dict[str, Any], rank: int | None) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every trainer on every dataset and share; ``rank`` None is one process with the joined batch."""
    for dataset, batch in batches.items():
        for name in trainers.__all__:
            trainer = make(folders, "steps", dataset, name)
            for share, samples in SHARES.items():
                trainer.configuration_manager.configuration["batch_dice"] = "batch Dice" in share
                trainer.loss = trainer._build_loss()
                even = share.startswith("even") and dataset != IGNORE
                if not even and trainer.settings.pixel_loss in NNUNETS:
                    # nnU-Net's own mean is one of means over processes, and its cross-entropy's is over those
                    # voxels that are not ignored: that of the joined batch only where both are of one number.
                    trainer.loss.compound.weights["pixel"] = 0
                    if not trainer.settings.terms:
                        continue
                mine = [*samples[0], *samples[1]] if rank is None else samples[rank]
                yield (dataset, name, share), step(trainer, batch, mine)


# --- faults ---------------------------------------------------------------------------------------------------


def line_of(trainer) -> str:
    """The line that ends a training."""
    try:
        trainer.run_training()
    except SystemExit as stop:
        return str(stop.code)
    return "it trained"


def mistake_of_one(folders: Folders, job: str, rank: int) -> str:
    """The line that ends a training in which the second process alone cannot trust a map."""
    verify = instance_loading.verify

    def failing(*_):
        if rank == 1:
            raise UserError("case 'case_1': its instance map is missing")

    instance_loading.verify = failing
    try:
        return line_of(make(folders, job, source="precomputed"))
    finally:
        instance_loading.verify = verify


def checked(folders: Folders, job: str) -> list[str]:
    """The cases that this process checks."""
    verify, seen = instance_loading.verify, []
    instance_loading.verify = lambda _, cases, *__: seen.extend(cases)
    try:
        ready(make(folders, job, source="precomputed"))
    finally:
        instance_loading.verify = verify
    return seen


def ready(trainer):
    """The trainer with its loaders."""
    trainer.initialize()
    trainer.get_dataloaders()
    return trainer


# --- the processes --------------------------------------------------------------------------------------------


def prepare(folders: Folders) -> None:
    from nnunet_instance_trainers.data.precompute import precompute

    precompute(LABELS, ["3d_fullres"], "nnUNetPlans", 1)
    both = folders.preprocessed / BOTH
    shutil.copytree(folders.preprocessed / REGIONS, both)
    description = json.loads((both / "dataset.json").read_text())
    description["labels"]["ignore"] = 3
    (both / "dataset.json").write_text(json.dumps(description))
    plans = json.loads((both / "nnUNetPlans.json").read_text())
    (both / "nnUNetPlans.json").write_text(json.dumps({**plans, "dataset_name": BOTH}))


def alone(folders: Folders, results: Path) -> None:
    """What the first process does before the other is there: samples, and what one process makes of them."""
    prepare(folders)
    batches = {dataset: four_samples(folders, dataset) for dataset in DATASETS}
    torch.save(batches, results / "batches.pt")
    torch.save(dict(steps(folders, batches, None)), results / "steps.pt")
    (results / "steps.pt").rename(results / "alone.pt")


def together(folders: Folders, results: Path, rank: int) -> dict[str, Any]:
    batches = torch.load(results / "batches.pt")
    done: dict[str, Any] = {"steps": dict(steps(folders, batches, rank))}
    nnunet_trainer.DDP = lambda network, device_ids: DistributedDataParallel(network)
    for source, batch_dice in (("patch", False), ("precomputed", True)):
        done[source] = train(folders, source, source=source, batch_dice=batch_dice)
    done["uneven"] = train(folders, "uneven", batch_size=3)
    done["scales"] = train(folders, "scales", trainer="nnUNetTrainerScales")
    done["mistake"] = mistake_of_one(folders, "mistake", rank)
    done["checked"] = checked(folders, "checked")
    done["uneven batch Dice"] = line_of(make(folders, "refused", batch_size=3, batch_dice=True))
    ours = make(folders, "ours", trainer="nnUNetTrainerTversky", batch_size=3, batch_dice=True)
    done["uneven without nnU-Net's Dice"] = ready(ours).batch_size
    return done


def main(rank: int, results: Path) -> None:
    torch.set_num_threads(1)
    for owner, name in ((MetaLogger, "plot_progress_png"), (LossRecord, "_draw"), (ScoreRecord, "_draw")):
        setattr(owner, name, lambda *_: None)  # figures would take most of the time
    folders = Folders(results / "nnunet")
    if rank == 0:
        alone(folders, results)
    while not (results / "alone.pt").exists():
        sleep(0.1)
    store = f"file://{results}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=90))
    torch.save(together(folders, results, rank), results / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
