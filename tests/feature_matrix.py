"""The feature matrix: its cells, the datasets that they train on, and the table of docs/compatibility.md."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from nnunet_datasets import Folders, boxes_dataset, configuration, make_trainer, preprocess, write_plans
from scipy import ndimage

GEOMETRIES = {
    "2D": "2d",
    "3D full resolution": "3d_fullres",
    "3D low resolution": "3d_lowres",
    "cascade": "3d_cascade_fullres",
    "anisotropic, pseudo-2D": "3d_flat",
}
TARGETS = {
    "binary": "Dataset911_Binary",
    "three classes": "Dataset912_Classes",
    "nested regions": "Dataset913_Regions",
    "ignore label": "Dataset914_Ignore",
    "regions with ignore label": "Dataset915_RegionsIgnore",
}
TRAINERS = ("nnUNetTrainerBlob", "nnUNetTrainerInstance")
SUPERVISION = {"deep supervision": "", "no deep supervision": "NoDeepSupervision"}
SOURCES = ("patch", "precomputed")

COMBINED = Path(__file__).parent / "combined_trainers"


@dataclass(frozen=True)
class Cell:
    """One combination; each is a test of its own in tests/compatibility/test_matrix.py."""

    geometry: str
    target: str
    trainer: str
    supervision: str
    source: str

    def __str__(self) -> str:
        return "-".join((self.geometry, self.target, self.trainer, self.supervision, self.source)).replace(" ", "_")


CELLS = [
    Cell(*values)
    for values in (
        *product(GEOMETRIES, TARGETS, TRAINERS, SUPERVISION, SOURCES),
        *product(GEOMETRIES, TARGETS, ["nnUNetTrainerBiCC"], ["deep supervision"], ["patch"]),
    )
]


def table() -> str:
    """The matrix in Markdown: how many cells of each geometry and target are tested."""
    rows = ["|  | " + " | ".join(TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    for geometry in GEOMETRIES:
        counts = [sum((cell.geometry, cell.target) == (geometry, target) for cell in CELLS) for target in TARGETS]
        rows.append(f"| {geometry} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(rows)


# --- datasets -----------------------------------------------------------------------------------------------


def _three_classes(ids: np.ndarray) -> np.ndarray:
    return np.where(ids > 0, 1 + ids % 3, 0)


def _nested(ids: np.ndarray) -> np.ndarray:
    """Every object with a core where it is thick enough."""
    return (ids > 0).astype(int) + ndimage.binary_erosion(ids > 0, np.ones((1, 3, 3)))


def _scribbled(labels: np.ndarray, ignore: int) -> np.ndarray:
    labels = labels.copy()
    labels[:, :6] = ignore
    return labels


def combined_trainer(name: str) -> type:
    """A class of this package, or of the folder of combined ones."""
    from nnunet_instance_trainers import trainers

    if hasattr(trainers, name):
        return getattr(trainers, name)
    spec = importlib.util.spec_from_file_location("combined", COMBINED / "combined.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@dataclass(frozen=True)
class Corners:
    """The datasets of the matrix in nnU-Net's folders, with plans by dataset and source of ids."""

    folders: Folders
    plans: dict[tuple[str, str], dict]

    @property
    def environment(self) -> dict[str, str]:
        from nnunet_instance_trainers import discovery

        external = os.pathsep.join((str(Path(discovery.__file__).parent), str(COMBINED)))
        return {**self.folders.environment, "nnUNet_extTrainer": external}

    def trainer(self, cell: Cell):
        name = cell.trainer + SUPERVISION[cell.supervision]
        plans = self.plans[TARGETS[cell.target], cell.source]
        return make_trainer(combined_trainer(name), self.folders, plans, GEOMETRIES[cell.geometry])

    def model(self, dataset: str, trainer: str, source: str, configuration_name: str) -> Path:
        return self.folders.results / dataset / f"{trainer}__{source}__{configuration_name}"


def configurations(source: str, **settings) -> dict:
    """The configurations of the matrix, with settings that make a training of seconds."""
    own = {"instance_training": {"source": source, "seed": 0, **settings}}
    cube, half = [16, 16, 16], [8, 8, 8]
    flat = configuration("3d_fullres", [4, 16, 16], [1.0, 1.0, 1.0], **own)
    network = flat["architecture"]["arch_kwargs"]
    network["strides"], network["kernel_sizes"] = [[1, 1, 1], [1, 2, 2], [1, 2, 2]], [[1, 3, 3]] * 3
    return {
        "2d": configuration("2d", [16, 16], [1.0, 1.0], **own),
        "3d_fullres": configuration("3d_fullres", cube, [1.0, 1.0, 1.0], **own),
        "3d_lowres": configuration("3d_lowres", half, [2.0, 2.0, 2.0], next_stage="3d_cascade_fullres", **own),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        "3d_flat": flat,
    }


def make_corners(root: Path) -> Corners:
    """Make, preprocess and map the five datasets; a plans file for each source of ids.

    nnU-Net's variables must name the folders below ``root`` already.
    """
    from nnunet_instance_trainers.data.precompute import precompute

    folders = Folders(root)
    folders.results.mkdir(parents=True)
    describe = {"n_cases": 3, "shape": (18, 26, 24)}
    background, regions = {"background": 0}, {"whole": [1, 2], "core": [2]}
    order = {"regions_class_order": [1, 2]}
    binary, classes, nested, ignore, both = TARGETS.values()
    boxes_dataset(folders, binary, {**background, "box": 1}, lambda ids: ids > 0, **describe)
    three = {**background, "one": 1, "two": 2, "three": 3}
    boxes_dataset(folders, classes, three, _three_classes, **describe)
    boxes_dataset(folders, nested, {**background, **regions}, _nested, **order, **describe)
    scribbles = {**background, "box": 1, "ignore": 2}
    boxes_dataset(folders, ignore, scribbles, lambda ids: _scribbled((ids > 0).astype(int), 2), **describe)
    labels = {**background, **regions, "ignore": 3}
    boxes_dataset(folders, both, labels, lambda ids: _scribbled(_nested(ids), 3), **order, **describe)
    plans = {}
    for dataset in TARGETS.values():
        for source in SOURCES:
            plans[dataset, source] = write_plans(folders, dataset, configurations(source), plans_name=source)
        for name in ("2d", "3d_fullres", "3d_lowres"):
            preprocess(folders, plans[dataset, "patch"], name)
        precompute(dataset, ["2d", "3d_fullres", "3d_lowres"], "precomputed", 1)
    return Corners(folders, plans)
