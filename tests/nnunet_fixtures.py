"""Pytest fixtures of datasets that nnU-Net preprocessed; made once per test session."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest


def _use(folders, monkeypatch) -> None:
    for name, value in folders.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def _boxes(tmp_path_factory):
    """Three synthetic datasets of touching 3D boxes: labels, regions, labels with ignored voxels."""
    from nnunet_datasets import Folders, boxes_dataset, configuration, preprocess, write_plans

    folders = Folders(tmp_path_factory.mktemp("boxes"))

    def scribbled(ids):
        label = (ids > 0).astype(np.uint8)
        label[:, :8] = 2
        return label

    def odd_and_even(ids):
        return np.where(ids > 0, 2 - ids % 2, 0)

    boxes_dataset(folders, "Dataset901_Boxes", {"background": 0, "box": 1}, lambda ids: ids > 0)
    boxes_dataset(folders, "Dataset902_Classes", {"background": 0, "odd": 1, "even": 2}, odd_and_even)
    boxes_dataset(
        folders,
        "Dataset903_Regions",
        {"background": 0, "whole": [1, 2], "core": [2]},
        odd_and_even,
        regions_class_order=[1, 2],
    )
    boxes_dataset(folders, "Dataset904_Ignore", {"background": 0, "box": 1, "ignore": 2}, scribbled)
    plans = {}
    for path in sorted(folders.raw.iterdir()):
        configurations = {
            "2d": configuration("2d", [32, 32], [1.0, 1.0]),
            "3d_fullres": configuration("3d_fullres", [24, 32, 32], [1.0, 1.0, 1.0]),
            # the first axis more than three times as short as the others: pseudo-2D augmentation
            "3d_flat": configuration(
                "3d_fullres", [8, 32, 32], [1.0, 1.0, 1.0], data_identifier="nnUNetPlans_3d_fullres"
            ),
        }
        plans[path.name] = write_plans(folders, path.name, configurations)
        for name in ("2d", "3d_fullres"):
            preprocess(folders, plans[path.name], name)
    return folders, plans


@pytest.fixture
def boxes(_boxes, tmp_path, monkeypatch):
    """A private copy of the synthetic datasets: ``folders, plans by dataset name``."""
    from nnunet_datasets import Folders

    folders, plans = _boxes
    own = Folders(tmp_path / "nnunet")
    shutil.copytree(folders.root, own.root)
    own.results.mkdir(exist_ok=True)
    _use(own, monkeypatch)
    return own, json.loads(json.dumps(plans))


@pytest.fixture(scope="session")
def _corners(tmp_path_factory):
    """The datasets of the feature matrix."""
    from feature_matrix import Corners, make_corners
    from nnunet_datasets import Folders

    root = tmp_path_factory.mktemp("corners")
    with pytest.MonkeyPatch.context() as patch:
        _use(Corners(Folders(root), {}), patch)
        return make_corners(root)


@pytest.fixture
def corners(_corners, monkeypatch):
    """The datasets of the feature matrix, not to be changed; the tests of a session share the results folder too."""
    _use(_corners, monkeypatch)
    return _corners


@pytest.fixture
def real(shared_data, tmp_path, monkeypatch):
    """``real(name, cases)``: folders with a copy of some training cases of a shared dataset."""
    from nnunet_datasets import Folders

    folders = Folders(tmp_path / "nnunet")
    folders.results.mkdir(parents=True)
    _use(folders, monkeypatch)

    def copy(name: str, cases: int):
        source = shared_data / name
        dataset = json.loads((source / "dataset.json").read_text())
        chosen = sorted(path.name.removesuffix(dataset["file_ending"]) for path in (source / "labelsTr").iterdir())[
            :cases
        ]
        for folder in ("imagesTr", "labelsTr", "instancesTr"):
            (folders.raw / name / folder).mkdir(parents=True)
            for case in chosen:
                for path in (source / folder).glob(f"{case}*"):
                    shutil.copyfile(path, folders.raw / name / folder / path.name)
        shutil.copyfile(source / "dataset.json", folders.raw / name / "dataset.json")
        return folders

    return copy
