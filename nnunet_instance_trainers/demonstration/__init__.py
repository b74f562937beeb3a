"""``nnunet-instance demo``: from raw images to a picture of found and missed objects, in minutes on a CPU.

Every step is a command that users type themselves; only the network and the schedule are small.
"""

from __future__ import annotations

import os
from pathlib import Path

from nnunet_instance_trainers.data.nnunet_commands import dataset_id
from nnunet_instance_trainers.demonstration.sample_dataset import copy_dataset, held_out, sample_dataset
from nnunet_instance_trainers.demonstration.small_plans import PLANS, SCHEDULE, write_small_plans
from nnunet_instance_trainers.demonstration.table_and_figure import write_comparison
from nnunet_instance_trainers.demonstration.timed_steps import TimedSteps
from nnunet_instance_trainers.linking import check_torchvision, set_variable

__all__ = ["run_demo"]

_TRAINERS = ("nnUNetTrainerInstanceBaseline", "nnUNetTrainerBlob")


def run_demo(folder: Path, data: Path | None, device: str) -> None:
    """Run the demo.

    Args:
        folder: where to work; nnU-Net's three folders, logs, table and figure go there.
        data: a raw dataset in nnU-Net format; None for the sample image in the stardist wheel.
        device: torch device for training and prediction.

    Raises:
        UserError: something is missing, or a step failed (with the path of its log).
    """
    check_torchvision()
    folder = folder.resolve()
    _set_environment(folder)
    raw = sample_dataset(folder / "nnUNet_raw") if data is None else copy_dataset(data, folder / "nnUNet_raw")
    number, preprocessed = dataset_id(raw.name), folder / "nnUNet_preprocessed" / raw.name
    steps = TimedSteps(folder / "logs")
    plan = ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", "2d", "3d_fullres"]
    steps.run("plan and preprocess", plan, nnUNet_n_proc_DA="1")  # the planner sets torch's threads to it
    configuration = write_small_plans(preprocessed)
    steps.run("instance maps", ["nnunet-instance", "precompute", "-d", number, "-c", configuration, "-p", PLANS])
    images, truth = held_out(raw, preprocessed, folder / "held_out")
    common = ["-p", PLANS, "-device", device]
    for trainer in _TRAINERS:
        train = ["nnUNetv2_train", number, configuration, "0", "-tr", trainer, *common]
        steps.run(f"train {trainer}", train, epochs=SCHEDULE["num_epochs"])
        model = ["-d", number, "-c", configuration, "-f", "0", "-tr", trainer, *common]
        one_process = ["-npp", "1", "-nps", "1"]
        predict = ["nnUNetv2_predict", "-i", str(images), "-o", str(folder / trainer), *model, *one_process]
        steps.run(f"predict with {trainer}", predict)
    write_comparison(folder, raw, images, truth, _TRAINERS)
    print(f"\nwhere the time went\n\n{steps.times()}")


def _set_environment(folder: Path) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder / name)
    os.environ["nnUNet_n_proc_DA"] = "0"  # one thread that loads, so that the seed means something
    os.environ["nnUNet_def_n_proc"] = "2"
    os.environ.setdefault("nnUNet_compile", "false")
    set_variable()
