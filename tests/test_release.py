"""A released model predicts what the original predicts, where this package is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.errors import UserError

pytestmark = pytest.mark.nnunet

CLASSES, REGIONS = "Dataset902_Classes", "Dataset903_Regions"
STOCK = "nnUNetTrainer__nnUNetPlans__3d_fullres"

PREDICT = """
import importlib.util, multiprocessing, sys
if __name__ == "__main__":
    assert importlib.util.find_spec("nnunet_instance_trainers") is None
    from nnunetv2.inference import predict_from_raw_data as nnunet
    multiprocessing.cpu_count = lambda: 1  # as many threads, which wait for each other on a busy machine
    images, model, by_folder, by_name = sys.argv[1:]
    both = ["", "-i", images, "-f", "0", "1", "-device", "cpu"]
    sys.argv = [*both, "-o", by_folder, "-m", model, "-npp", "1", "-nps", "1"]
    nnunet.predict_entry_point_modelfolder()
    sys.argv = [*both, "-o", by_name, "-d", "902", "-c", "3d_fullres", "-npp", "0", "-nps", "0"]
    nnunet.predict_entry_point()
    assert not any(name.startswith("nnunet_instance_trainers") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def trained(_boxes, tmp_path_factory):
    """nnU-Net's folders with models that were trained for no or one iteration."""
    from nnunet_datasets import Folders, make_trainer

    from nnunet_instance_trainers.linking import VARIABLE, discovery_folder
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob, nnUNetTrainerInstance

    folders = Folders(tmp_path_factory.mktemp("trained") / "nnunet")
    shutil.copytree(_boxes[0].root, folders.root)
    plans = json.loads(json.dumps(_boxes[1]))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**folders.environment, VARIABLE: str(discovery_folder())}.items():
            patch.setenv(name, value)
        own = plans[CLASSES]["configurations"]
        own["3d_lowres"] = {"inherits_from": "3d_fullres", "next_stage": "3d_cascade_fullres"}
        own["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
        own["3d_fullres"]["instance_training"] = {"source": "patch", "num_epochs": 1, "num_iterations_per_epoch": 1}
        own["3d_fullres"]["instance_training"]["num_val_iterations_per_epoch"] = 1
        make_trainer(nnUNetTrainerBlob, folders, plans[CLASSES], "3d_fullres").run_training()
        for trainer, dataset, configuration, fold in (
            (nnUNetTrainerBlob, CLASSES, "3d_fullres", 1),
            (nnUNetTrainerBlob, CLASSES, "3d_lowres", 0),
            (nnUNetTrainerBlob, CLASSES, "3d_cascade_fullres", 0),
            (nnUNetTrainerInstance, REGIONS, "2d", "all"),
        ):
            model = make_trainer(trainer, folders, plans[dataset], configuration)
            model.initialize()
            base, place = Path(model.output_folder_base), Path(model.output_folder_base) / f"fold_{fold}"
            place.mkdir(exist_ok=True)
            (base / "plans.json").write_text(json.dumps(plans[dataset]))
            for file in ("dataset.json", "dataset_fingerprint.json"):
                shutil.copy(folders.preprocessed / dataset / file, base)
            model.save_checkpoint(str(place / "checkpoint_final.pth"))
        fold = folders.results / CLASSES / "nnUNetTrainerBlob__nnUNetPlans__3d_fullres" / "fold_0"
        shutil.copy(fold / "checkpoint_final.pth", fold / "checkpoint_best.pth")
        (fold / "validation").mkdir()
        case = {"prediction_file": "/home/somebody/Mrs_Smith.nii.gz"}
        named = {"Mrs_Smith": {"images": ["/home/somebody/Mrs_Smith.nii.gz"], "label": "/home/somebody/label.nii.gz"}}
        describes = json.loads((fold.parent / "dataset.json").read_text())
        (fold.parent / "dataset.json").write_text(json.dumps({**describes, "dataset": named, "training": [case]}))
        summary = {"foreground_mean": {"Dice": 0.5}, "mean": {}, "metric_per_case": [case]}
        (fold / "validation" / "summary.json").write_text(json.dumps(summary))
        estimate = fold.parent / "crossval_results_folds_0"
        estimate.mkdir()
        for name in ("summary.json", "postprocessing.json"):
            (estimate / name).write_text(json.dumps(summary))
        (estimate / "postprocessing.pkl").write_bytes(b"nnU-Net's")
        images = folders.root / "images"
        images.mkdir()
        shutil.copy(folders.raw / CLASSES / "imagesTr" / "case_0_0000.nii.gz", images)
        yield folders


@pytest.fixture
def model(trained):
    from nnunet_instance_trainers.release import TrainedModel

    return TrainedModel(trained.results, CLASSES, "3d_fullres", "nnUNetPlans", "nnUNetTrainerBlob", (0, 1))


def checkpoint(model_folder: Path, fold=0, **options) -> dict:
    return torch.load(model_folder / f"fold_{fold}" / "checkpoint_final.pth", **options)


def labels(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.nii.gz"))
    return {file.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_this_package(folder: Path) -> tuple[Path, dict[str, str]]:
    """An interpreter, and its environment, that has all packages of this one but ours."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    packages = folder / "packages"
    packages.mkdir()
    for site in (Path(path) for path in sys.path if path.endswith("site-packages")):
        for entry in site.iterdir():
            if "nnunet_instance_trainers" not in entry.name and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    return folder / "venv" / "bin" / "python", {**environment, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}


def predict(model, images: Path, output: Path) -> dict[str, np.ndarray]:
    """What nnU-Net predicts with a model and the trainer that it was trained with."""
    from nnunet_instance_trainers.release.same_predictions import load

    output.mkdir()
    predictor = load(model, model.folds)
    assert predictor.trainer_name == model.trainer
    cases = [[str(file)] for file in sorted(images.iterdir())]
    predictor.predict_from_files_sequential(cases, str(output))
    return labels(output)


# --- what it is for -------------------------------------------------------------------------------------------


def test_plain_nnunet_predicts_the_same_without_this_package(trained, model, tmp_path):
    from nnunet_instance_trainers.release import release

    images, output = trained.root / "images", tmp_path / "released"
    (folder,) = release(model, output, images=images)
    assert folder == output / CLASSES / STOCK
    python, environment = without_this_package(tmp_path)
    (tmp_path / "predict.py").write_text(PREDICT)
    places = tmp_path / "by_folder", tmp_path / "by_name"
    done = subprocess.run(
        [python, "predict.py", images, folder, *places],
        env={**environment, "nnUNet_results": str(output)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    expected = predict(model, images, tmp_path / "expected")
    assert len(expected) == 1 and all(len(np.unique(image)) > 1 for image in expected.values())
    for place in places:
        predicted = labels(place)
        assert predicted.keys() == expected.keys()
        assert all(np.array_equal(predicted[name], expected[name]) for name in expected)


def test_a_checkpoint_holds_what_prediction_needs_and_no_code(model, tmp_path):
    from nnunet_instance_trainers.release import release

    (folder,) = release(model, tmp_path / "out")
    for fold in (0, 1):
        original = checkpoint(model.folder, fold, weights_only=False)
        released = checkpoint(folder, fold, weights_only=True)
        assert released["trainer_name"] == "nnUNetTrainer" and original["trainer_name"] == "nnUNetTrainerBlob"
        assert released["network_weights"].keys() == original["network_weights"].keys()
        for name, weights in original["network_weights"].items():
            assert torch.equal(released["network_weights"][name], weights)
        axes = [one["inference_allowed_mirroring_axes"] for one in (released, original)]
        assert axes[0] == axes[1] == ((0, 1, 2) if fold == 0 else None)  # fold 1 never began
        assert released["init_args"]["configuration"] == "3d_fullres" and released["init_args"]["fold"] == fold
        assert not released.keys() & {"optimizer_state", "logging"}
        assert released["released_from"]["trainer"] == "nnUNetTrainerBlob"
    sizes = [(place / "fold_0" / "checkpoint_final.pth").stat().st_size for place in (folder, model.folder)]
    assert sizes[0] < 0.8 * sizes[1]


def test_the_folder_has_what_nnunets_export_takes_and_names_no_case(trained, model, tmp_path, monkeypatch):
    from nnunetv2.model_sharing.model_export import export_pretrained_model
    from nnunetv2.model_sharing.model_import import install_model_from_zip_file

    from nnunet_instance_trainers.release import release

    one = replace(model, folds=(0,))
    (folder,) = release(one, tmp_path / "out")
    files = everything(folder)
    assert set(files) == {
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "released_from.json",
        "fold_0/checkpoint_final.pth",
        "fold_0/progress.png",
        "fold_0/validation/summary.json",
        "crossval_results_folds_0/summary.json",
        "crossval_results_folds_0/postprocessing.pkl",
    }
    origin = json.loads(files["released_from.json"])
    assert (origin["trainer"], origin["checkpoint"], origin["folds"]) == (model.trainer, "checkpoint_final.pth", [0])
    assert files["fold_0/validation/summary.json"] == files["crossval_results_folds_0/summary.json"]
    assert json.loads(files["fold_0/validation/summary.json"]) == {"foreground_mean": {"Dice": 0.5}, "mean": {}}
    assert not any(b"Smith" in content or b"somebody" in content for content in files.values())
    described = json.loads((trained.preprocessed / CLASSES / "dataset.json").read_text())
    assert json.loads(files["dataset.json"]) == checkpoint(folder)["init_args"]["dataset_json"] == described
    plans = json.loads(files["plans.json"])
    assert plans["configurations"]["3d_fullres"]["instance_training"]["source"] == "patch"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "out"))
    export_pretrained_model(CLASSES, str(tmp_path / "model.zip"), ("3d_fullres",), folds=(0,))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "installed"))
    install_model_from_zip_file(str(tmp_path / "model.zip"))
    installed = everything(tmp_path / "installed" / CLASSES / STOCK)
    assert installed == {name: content for name, content in files.items() if name != "released_from.json"}


def test_pretrained_weights_are_taken_from_it(model, tmp_path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    from nnunet_instance_trainers.release import release
    from nnunet_instance_trainers.release.same_predictions import load

    (folder,) = release(replace(model, folds=(1,)), tmp_path / "out")
    network = load(model, [0]).network
    load_pretrained_weights(network, str(folder / "fold_1" / "checkpoint_final.pth"))
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert torch.equal(network.state_dict()[name], checkpoint(folder, 1)["network_weights"][name])


def test_regions_in_2d_with_the_fold_all(trained, tmp_path, capsys, monkeypatch):
    """By the command; images of another dataset will do, they are only predicted."""
    flags = ["-d", "903", "-c", "2d", "-tr", "nnUNetTrainerInstance", "-f", "all", "-i", str(trained.root / "images")]
    cli.main(["release", *flags, "-o", str(tmp_path / "out")])
    folder = tmp_path / "out" / REGIONS / "nnUNetTrainer__nnUNetPlans__2d"
    assert checkpoint(folder, "all")["init_args"]["fold"] == "all"
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"-m {folder} -f all")


def test_of_a_cascade_both_stages_are_released(trained, model, tmp_path):
    from nnunet_instance_trainers.release import release

    cascade = replace(model, configuration="3d_cascade_fullres", folds=(0,))
    folders = release(cascade, tmp_path / "out", images=trained.root / "images")
    assert [folder.name.rpartition("__")[2] for folder in folders] == ["3d_lowres", "3d_cascade_fullres"]
    weights = checkpoint(folders[1])["network_weights"]["encoder.stages.0.0.convs.0.conv.weight"]
    assert weights.shape[1] == 3  # the image and two classes of the first stage


# --- what another run left, and what goes wrong ---------------------------------------------------------------


def test_another_checkpoint_replaces_an_earlier_release(model, tmp_path):
    from nnunet_instance_trainers.release import release

    output = tmp_path / "out"
    release(model, output)
    (output / ".unfinished_nnUNetTrainerBlob__nnUNetPlans__3d_fullres" / "killed").mkdir(parents=True)
    (folder,) = release(replace(model, folds=(0,), checkpoint="checkpoint_best.pth"), output)
    assert sorted(path.name for path in folder.glob("fold_*")) == ["fold_0"]
    assert [path.name for path in (folder / "fold_0").glob("*.pth")] == ["checkpoint_final.pth"]
    assert json.loads((folder / "released_from.json").read_text())["checkpoint"] == "checkpoint_best.pth"
    assert [path.name for path in output.iterdir()] == [CLASSES]


@pytest.mark.parametrize("where", ["noise", "image", "mirroring"])
def test_a_copy_that_predicts_otherwise_is_removed(trained, model, tmp_path, monkeypatch, where):
    from nnunet_instance_trainers.release import plain_copy, same_predictions

    save = torch.save

    def damaged(checkpoint, file):
        if where == "mirroring":
            checkpoint["inference_allowed_mirroring_axes"] = (0, 1)
        else:
            weights = {name: value.clone() for name, value in checkpoint["network_weights"].items()}
            weights["decoder.seg_layers.1.bias"] += torch.tensor([0.0, 10.0, 0.0])
            checkpoint["network_weights"] = weights
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", damaged)
    if where == "image":
        monkeypatch.setattr(plain_copy, "agree", lambda *_: True)
    images = trained.root / "images" if where == "image" else None
    says = "case 'case_0': the copy predicts otherwise" if where == "image" else "fold 0: the copy predicts otherwise"
    with pytest.raises(UserError, match=says):
        plain_copy.release(replace(model, folds=(0,)), tmp_path / "out", images=images)
    assert not (tmp_path / "out").exists()
    assert same_predictions.load(model, [0]).trainer_name == model.trainer


def test_a_file_that_is_not_ours_stays(model, tmp_path):
    from nnunet_instance_trainers.release import release

    place = tmp_path / "out" / CLASSES / STOCK
    place.mkdir(parents=True)
    (place / "plans.json").write_text("{}")
    before = everything(tmp_path)
    with pytest.raises(UserError, match="exists and was not made by 'release': give another folder"):
        release(model, tmp_path / "out")
    (place / "released_from.json").write_text('{"trainer": "nnUNetTrainerICI"}')
    with pytest.raises(UserError, match="is the release of nnUNetTrainerICI: give another folder"):
        release(model, tmp_path / "out")
    (place / "released_from.json").unlink()
    assert everything(tmp_path) == before


def test_an_earlier_release_stays_where_the_new_one_cannot_take_its_place(tmp_path):
    from nnunet_instance_trainers.release.plain_copy import _publish

    place = tmp_path / "model"
    place.mkdir()
    (place / "weights").write_text("earlier")
    with pytest.raises(OSError):
        _publish(tmp_path / "gone", place, tmp_path / "aside")
    assert (place / "weights").read_text() == "earlier"


def test_what_is_missing_is_named(trained, model, tmp_path):
    from nnunet_instance_trainers.release import release

    for changes, says in (
        ({"plans": "nnUNetPlansOther"}, "there is no trained model in .*Blob__nnUNetPlansOther__3d_fullres: check -d"),
        ({"folds": (0, 3)}, "there is no .*fold_3/checkpoint_final.pth: finish the training of fold 3"),
        ({"checkpoint": "checkpoint_other.pth"}, "there is no .*checkpoint_other.pth: .*or name another"),
        ({"trainer": "nnUNetTrainerNobodys"}, "nnU-Net finds no trainer 'nnUNetTrainerNobodys': check -tr"),
        ({"trainer": "nnUNetTrainerBN"}, "nnUNetTrainerBN builds a network of its own"),
    ):
        with pytest.raises(UserError, match=says):
            release(replace(model, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_models_and_unwritable_places_are_one_line(trained, model, tmp_path, monkeypatch):
    from nnunet_instance_trainers.release import release

    results = tmp_path / "results"
    copied = replace(model, results=results)
    shutil.copytree(model.folder, copied.folder)
    content = copied.file(1).read_bytes()
    copied.file(1).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="nnU-Net cannot load checkpoint_final.pth of fold 1 in .*: train again"):
        release(copied, tmp_path / "out")
    renamed = replace(copied, trainer="nnUNetTrainerICI", folds=(0,))
    copied.folder.rename(renamed.folder)
    with pytest.raises(UserError, match="was written by nnUNetTrainerBlob: give that with -tr"):
        release(renamed, tmp_path / "out")
    (renamed.folder / "plans.json").write_text("[]")
    with pytest.raises(UserError, match="plans.json is damaged, or no JSON .*put it back"):
        release(renamed, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file"):
        release(model, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images named CASE_0000.nii.gz"):
        release(model, tmp_path / "out", images=tmp_path / "empty")
    (tmp_path / "empty" / "case_0000.nii.gz").write_text("no image")
    with pytest.raises(UserError, match="case 'case': nnU-Net cannot predict it"):
        release(model, tmp_path / "out", images=tmp_path / "empty")
    assert not (tmp_path / "out").exists()

    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="cannot write to .*out .*write failed.: make room"):
        release(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_needs_results_and_a_plain_name(trained, monkeypatch, tmp_path):
    flags = ["release", "-d", "902", "-c", "3d_fullres", "-tr", "nnUNetTrainerBlob", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="-chk a/b.pth is a path"):
        cli.main([*flags, "-chk", "a/b.pth"])
    with pytest.raises(SystemExit, match="-i .*nowhere is no folder"):
        cli.main([*flags, "-i", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="there is no dataset 77 in .*: train it"):
        cli.main(["release", "-d", "77", *flags[3:]])
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(SystemExit, match="nnUNet_results is not set"):
        cli.main(flags)
