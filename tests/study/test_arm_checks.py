"""Arms held against nnU-Net's trainers, their settings and the data, before anything starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.study.study_file import Arm, Study

pytestmark = pytest.mark.nnunet

PLANS = {
    "plans_name": "nnUNetPlans",
    "configurations": {"2d": {"patch_size": [32, 32], "architecture": {}, "batch_dice": False}},
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    from nnunet_instance_trainers.linking import discovery_folder

    monkeypatch.setenv("nnUNet_extTrainer", str(discovery_folder()))
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / "Dataset001_X").mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    dataset = {"labels": {"background": 0, "box": 1}, "file_ending": ".png"}
    (tmp_path / "raw" / "Dataset001_X" / "dataset.json").write_text(json.dumps(dataset))
    (tmp_path / "preprocessed" / "Dataset001_X" / "splits_final.json").write_text("[{}, {}]")
    return Study(
        file=tmp_path / "study.yaml",
        dataset="Dataset001_X",
        configuration="2d",
        seeds=(0,),
        arms=(Arm("Stock", "nnUNetTrainer"), Arm("Blob", "nnUNetTrainerBlob", {"scale": "unit"})),
        reference="Stock",
        folds=(0, 1),
        output=tmp_path / "study",
    )


def test_it_says_whose_seeds_are_seeds(study: Study) -> None:
    from nnunet_instance_trainers.study.arm_checks import check_arms

    assert check_arms(study, PLANS) == check_arms(study, None) == {"Stock": False, "Blob": True}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"arms": (Arm("A", "nnUNetTrainerNone"),)}, "arm 'A' of .*: nnU-Net finds no trainer 'nnUNetTrainerNone'"),
        ({"arms": (Arm("A", "../x"),)}, "arm 'A' of .*: '../x' is no name of a trainer"),
        ({"arms": (Arm("A", "nnUNetTrainer", {"num_epochs": 3}),)}, "takes no settings, and it has 'num_epochs'"),
        ({"arms": (Arm("A", "nnUNetTrainerBlob", {"wieghts": {}}),)}, "unknown setting 'wieghts' in arm 'A'"),
        ({"arms": (Arm("A", "nnUNetTrainerBlob", {"scale": "x"}),)}, "setting 'scale' in arm 'A'"),
        ({"arms": (Arm("A", "nnUNetTrainerICI", {"center_width": [3, 3, 3]}),)}, "'center_width' in arm 'A'"),
        ({"arms": (Arm("A", "nnUNetTrainerBlob", {"classes": ["lesion"]}),)}, "setting 'classes' names 'lesion'"),
        ({"configuration": "3d_fullres"}, "plans 'nnUNetPlans' have no configuration '3d_fullres': there are 2d"),
        ({"folds": (0, 2)}, "'folds' of .* names fold 2: .* has 2, 0 to 1"),
    ],
)
def test_what_does_not_fit_is_one_line(study: Study, changes: dict, message: str) -> None:
    from nnunet_instance_trainers.study.arm_checks import check_arms

    with pytest.raises(UserError, match=message) as caught:
        check_arms(replace(study, **changes), PLANS)
    assert len(str(caught.value).splitlines()) == 1
