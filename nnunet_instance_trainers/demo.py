"""``nnunet-instance demo``: from raw images to a picture of found and missed objects, in minutes on a CPU.

Every step is a command that users type themselves; only the network and the schedule are small.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

from nnunet_instance_trainers.configuration import PLANS_KEY
from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.nnunet_commands import dataset_id
from nnunet_instance_trainers.data.text_tables import aligned
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.linking import check_torchvision, set_variable

__all__ = ["run_demo"]

_TRAINERS = ("nnUNetTrainerInstanceBaseline", "nnUNetTrainerBlob")
_PLANS = "nnUNetPlansDemo"
_SCHEDULE = {"num_epochs": 15, "num_iterations_per_epoch": 40, "num_val_iterations_per_epoch": 2, "seed": 0}
_TILE = 128
_MOST_CASES_IN_FIGURE = 4
_NOTE = "A few minutes of training on a few images prove that the plumbing works, not that a method is better."


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
    raw = _sample_dataset(folder / "nnUNet_raw") if data is None else _copy_dataset(data, folder / "nnUNet_raw")
    number = dataset_id(raw.name)
    steps = _Steps(folder / "logs")
    steps.run(
        "plan and preprocess",
        ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", "2d", "3d_fullres"],
        nnUNet_n_proc_DA="1",
    )  # the planner sets torch's threads to it
    configuration = _write_small_plans(folder / "nnUNet_preprocessed" / raw.name)
    common = ["-p", _PLANS, "-device", device]
    steps.run("instance maps", ["nnunet-instance", "precompute", "-d", number, "-c", configuration, "-p", _PLANS])
    images, truth = _held_out(raw, folder / "nnUNet_preprocessed" / raw.name, folder / "held_out")
    for trainer in _TRAINERS:
        steps.run(
            f"train {trainer}",
            ["nnUNetv2_train", number, configuration, "0", "-tr", trainer, *common],
            epochs=_SCHEDULE["num_epochs"],
        )
        steps.run(
            f"predict with {trainer}",
            [
                "nnUNetv2_predict",
                "-i",
                str(images),
                "-o",
                str(folder / trainer),
                "-d",
                number,
                "-c",
                configuration,
                "-f",
                "0",
                "-tr",
                trainer,
                "-npp",
                "1",
                "-nps",
                "1",
                *common,
            ],
        )
    _report(folder, raw, images, truth)
    print(f"\nwhere the time went\n\n{steps.times()}")


def _set_environment(folder: Path) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder / name)
    os.environ["nnUNet_n_proc_DA"] = "0"  # one thread that loads, so that the seed means something
    os.environ["nnUNet_def_n_proc"] = "2"
    os.environ.setdefault("nnUNet_compile", "false")
    set_variable()


# --- data --------------------------------------------------------------------------------------------------


def _sample_dataset(raw: Path) -> Path:
    """The fluorescence image with expert masks in the stardist wheel, as tiles; a quarter of them is held out."""
    from tifffile import imread, imwrite

    spec = find_spec("stardist")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the demo's sample image comes with stardist: run 'pip install nnunet-instance-trainers[demo]'")
    source = Path(spec.submodule_search_locations[0]) / "data" / "images"
    image, instances = imread(source / "img2d.tif"), imread(source / "mask2d.tif")
    dataset = raw / "Dataset001_Nuclei"
    for name in ("imagesTr", "labelsTr", "instancesTr", "imagesTs", "labelsTs", "instancesTs"):
        (dataset / name).mkdir(parents=True, exist_ok=True)
    rows, columns = (size // _TILE for size in image.shape)
    for row in range(rows):
        for column in range(columns):
            tile = np.s_[row * _TILE : (row + 1) * _TILE, column * _TILE : (column + 1) * _TILE]
            subset = "Ts" if row >= rows // 2 and column >= columns // 2 else "Tr"
            case = f"tile_{row}{column}"
            imwrite(dataset / f"images{subset}" / f"{case}_0000.tif", image[tile])
            imwrite(dataset / f"labels{subset}" / f"{case}.tif", (instances[tile] > 0).astype(np.uint8))
            imwrite(dataset / f"instances{subset}" / f"{case}.tif", instances[tile].astype(np.uint16))
    description = {
        "channel_names": {"0": "fluorescence"},
        "labels": {"background": 0, "nucleus": 1},
        "numTraining": len(list((dataset / "labelsTr").iterdir())),
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=1))
    return dataset


def _copy_dataset(data: Path, raw: Path) -> Path:
    name = data.resolve().name
    if not (data / "dataset.json").is_file() or dataset_id(name) == name:
        raise UserError(
            f"{data} is no raw dataset in nnU-Net format: it needs a dataset.json and a name like Dataset123_Lesions"
        )
    return Path(shutil.copytree(data, raw / name, dirs_exist_ok=True))


def _held_out(raw: Path, preprocessed: Path, target: Path) -> tuple[Path, dict[str, Path]]:
    """A folder of held-out images and their labels by case: imagesTs with labelsTs, or fold 0's validation cases."""
    ending = json.loads((raw / "dataset.json").read_text())["file_ending"]
    subset = "Ts" if (raw / "labelsTs").is_dir() else "Tr"
    labels = {path.name[: -len(ending)]: path for path in sorted((raw / f"labels{subset}").glob(f"*{ending}"))}
    if subset == "Ts":
        return raw / "imagesTs", labels
    splits = preprocessed / "splits_final.json"
    if (raw / "splits_final.json").is_file():
        shutil.copy(raw / "splits_final.json", splits)
    if not splits.is_file():
        raise UserError(f"{raw} has neither labelsTs nor splits_final.json: add one, so that something is held out")
    held_out = json.loads(splits.read_text())[0]["val"]
    target.mkdir(exist_ok=True)
    for case in held_out:
        for image in (raw / "imagesTr").glob(f"{case}_????{ending}"):
            shutil.copy(image, target / image.name)
    return target, {case: labels[case] for case in held_out}


def _write_small_plans(preprocessed: Path) -> str:
    """A copy of the plans with a network and a schedule for a CPU; returns the configuration to train."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    configuration = "3d_fullres" if "3d_fullres" in plans["configurations"] else "2d"
    plan = plans["configurations"][configuration]
    network = plan["architecture"]["arch_kwargs"]
    stages = min(4, network["n_stages"])
    strides = network["strides"][:stages]
    features = 16 if configuration == "2d" else 8
    network.update(
        n_stages=stages,
        features_per_stage=[features * 2**stage for stage in range(stages)],
        kernel_sizes=network["kernel_sizes"][:stages],
        strides=strides,
        n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[1] * (stages - 1),
    )
    steps = np.prod(strides, axis=0)
    largest = 128 if configuration == "2d" else 64
    plan["patch_size"] = [
        int(max(min(size, largest) // step, 1) * step) for size, step in zip(plan["patch_size"], steps)
    ]
    plan["batch_size"] = 4 if configuration == "2d" else 2
    plan[PLANS_KEY] = dict(_SCHEDULE)
    plans["plans_name"] = _PLANS
    with write_atomically(preprocessed / f"{_PLANS}.json") as temporary:
        temporary.write_text(json.dumps(plans, indent=4))
    return configuration


# --- steps -------------------------------------------------------------------------------------------------


class _Steps:
    """Runs commands one after the other, each with a log file and a line or a bar on the screen."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.seconds: dict[str, float] = {}
        logs.mkdir(exist_ok=True)

    def run(self, title: str, command: Sequence[str], *, epochs: int = 0, **environment: str) -> None:
        number, start = len(self.seconds) + 1, perf_counter()
        log = self.logs / f"{number:02d}_{title.replace(' ', '_')}.log"
        search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        program = shutil.which(command[0], path=search)
        if program is None:
            raise UserError(f"the command {command[0]} is not installed: install this package with pip")
        with (
            open(log, "w", buffering=1) as stream,
            tqdm(total=epochs or 1, desc=f"{number}. {title}", unit="epoch" if epochs else "step") as bar,
            subprocess.Popen(
                [program, *command[1:]],
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            for line in process.stdout or ():
                stream.write(line)
                bar.update("Epoch time" in line if epochs else 0)
            if process.wait() == 0:
                bar.update(0 if epochs else 1)
        if process.returncode != 0:
            last = [line for line in log.read_text().splitlines() if line.strip()][-1:]
            raise UserError(f"'{' '.join(command)}' failed ({''.join(last)}): see {log}")
        self.seconds[title] = perf_counter() - start

    def times(self) -> str:
        """A line for each step, and one for all."""
        rows = [*self.seconds.items(), ("all steps", sum(self.seconds.values()))]
        width = max(len(title) for title, _ in rows)
        return "\n".join(f"{title:<{width}}  {seconds:5.0f} s" for title, seconds in rows)


# --- result ------------------------------------------------------------------------------------------------


def _report(folder: Path, raw: Path, images: Path, truth: dict[str, Path]) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_instance_trainers.evaluation import Counts, Detection, detect
    from nnunet_instance_trainers.evaluation.object_pictures import compare_models
    from nnunet_instance_trainers.instances import label_components

    plans = PlansManager(str(folder / "nnUNet_preprocessed" / raw.name / f"{_PLANS}.json"))
    dataset = json.loads((raw / "dataset.json").read_text())
    manager = plans.get_label_manager(dataset)
    reader = plans.image_reader_writer_class()
    classes = [
        np.atleast_1d(c) for c in (manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    ]

    def read(path: Path) -> np.ndarray:
        return np.rint(reader.read_seg(str(path))[0][0]).astype(np.int64)

    pictures: dict[str, np.ndarray] = {}
    detections: dict[str, dict[str, list[Detection]]] = {trainer: {} for trainer in _TRAINERS}
    totals = dict.fromkeys(_TRAINERS, Counts())
    for case, path in truth.items():
        label = read(path)
        annotated = path.parent.with_name(path.parent.name.replace("labels", "instances")) / path.name
        channels = sorted(images.glob(f"{case}_????{dataset['file_ending']}"))
        if len(pictures) < _MOST_CASES_IN_FIGURE:
            pictures[case] = reader.read_images([str(channels[0])])[0][0].squeeze()
        for trainer in _TRAINERS:
            prediction = read(folder / trainer / path.name)
            of_case = []
            for labels in classes:
                target = np.isin(label, labels)
                ids = np.where(target, read(annotated), 0) if annotated.is_file() else label_components(target)[0]
                of_case.append(detect(ids.squeeze(), np.isin(prediction, labels).squeeze()))
            detections[trainer][case] = of_case
            totals[trainer] = sum((detection.counts for detection in of_case), totals[trainer])
    table = _table(totals)
    (folder / "table.txt").write_text(f"{table}\n\n{_NOTE}\n")
    compare_models(folder / "figure.png", pictures, detections, _NOTE)
    print(f"\n{len(truth)} held-out images, all classes pooled\n\n{table}\n\n{_NOTE}\n")
    print(f"table:  {folder / 'table.txt'}\nfigure: {folder / 'figure.png'}")


def _table(totals: dict) -> str:
    header = ("trainer", "Dice", "volume ratio", "sensitivity", "precision", "F1", "F1 IoU>=0.5", "missed", "false")
    rows = [header]
    for trainer, c in totals.items():
        ratios = (c.dice, c.volume_ratio, c.sensitivity, c.precision, c.f1, c.f1_iou50)
        rows.append(
            (trainer, *(f"{ratio:.3f}" for ratio in ratios), f"{c.missed}/{c.instances}", f"{c.false}/{c.components}")
        )
    return aligned(rows)
