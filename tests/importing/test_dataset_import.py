"""Every form of labels comes out as a dataset with the same objects, which nnU-Net and this package take."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from foreign_labels import FORMS, all_objects, itksnap, save_volume, voxels
from shell import run

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.importing.images import reader_of

pytestmark = pytest.mark.nnunet

CLASSES = {"COCO": ["even", "odd"], "QuPath": ["Stroma", "Tumor"]}


def bring_in(root: Path, form: str, *more: object, name: str = "Dataset701_Brought") -> tuple[Path, dict]:
    shape, write = FORMS[form]
    cases = all_objects(shape)
    images, *labels = write(root / "foreign", cases)
    words = ["import", "-i", images, *(["-l", *labels] if labels else []), "-o", root / name, "-np", 1, *more]
    cli.main([str(word) for word in words])
    return root / name, cases


def ids_of(dataset: Path, case: str, folder: str = "instancesTr") -> np.ndarray:
    (path,) = (dataset / folder).glob(f"*{case}.[!j]*")
    return reader_of(path).read_seg(str(path))[0][0].astype(int)


def stopped(*words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


@pytest.mark.parametrize("form", FORMS)
def test_objects_are_the_same_afterwards(form: str, tmp_path: Path) -> None:
    dataset, cases = bring_in(tmp_path, form)
    content = json.loads((dataset / "dataset.json").read_text())
    names = CLASSES.get(form, ["object"])
    assert content["labels"] == {"background": 0, **{name: n for n, name in enumerate(names, start=1)}}
    for case, truth in cases.items():
        ids = ids_of(dataset, case)
        assert voxels(ids) == voxels(truth), case
        label = ids_of(dataset, case, "labelsTr").reshape(truth.shape)
        expected = np.where(truth > 0, 2 - truth % 2 if form == "QuPath" else 1, 0)
        expected = np.where(truth > 0, 1 + truth % 2, 0) if form in CLASSES else expected
        assert (label == expected).all(), case
        if form not in ("Masks", "COCO", "QuPath"):
            assert (ids.reshape(truth.shape) == truth).all(), "ids of maps are kept"
    with open(dataset / "import.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["objects"]) for row in rows] == [len(voxels(truth)) for truth in cases.values()]


def test_parts_folds_and_options(tmp_path: Path) -> None:
    dataset, cases = bring_in(tmp_path, "ITKSNAP", "--patient", "^(p.)_", "--test", "p2_*", "--channels", "CT")
    content = json.loads((dataset / "dataset.json").read_text())
    assert (content["channel_names"], content["numTraining"]) == ({"0": "CT"}, 3)
    assert sorted(path.name for path in (dataset / "labelsTs").iterdir()) == ["p2_a.nii.gz"]
    assert voxels(ids_of(dataset, "p2_a", "instancesTs")) == voxels(cases["p2_a"])
    folds = json.loads((dataset / "splits_final.json").read_text())
    assert sorted(fold["val"] for fold in folds) == [["p1_a", "p1_b"], ["p3_a"]]


def test_a_source_for_each_class_in_two_processes(tmp_path: Path) -> None:
    cases = all_objects(FORMS["ITKSNAP"][0])
    images, _ = itksnap(tmp_path, cases)
    for case, ids in cases.items():
        for name, own in (("odd", ids % 2 == 1), ("even", ids % 2 == 0)):
            save_volume(np.where(own, ids, 0).astype(np.uint16), tmp_path / name / f"{case}.nii.gz")
    places = [f"metastasis={tmp_path / 'odd'}", f"cyst={tmp_path / 'even'}"]
    words = [
        "-i",
        images,
        "-l",
        *places,
        "-o",
        tmp_path / "Dataset702_Two",
        "--classes",
        "cyst",
        "metastasis",
        "-np",
        2,
    ]
    cli.main(["import", *map(str, words)])
    dataset = tmp_path / "Dataset702_Two"
    assert json.loads((dataset / "dataset.json").read_text())["labels"] == {"background": 0, "cyst": 1, "metastasis": 2}
    for case, truth in cases.items():
        assert (ids_of(dataset, case, "labelsTr") == np.where(truth > 0, 1 + truth % 2, 0)).all()
        assert voxels(ids_of(dataset, case)) == voxels(truth)
    (tmp_path / "odd" / "p1_a.nii.gz").unlink()
    says = stopped("import", "-i", images, "-l", *places, "-o", tmp_path / "Dataset703_X")
    assert "p1_a.nii.gz has no map in" in says


def test_dry_run_is_a_table_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cases = all_objects(FORMS["ITKSNAP"][0])
    cases["p1_b"] = np.zeros_like(cases["p1_b"])
    cases["p2_a"][8, 15, 15:20:2] = 255
    images, maps = itksnap(tmp_path, cases)
    before = sorted(tmp_path.rglob("*"))
    cli.main(["import", "-i", str(images), "-l", str(maps), "--dry-run", "-np", "1"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("p")}
    assert rows["p1_b"].endswith("no objects") and rows["p2_a"].endswith("may have wrapped")
    n = len(voxels(cases["p2_a"]))
    assert rows["p2_a"].split()[1:12] == ["Tr", "24", "x", "20", "x", "12", "1", str(n), "1", "3", "0"]
    save_volume(np.zeros((3, 4, 5), np.uint8), maps / "p3_a.nii.gz")
    words = ["import", "-i", images, "-l", maps, "-np", 1]
    assert "1 of 4 cases cannot be imported" in stopped(*words, "--dry-run")
    assert "p3_a.nii.gz differs from its image in size: 5 x 4 x 3 against 24 x 20 x 12" in capsys.readouterr().out
    assert "differs from its image in size" in stopped(*words, "-o", tmp_path / "Dataset703_X")
    assert sorted(tmp_path.rglob("*")) == before


def test_pieces_and_slivers_can_be_mended(tmp_path: Path) -> None:
    cases = all_objects(FORMS["ITKSNAP"][0])
    cases["p2_a"][8, 15, 15:20:2] = 200
    cases["p2_a"][8, 15, 16] = 200
    images, maps = itksnap(tmp_path, cases)
    words = ["-i", images, "-l", maps, "-o", tmp_path / "Dataset703_X", "--split-pieces", "--minimum-voxels", 2]
    cli.main(["import", *map(str, words), "-np", "1"])
    truth = cases["p2_a"].copy()
    truth[8, 15, 19] = 0
    assert (ids_of(tmp_path / "Dataset703_X", "p2_a") == truth).all()


# a minute each: one of them stands for the others where time counts
IN_NNUNET = [pytest.param(form, marks=[] if form == "COCO" else pytest.mark.heavy) for form in FORMS]


@pytest.mark.parametrize("form", IN_NNUNET)
def test_nnunet_takes_what_was_brought_in(form: str, tmp_path: Path) -> None:
    """Verified, planned, preprocessed, maps made: the manifest counts the objects that were drawn."""
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        Path(folder).mkdir()
    dataset, cases = bring_in(tmp_path, form, name="Dataset123_Brought")
    dataset.rename(tmp_path / "raw" / dataset.name)
    is_flat = len(FORMS[form][0]) == 2
    configuration = "2d" if is_flat else "3d_fullres"
    plan = ["nnUNetv2_plan_and_preprocess", "-d", 123, "--verify_dataset_integrity", "-c", configuration]
    said = run([*plan, "-np", 1, "-npfp", 1], **folders).stdout
    assert "verify_dataset_integrity Done" in said and "Warning" not in said
    run(["nnunet-instance", "precompute", "-d", 123, "-np", 1], **folders)
    maps = tmp_path / "preprocessed" / dataset.name / f"nnUNetPlans_{configuration}_instances"
    content = json.loads((maps / "manifest.json").read_text())
    assert content["origin"] == "instancesTr"
    found = {case.removeprefix("train_"): (r["found"], r["lost"]) for case, r in content["cases"].items()}
    assert found == {case: (len(voxels(truth)), 0) for case, truth in cases.items()}
