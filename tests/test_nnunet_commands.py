"""nnU-Net's own commands find, train and use the trainers."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from shell import run

pytestmark = pytest.mark.nnunet

BOXES, REGIONS = "Dataset901_Boxes", "Dataset903_Regions"

FIND = """
import pickle, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
trainer = recursive_find_trainer_class_by_name("nnUNetTrainerBlob")
assert pickle.loads(pickle.dumps(trainer)) is trainer
import multiprocessing
print("found in", trainer.__module__)
"""


def test_the_variable_makes_nnunet_find_the_installed_class():
    folder = run(["nnunet-instance", "path"]).stdout.strip()
    found = run([sys.executable, "-c", FIND], nnUNet_extTrainer=folder).stdout
    assert "found in nnunet_instance_trainers.trainers.blob" in found


def test_the_link_does_too_and_goes_away_again():
    from nnunet_instance_trainers.linking import link_file

    if link_file().exists():
        pytest.skip("a link is installed in this environment")
    try:
        run(["nnunet-instance", "link"])
        assert "found in nnunet_instance_trainers.trainers.blob" in run([sys.executable, "-c", FIND]).stdout
    finally:
        run(["nnunet-instance", "unlink"])
    assert not link_file().exists()
    assert "Could not find requested nnunet trainer" in run([sys.executable, "-c", FIND], expect=1).stderr


def shorten(folders, plans, dataset, configuration, **settings):
    """Write plans whose trainings take seconds."""
    tiny = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, **settings}
    plans[dataset]["configurations"][configuration]["instance_training"] = tiny
    (folders.preprocessed / dataset / "nnUNetPlans.json").write_text(json.dumps(plans[dataset]))


@pytest.mark.parametrize(
    "trainer, dataset, configuration",
    [
        ("nnUNetTrainerBlob", BOXES, "2d"),
        ("nnUNetTrainerInstance", BOXES, "3d_fullres"),
        ("nnUNetTrainerICI", REGIONS, "3d_fullres"),
    ],
)
def test_two_epochs_and_a_prediction_through_the_real_commands(boxes, trainer, dataset, configuration):
    """Plain nnUNetv2_train and nnUNetv2_predict, with the variable set, from maps made by precompute."""
    folders, plans = boxes
    shorten(folders, plans, dataset, configuration)
    number = dataset[7:10]
    train = ["nnUNetv2_train", number, configuration, "0", "-tr", trainer, "-device", "cpu", "--npz"]
    found = {"nnUNet_extTrainer": run(["nnunet-instance", "path"]).stdout.strip()}
    run(["nnunet-instance", "precompute", "-d", number, "-c", configuration, "-np", "2"], folders)
    run(train, folders, **found)
    model = folders.results / dataset / f"{trainer}__nnUNetPlans__{configuration}"
    results = model / "fold_0"
    assert (results / "checkpoint_final.pth").is_file() and (results / "validation" / "summary.json").is_file()
    assert (results / "validation" / "case_3.npz").is_file()
    assert json.loads((results / "instance_training.json").read_text()) == {"source": "precomputed"}
    images = folders.root / "images"
    images.mkdir()
    shutil.copy(folders.raw / dataset / "imagesTr" / "case_0_0000.nii.gz", images)
    of_folder = ["nnUNetv2_predict_from_modelfolder", "-m", model]
    of_name = ["nnUNetv2_predict", "-d", number, "-c", configuration, "-tr", trainer]
    predict = of_folder if configuration == "2d" else of_name
    files = ["-i", images, "-o", folders.root / "predicted", "-f", "0"]
    run([*predict, *files, "-device", "cpu", "-npp", "1", "-nps", "1"], folders, **found)
    assert (folders.root / "predicted" / "case_0.nii.gz").is_file()


def test_a_cascade_through_the_real_commands(_corners, tmp_path):
    """The first stage in fold 'all', so that its validation predicts every case for the second."""
    from nnunet_datasets import Folders

    folders, dataset, trainer = Folders(tmp_path / "nnunet"), "Dataset911_Binary", "nnUNetTrainerBlob"
    shutil.copytree(_corners.folders.raw, folders.raw)
    shutil.copytree(_corners.folders.preprocessed / dataset, folders.preprocessed / dataset)
    plans = {dataset: {**json.loads(json.dumps(_corners.plans[dataset, "patch"])), "plans_name": "nnUNetPlans"}}
    for configuration in ("3d_lowres", "3d_fullres"):
        shorten(folders, plans, dataset, configuration, num_epochs=1, source="patch")
    found = {"nnUNet_extTrainer": run(["nnunet-instance", "path"]).stdout.strip()}
    train = ["nnUNetv2_train", "911", "-tr", trainer, "-device", "cpu"]
    early = run([*train[:2], "3d_cascade_fullres", "0", *train[2:]], folders, expect=1, **found)
    assert early.stderr.strip().splitlines()[-1].startswith("nnunet-instance: error: case 'case_0': no prediction of")
    run([*train[:2], "3d_lowres", "all", *train[2:]], folders, **found)
    run([*train[:2], "3d_cascade_fullres", "0", *train[2:]], folders, **found)
    images = folders.root / "images"
    images.mkdir()
    shutil.copy(folders.raw / dataset / "imagesTr" / "case_0_0000.nii.gz", images)
    predict = ["nnUNetv2_predict", "-i", images, "-d", "911", "-tr", trainer, "-device", "cpu"]
    first, second = folders.root / "first", folders.root / "second"
    run([*predict, "-c", "3d_lowres", "-f", "all", "-o", first, "-npp", "1", "-nps", "1"], folders, **found)
    stage = ["-c", "3d_cascade_fullres", "-f", "0", "-prev_stage_predictions", first]
    run([*predict, *stage, "-o", second, "-npp", "1", "-nps", "1"], folders, **found)
    assert (second / "case_0.nii.gz").is_file()


def test_plain_nnunet_stops_with_our_one_line(boxes):
    folder = run(["nnunet-instance", "path"]).stdout.strip()
    train = ["nnUNetv2_train", "901", "3d_fullres", "0", "-tr", "nnUNetTrainerBlob", "-device", "cpu"]
    stopped = run(train, boxes[0], expect=1, nnUNet_extTrainer=folder)  # instancesTr, but nothing precomputed
    assert stopped.stderr.strip().splitlines()[-1].startswith("nnunet-instance: error: dataset 'Dataset901_Boxes'")
    assert "Traceback" not in stopped.stderr


def test_a_dataset_that_is_not_preprocessed_is_one_line(boxes):
    result = run(["nnunet-instance", "train", "123", "3d_fullres", "0", "-tr", "nnUNetTrainerBlob"], boxes[0], expect=1)
    assert result.stderr.strip().splitlines() == [
        f"nnunet-instance: error: there is no dataset 123 in {boxes[0].preprocessed}: "
        "run 'nnUNetv2_plan_and_preprocess -d 123', or give the full name"
    ]
