"""nnU-Net's own commands find, train and use the trainers."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from shell import run

pytestmark = pytest.mark.nnunet

BOXES, REGIONS = "Dataset901_Boxes", "Dataset903_Regions"

FIND = """
import pickle, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
trainer = recursive_find_trainer_class_by_name("nnUNetTrainerBlob")
assert pickle.loads(pickle.dumps(trainer)) is trainer
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


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_second_external_folder_lies_beside_ours(tmp_path, monkeypatch, ours_first):
    """Its trainers may build on ours, and one of another version's discovery folder is the installed class too."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

    from nnunet_instance_trainers.linking import discovery_folder
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "mine.py").write_text(
        "from nnunet_instance_trainers.trainers import nnUNetTrainerBlob\n"
        "class nnUNetTrainerMine(nnUNetTrainerBlob): ...\n"
    )
    shutil.copytree(discovery_folder(), tmp_path / "older")
    folders = [str(tmp_path / "theirs"), str(tmp_path / "older")]
    folders.insert(0 if ours_first else 2, str(discovery_folder()))
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(folders))
    for _ in range(2):
        assert find("nnUNetTrainerBlob") is nnUNetTrainerBlob
        assert issubclass(find("nnUNetTrainerMine"), nnUNetTrainerBlob)


def test_train_adds_our_folder_to_the_users_own(tmp_path, monkeypatch):
    from nnunetv2.run import run_training
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

    from nnunet_instance_trainers.cli import main
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    (tmp_path / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerMine(nnUNetTrainer): ...\n"
    )
    found = []
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(
        run_training, "run_training_entry", lambda: found.extend(map(find, ("nnUNetTrainerMine", "nnUNetTrainerBlob")))
    )
    main(["train"])
    assert (found[0].__name__, found[1]) == ("nnUNetTrainerMine", nnUNetTrainerBlob)


def test_no_name_of_ours_is_one_of_nnunets():
    """nnU-Net takes the first class of a name, its own before others, and imports discovery/ as top-level modules."""
    import nnunetv2

    from nnunet_instance_trainers import trainers
    from nnunet_instance_trainers.linking import discovery_folder, link_file

    files = [path for path in Path(nnunetv2.__path__[0]).rglob("*.py") if path != link_file()]
    trees = [ast.parse(path.read_text()) for path in files]
    classes = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert {"nnUNetTrainer", "nnUNetTrainerDA5", "nnUNetTrainer_5epochs"} <= classes
    package = Path(trainers.__file__).parents[1]
    rooms = [path for room in ("trainers", "training") for path in (package / room).glob("*.py")]
    ours = {node.name for path in rooms for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef)}  # fmt: skip
    assert set(trainers.__all__) < ours and not ours & classes
    modules = {path.stem for path in discovery_folder().glob("*.py")} - {"__init__"}
    assert modules and not modules & {path.stem for path in files} and not modules & sys.stdlib_module_names
    for module in modules:
        assert importlib.util.find_spec(module) is None and module.startswith("nnunet_instance_trainers")


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
        ("nnUNetTrainerBiCC", REGIONS, "2d"),
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


@pytest.mark.parametrize("status", [1, 3])
def test_of_several_processes_one_that_ends_with_its_line_leaves_no_traceback(monkeypatch, status):
    """nnU-Net starts them by torch's spawn, which raises where one has ended; other ways to end stay as they are."""
    from nnunetv2.run import run_training
    from torch.multiprocessing import ProcessExitedException, start_processes

    from nnunet_instance_trainers.cli import main

    def entry():
        start_processes(lambda rank: sys.exit(status), nprocs=2, start_method="fork")

    monkeypatch.setenv("nnUNet_extTrainer", "")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(run_training, "run_training_entry", entry)
    with pytest.raises(SystemExit if status == 1 else ProcessExitedException) as stop:
        main(["train"])
    assert status != 1 or stop.value.code == 1
