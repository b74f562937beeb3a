"""Small datasets in nnU-Net's folders, preprocessed in this process by nnU-Net's own preprocessor.

nnU-Net's commands would start worker pools that take 10 s each; a case here takes milliseconds.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


@dataclass(frozen=True)
class Folders:
    """nnU-Net's three folders below one root."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "1",
        }


def configuration(name: str, patch_size: list[int], spacing: list[float], **changes) -> dict:
    """A configuration of a plans file with a tiny network of three stages."""
    dim = len(patch_size)
    resample = "resample_data_or_seg_to_shape"
    order = {"order_z": 0, "force_separate_z": None}
    strides = [[1] * dim, [2] * dim, [2] * dim]
    network = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": [[3] * dim] * 3,
        "strides": strides,
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch_size,
        "median_image_size_in_voxels": [float(size) for size in patch_size],
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": resample,
        "resampling_fn_seg": resample,
        "resampling_fn_probabilities": resample,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **order},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **order},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **order},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
        **changes,
    }


def write_plans(
    folders: Folders,
    name: str,
    configurations: dict,
    *,
    transpose: list[int] | None = None,
    reader: str = "SimpleITKIO",
    plans_name: str = "nnUNetPlans",
    channels: int = 1,
) -> dict:
    """Write plans, dataset.json and all else that nnU-Net expects in a preprocessed dataset's folder."""
    transpose = transpose or [0, 1, 2]
    statistics = {
        "max": 1.0,
        "mean": 0.0,
        "median": 0.0,
        "min": 0.0,
        "percentile_00_5": 0.0,
        "percentile_99_5": 1.0,
        "std": 1.0,
    }
    for plan in configurations.values():
        if "normalization_schemes" in plan:
            plan.update(normalization_schemes=["ZScoreNormalization"] * channels, use_mask_for_norm=[False] * channels)
    plans = {
        "dataset_name": name,
        "plans_name": plans_name,
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [32, 32, 32],
        "image_reader_writer": reader,
        "transpose_forward": transpose,
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): statistics for c in range(channels)},
    }
    base = folders.preprocessed / name
    base.mkdir(parents=True, exist_ok=True)
    (base / f"{plans_name}.json").write_text(json.dumps(plans))
    (base / "dataset_fingerprint.json").write_text("{}")
    ending = json.loads((folders.raw / name / "dataset.json").read_text())["file_ending"]
    cases = sorted(path.name.removesuffix(ending) for path in (folders.raw / name / "labelsTr").iterdir())
    (base / "splits_final.json").write_text(json.dumps([{"train": cases[:-1], "val": cases[-1:]}]))
    shutil.copy(folders.raw / name / "dataset.json", base / "dataset.json")
    shutil.copytree(folders.raw / name / "labelsTr", base / "gt_segmentations", dirs_exist_ok=True)
    return plans


def preprocess(folders: Folders, plans: dict, configuration_name: str) -> Path:
    """Preprocess all training cases of a configuration; returns the folder of the cases."""
    manager = PlansManager(plans)
    raw = folders.raw / manager.dataset_name
    dataset = json.loads((raw / "dataset.json").read_text())
    plan = manager.get_configuration(configuration_name)
    target = folders.preprocessed / manager.dataset_name / plan.data_identifier
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for label in sorted((raw / "labelsTr").iterdir()):
        case = label.name.removesuffix(dataset["file_ending"])
        images = sorted(str(path) for path in (raw / "imagesTr").glob(f"{case}_????{dataset['file_ending']}"))
        DefaultPreprocessor(verbose=False).run_case_save(str(target / case), images, str(label), manager, plan, dataset)
    return target


def save(array: np.ndarray, path: Path, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    """Write an array (Z, Y, X) with its spacing in the same order of axes."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def touching_boxes(shape: tuple[int, int, int], seed: int, n: int = 14) -> np.ndarray:
    """Ids (Z, Y, X) of boxes, each with a twin that touches it, in a volume with an empty rim."""
    random = np.random.default_rng(seed)
    ids = np.zeros(shape, dtype=np.uint16)
    for instance in range(1, 2 * n, 2):
        size = random.integers(2, 6, 3)
        low = [random.integers(2, extent - 2 * s - 2) for extent, s in zip(shape, size)]
        box = tuple(slice(start, start + s) for start, s in zip(low, size))
        twin = (slice(low[0] + size[0], low[0] + 2 * size[0]), *box[1:])
        if not ids[box].any() and not ids[twin].any():
            ids[box], ids[twin] = instance, instance + 1
    return ids


def boxes_dataset(
    folders: Folders,
    name: str,
    labels: dict,
    to_label,
    *,
    n_cases: int = 4,
    annotated: bool = True,
    shape: tuple[int, int, int] = (28, 40, 36),
    **description,
) -> None:
    """A raw dataset of touching boxes; ``to_label(ids)`` makes the label image from the ids."""
    raw = folders.raw / name
    for number in range(n_cases):
        case = f"case_{number}"
        ids = touching_boxes(shape, seed=number)
        label = to_label(ids).astype(np.uint8)
        noise = np.random.default_rng(100 + number).normal(0, 0.3, shape)
        image = (label + noise + 2).astype(np.float32)
        image[:2] = 0  # gives nnU-Net something to crop
        save(image, raw / "imagesTr" / f"{case}_0000.nii.gz")
        save(label, raw / "labelsTr" / f"{case}.nii.gz")
        if annotated:
            save(ids, raw / "instancesTr" / f"{case}.nii.gz")
    content = {"channel_names": {"0": "noise"}, "labels": labels, "numTraining": n_cases, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**content, **description}))


def make_trainer(trainer: type, folders: Folders, plans: dict, configuration_name: str, *, resume: bool = False):
    """A trainer built by hand, as nnUNetv2_train builds it, on the CPU."""
    import torch

    dataset = json.loads((folders.preprocessed / plans["dataset_name"] / "dataset.json").read_text())
    plans = {**json.loads(json.dumps(plans)), "continue_training": resume}
    return trainer(plans, configuration_name, 0, dataset, torch.device("cpu"))
