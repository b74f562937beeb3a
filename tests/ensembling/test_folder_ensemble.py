from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from geometry import random_labels
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from skimage import io

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.ensembling.ensemble_plan import EnsemblePlan, Member
from nnunet_instance_trainers.ensembling.folder_ensemble import ensemble, format_members
from nnunet_instance_trainers.ensembling.functional import (
    ensemble_by_volume,
    hysteresis,
    keep_volume_range,
    majority_vote,
    merge_members,
    nest_regions,
)
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate
from nnunet_instance_trainers.instances import label_components

pytestmark = pytest.mark.nnunet

SHAPE, SPACING = (7, 12, 9), (5.0, 0.86, 0.86)  # as arrays have it, slices first
VOXEL_ML = 0.003698
EDGE_ML = 8 * VOXEL_ML
LABELS = {"background": 0, "lesion": 1, "organ": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
CASES = ("a", "b", "c")
RANGES = (0.0, EDGE_ML), (EDGE_ML, inf)
PLAN = EnsemblePlan({"*": [Member("A", *RANGES[0]), Member("B", *RANGES[1])]})
TURNED = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def image_of(model: str, case: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A label image of one model. Models agree in part, A sees all a little wider, B finds nothing in case c."""
    seed = CASES.index(case) + 10
    if (model, case) == ("B", "c"):
        return np.zeros(shape, dtype=np.uint8)
    common, own = (random_labels(shape, n, s, batch=1)[0].numpy() for n, s in ((6, seed), (2, seed + ord(model))))
    if model == "A":
        common = np.maximum(common, np.roll(common, 1, -1))
    image = np.where(own > 0, 1 + own % 2, np.where(common > 0, 1 + common % 2, 0)).astype(np.uint8)
    plane = image[-1] if len(shape) == 3 else image[-8:]
    image[-2 if len(shape) == 3 else -9], plane[:] = 0, 0
    if model == "A":
        plane[0, :3] = 1  # small, and claims a voxel of what is large in B
        plane[4:7, :4], plane[4, :3] = 1, 2  # too large for A's range, but its core is not
    elif model == "B":
        plane[:2, 2:8] = 2
    return image


def write(
    file: Path, image: np.ndarray, spacing: Sequence[float] = SPACING, direction: Sequence[float] = TURNED
) -> None:
    if file.suffix in (".png", ".bmp") or (file.suffix == ".tif" and image.ndim == 2):
        io.imsave(file, image.astype(np.uint8), check_contrast=False)
    elif file.suffix == ".tif":
        tifffile.imwrite(file, image.astype(np.uint8))
        file.with_suffix(".json").write_text(json.dumps({"spacing": list(spacing)}))
    else:
        volume = sitk.GetImageFromArray(image.astype(np.uint8))
        volume.SetSpacing(tuple(spacing)[::-1])
        volume.SetOrigin((10.5, -20.25, 3.0)[: image.ndim])
        if image.ndim == 3:
            volume.SetDirection(direction)
        sitk.WriteImage(volume, str(file))


class Folders:
    """Predictions of two models of one small dataset."""

    def __init__(
        self, root: Path, labels: dict = LABELS, ending: str = ".nii.gz", models: Sequence[str] = "AB", **more: object
    ) -> None:
        self.root, self.output, self.ending = root, root / "out", ending
        self.shape = (20, 30) if more.pop("flat", False) else SHAPE
        self.folders = {model: root / model for model in models}
        content = {"labels": labels, "file_ending": ending, "channel_names": {"0": "x"}, **more}
        for model, folder in self.folders.items():
            folder.mkdir()
            for case in CASES:
                write(folder / f"{case}{ending}", image_of(model, case, self.shape))
            (folder / "dataset.json").write_text(json.dumps(content))
            (folder / "plans.json").write_text(json.dumps({"plans_name": model}))

    def ensemble(self, plan: EnsemblePlan = PLAN, **options: object):
        return ensemble(plan, {model: [folder] for model, folder in self.folders.items()}, self.output, **options)

    def result(self, case: str, reader: type = SimpleITKIO, folder: Path | None = None) -> np.ndarray:
        return reader().read_seg(str((folder or self.output) / f"{case}{self.ending}"))[0][0].astype(int)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what comes out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rescue", [False, True])
def test_labels_are_merged_as_the_function_does(folders: Folders, rescue: bool) -> None:
    rows = folders.ensemble(EnsemblePlan(PLAN.members, rescue=rescue))
    assert [(row["case"], row["class"]) for row in rows] == [(c, name) for c in CASES for name in ("lesion", "organ")]
    for case in CASES:
        members = [(image_of(model, case), range_) for model, range_ in zip("AB", RANGES)]
        expected, by_member = ensemble_by_volume(members, SPACING, rescue=rescue)
        assert (folders.result(case) == expected).all()
        for label, name in ((1, "lesion"), (2, "organ")):
            (row,) = [row for row in rows if (row["case"], row["class"]) == (case, name)]
            own = by_member[label]
            assert row["objects"] == label_components(expected == label)[1]
            assert [row["from_A"], row["from_B"]] == [k + r for k, r in zip(own.kept, own.rescued)]
            assert (row["straddling"], row["rescued"], row["lost"]) == (own.straddling, sum(own.rescued), own.lost)
    assert sum(row["straddling"] for row in rows) > 0


def test_connectivity_reaches_every_step(folders: Folders) -> None:
    images = {(model, case): image_of(model, case) for case in CASES for model in "AB"}
    for case in CASES:
        for model, folder in folders.folders.items():
            images[model, case][-1, [9, 10, 11], [5, 6, 7]] = 2  # three voxels that meet at edges
            write(folder / f"{case}.nii.gz", images[model, case])
            np.savez(folder / f"{case}.npz", probabilities=probabilities(case, model))
    members, joined, least, differing = PLAN.members["*"], {"connectivity": 6}, 3 * VOXEL_ML, 0
    plan = EnsemblePlan(
        {"1": members, "2": members}, **joined, min_volume_ml={"1": least, "2": least}, hysteresis={"1": (0.45, 0.9)}
    )
    rows = {(row["case"], row["class"]): row for row in folders.ensemble(plan, instances=True)}
    for case in CASES:
        cleaned = []
        for model in "AB":
            image = images[model, case]
            mask = hysteresis(probabilities(case, model)[1], 0.45, 0.9, **joined) & (image != 2)
            cleaned.append(np.where(mask, 1, np.where(image == 2, 2, 0)))
        merged = ensemble_by_volume([(image, r) for image, r in zip(cleaned, RANGES)], SPACING, **joined)[0]
        expected = keep_volume_range(merged, least, inf, SPACING, **joined)
        assert (folders.result(case) == expected).all()
        ids = folders.result(case, folder=folders.output / "instances")
        assert (ids == label_components(expected, **joined)[0]).all()
        for label, name in ((1, "lesion"), (2, "organ")):
            before, after = (label_components(image == label, **joined)[1] for image in (merged, expected))
            row = rows[case, name]
            assert (row["objects"], row["too_small"]) == (after, before - after)
            differing += before != label_components(merged == label)[1]
    assert differing >= len(CASES)


def test_what_is_returned_is_in_the_table(folders: Folders) -> None:
    rows = folders.ensemble()
    with open(folders.output / "ensemble.csv", newline="") as stream:
        read = list(csv.DictReader(stream))
    assert read == [{name: str(value) for name, value in row.items()} for row in rows]
    assert {path.name for path in folders.output.iterdir()} == {
        *(f"{case}.nii.gz" for case in CASES),
        "dataset.json",
        "plans.json",
        "ensemble.csv",
        "ensemble.json",
    }
    assert [path.name for path in folders.root.iterdir() if path.name.startswith(".")] == []
    assert EnsemblePlan.from_json(json.loads((folders.output / "ensemble.json").read_text())["plan"]).models == (
        "A",
        "B",
    )


def test_the_order_of_members_decides_between_classes(folders: Folders) -> None:
    folders.ensemble(EnsemblePlan({"*": [Member("B", *RANGES[1]), Member("A", *RANGES[0])]}))
    turned = [folders.result(case) for case in CASES]
    folders.ensemble()
    assert any((folders.result(case) != image).any() for case, image in zip(CASES, turned))
    for case, image in zip(CASES, turned):
        members = [(image_of(model, case), range_) for model, range_ in zip("BA", RANGES[::-1])]
        assert (image == ensemble_by_volume(members, SPACING)[0]).all()


def test_each_class_may_have_members_of_its_own(folders: Folders) -> None:
    plan = EnsemblePlan(
        {"1": [Member("B")], "2": [Member("A", 0, EDGE_ML), Member("B", EDGE_ML)]}, min_volume_ml={"1": 6 * VOXEL_ML}
    )
    rows = folders.ensemble(plan)
    for case in CASES:
        a, b = (image_of(model, case) for model in "AB")
        lesion = b == 1  # of B, which comes first, so that A's organs give way to it
        small = lesion & ~keep_volume_range(lesion, 6 * VOXEL_ML, inf, SPACING)
        organ = merge_members([a == 2, b == 2], RANGES, SPACING).claims > 0
        expected = np.where(lesion, 1, np.where(organ, 2, 0))
        assert (folders.result(case) == np.where(small, 0, expected)).all()
    of_lesions, of_organs = ([row for row in rows if row["class"] == name] for name in ("lesion", "organ"))
    assert sum(row["too_small"] for row in of_lesions) > 0 == sum(row["too_small"] for row in of_organs)
    assert sum(row["from_A"] for row in of_organs) > 0 == sum(row["from_A"] for row in of_lesions)


def test_a_model_may_have_two_ranges(folders: Folders) -> None:
    plan = EnsemblePlan({"*": [Member("A", 0, 0.01), Member("B", 0.01, 0.05), Member("A", 0.05)]})
    rows = folders.ensemble(plan)
    assert sorted(name for name in rows[0] if name.startswith("from_")) == ["from_A", "from_B"]
    for case in CASES:
        a, b = (image_of(model, case) for model in "AB")
        merged, _ = ensemble_by_volume([(a, (0, 0.01)), (b, (0.01, 0.05)), (a, (0.05, inf))], SPACING)
        both = keep_volume_range(a, 0, 0.01, SPACING) + keep_volume_range(a, 0.05, inf, SPACING)
        assert (folders.result(case) == np.where(both > 0, both, merged)).all()  # one place in the order for both


def test_regions_are_nested_again(tmp_path: Path) -> None:
    folders = Folders(tmp_path, REGIONS, regions_class_order=[1, 2])
    rows = folders.ensemble(EnsemblePlan(PLAN.members, min_volume_ml={"*": 3 * VOXEL_ML}))
    grown = 0
    for case in CASES:
        a, b = (image_of(model, case) for model in "AB")
        masks = [
            merge_members([np.isin(a, labels), np.isin(b, labels)], RANGES, SPACING).claims > 0
            for labels in ([1, 2], [2])
        ]
        grown += int((masks[1] & ~masks[0]).sum())
        painted = nest_regions(masks, [1, 2])
        large = [keep_volume_range(np.isin(painted, labels), 3 * VOXEL_ML, inf, SPACING) for labels in ([1, 2], [2])]
        assert (folders.result(case) == nest_regions(large, [1, 2])).all()
    assert grown > 0 and {row["class"] for row in rows} == {"whole", "core"}
    assert sum(row["too_small"] for row in rows) > 0


def test_painting_is_nnunets(tmp_path: Path) -> None:
    manager = LabelManager(REGIONS, [1, 2])
    masks = np.random.default_rng(0).uniform(size=(2, 5, 6, 7)) > 0.5
    theirs = manager.convert_probabilities_to_segmentation(masks.astype(np.float32))
    assert (nest_regions(list(masks), [1, 2]) == np.asarray(theirs)).all()


@pytest.mark.parametrize("labels, more", [(LABELS, {}), (REGIONS, {"regions_class_order": [1, 2]})])
def test_instance_maps_suit_evaluate(tmp_path: Path, labels: dict, more: dict) -> None:
    folders = Folders(tmp_path, labels, **more)
    rows = folders.ensemble(instances=True)
    maps = folders.output / "instances"
    if labels is LABELS:
        for case in CASES:
            ids = folders.result(case, folder=maps)
            assert ((ids > 0) == (folders.result(case) > 0)).all()
            assert ids.max() == sum(row["objects"] for row in rows if row["case"] == case)
        scores = evaluate(folders.folders["A"], folders.output, tmp_path / "scores", instances=maps)
        assert [row["instances"] for row in scores.cases] == [row["objects"] for row in rows]
    else:
        assert {path.name for path in maps.iterdir()} == {"region_1_2", "region_2"}
        for row in rows:
            folder = maps / {"whole": "region_1_2", "core": "region_2"}[row["class"]]
            assert folders.result(row["case"], folder=folder).max() == row["objects"]


def test_nnunet_evaluates_the_result(folders: Folders) -> None:
    folders.ensemble()
    compute_metrics_on_folder2(
        str(folders.folders["A"]),
        str(folders.output),
        str(folders.output / "dataset.json"),
        str(folders.output / "plans.json"),
        num_processes=1,
    )
    assert len(json.loads((folders.output / "summary.json").read_text())["metric_per_case"]) == 3
    folders.ensemble()  # and what others wrote beside our files stays
    assert (folders.output / "summary.json").is_file()


def test_dataset_and_plans_are_those_of_the_earliest_model_that_has_them(folders: Folders) -> None:
    (folders.folders["A"] / "plans.json").unlink()
    folders.ensemble()
    for name, model in (("dataset.json", "A"), ("plans.json", "B")):
        assert (folders.output / name).read_bytes() == (folders.folders[model] / name).read_bytes()


def test_validation_folders_have_theirs_two_above(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    for model, folder in folders.folders.items():
        validation = tmp_path / f"nnUNetTrainer{model}__nnUNetPlans__2d" / "fold_0" / "validation"
        validation.parent.mkdir(parents=True)
        folder.rename(validation)
        for name in ("dataset.json", "plans.json"):
            (validation / name).rename(validation.parents[1] / name)
        folders.folders[model] = validation
    folders.ensemble()
    assert json.loads((folders.output / "plans.json").read_text()) == {"plans_name": "A"}


# --- formats -----------------------------------------------------------------------------------------------

FORMATS = {
    ".nii.gz": (".nii.gz", {}, SimpleITKIO),
    ".mha": (".mha", {}, SimpleITKIO),
    ".nrrd": (".nrrd", {}, SimpleITKIO),
    "nibabel": (".nii.gz", {"overwrite_image_reader_writer": "NibabelIO"}, NibabelIO),
    "nibabel reoriented": (
        ".nii.gz",
        {"overwrite_image_reader_writer": "NibabelIOWithReorient"},
        NibabelIOWithReorient,
    ),
    "itk reoriented": (
        ".nii.gz",
        {"overwrite_image_reader_writer": "SimpleITKIOWithReorient"},
        SimpleITKIOWithReorient,
    ),
}


@pytest.mark.parametrize("ending, more, reader", FORMATS.values(), ids=FORMATS.keys())
def test_formats_keep_the_geometry(tmp_path: Path, ending: str, more: dict, reader: type) -> None:
    folders = Folders(tmp_path, LABELS, ending, **more)
    folders.ensemble(instances=True)
    for case in CASES:
        before, after = (
            sitk.ReadImage(str(folder / f"{case}{ending}")) for folder in (tmp_path / "A", tmp_path / "out")
        )
        for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(after, name)() == pytest.approx(getattr(before, name)(), abs=1e-5)
        members = [(image_of(model, case), range_) for model, range_ in zip("AB", RANGES)]
        assert (sitk.GetArrayFromImage(after) == ensemble_by_volume(members, SPACING)[0]).all()
        ids = reader().read_seg(str(folders.output / "instances" / f"{case}{ending}"))[0][0]
        assert ((ids > 0) == (reader().read_seg(str(folders.output / f"{case}{ending}"))[0][0] > 0)).all()


def test_3d_tiffs_keep_their_spacing(tmp_path: Path) -> None:
    folders = Folders(tmp_path, LABELS, ".tif")
    folders.ensemble(instances=True)
    for case in CASES:
        members = [(image_of(model, case), range_) for model, range_ in zip("AB", RANGES)]
        assert (tifffile.imread(folders.output / f"{case}.tif") == ensemble_by_volume(members, SPACING)[0]).all()
        for folder in (folders.output, folders.output / "instances"):
            assert json.loads((folder / f"{case}.json").read_text())["spacing"] == list(SPACING)


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_2d_images_have_areas(tmp_path: Path, ending: str) -> None:
    folders = Folders(tmp_path, LABELS, ending, flat=True)
    cli.main(["ensemble", "--member-mm2", f"{tmp_path}/A:0-7", "--member-mm2", f"{tmp_path}/B:7-", *out(folders)])
    seen = set()
    for case in CASES:
        members = [(image_of(model, case, (20, 30)), r) for model, r in zip("AB", ((0, 0.007), (0.007, inf)))]
        expected = ensemble_by_volume(members, (1, 1))[0]
        assert (io.imread(folders.output / f"{case}{ending}") == expected).all()
        seen.update(np.unique(expected).tolist())
    assert seen == {0, 1, 2}


def test_2d_images_with_a_spacing_have_areas(tmp_path: Path) -> None:
    folders = Folders(tmp_path, LABELS, ".mha", flat=True)
    for model in "AB":
        for case in CASES:
            write(tmp_path / model / f"{case}.mha", image_of(model, case, (20, 30)), (0.5, 0.8))
    cli.main(["ensemble", "--member-mm2", f"{tmp_path}/A:0-2.8", "--member-mm2", f"{tmp_path}/B:2.8-", *out(folders)])
    for case in CASES:
        members = [(image_of(model, case, (20, 30)), r) for model, r in zip("AB", ((0, 0.0028), (0.0028, inf)))]
        assert (folders.result(case)[0] == ensemble_by_volume(members, (0.5, 0.8))[0]).all()


# --- folds and probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("labels, more", [(LABELS, {}), (REGIONS, {"regions_class_order": [1, 2]})])
@pytest.mark.parametrize("vote", [None, 2, 3])
def test_folds_vote_before_ranges_apply(tmp_path: Path, vote: int | None, labels: dict, more: dict) -> None:
    folders = Folders(tmp_path, labels, models="AXYB", **more)
    plan = EnsemblePlan(PLAN.members, vote=vote)
    predictions = {"A": [folders.folders[name] for name in "AXY"], "B": [folders.folders["B"]]}
    ensemble(plan, predictions, folders.output)
    for case in CASES:
        folds, b = [image_of(name, case) for name in "AXY"], image_of("B", case)
        if labels is LABELS:
            members = [(majority_vote(folds, vote or 2), RANGES[0]), (b, RANGES[1])]
            expected = ensemble_by_volume(members, SPACING)[0]
        else:
            voted = [majority_vote([np.isin(fold, v) for fold in folds], vote or 2) for v in ([1, 2], [2])]
            parts = [
                merge_members([mask, np.isin(b, v)], RANGES, SPACING).claims > 0
                for mask, v in zip(voted, ([1, 2], [2]))
            ]
            expected = nest_regions(parts, [1, 2])
        assert (folders.result(case) == expected).all()


def probabilities(case: str, model: str) -> np.ndarray:
    p = np.random.default_rng(CASES.index(case) + ord(model)).uniform(0, 0.5, (3, *SHAPE)).astype(np.float32)
    p[1, image_of(model, case) == 1] += 0.45
    p[2] = np.minimum(p[2], 1 - p[1])
    p[0] = 1 - p[1] - p[2]
    return p


def test_hysteresis_takes_the_place_of_the_label_image(folders: Folders) -> None:
    for case in CASES:
        for model, folder in folders.folders.items():
            np.savez(folder / f"{case}.npz", probabilities=probabilities(case, model))
    folders.ensemble(EnsemblePlan({"1": PLAN.members["*"], "2": PLAN.members["*"]}, hysteresis={"1": (0.45, 0.9)}))
    changed = 0
    for case in CASES:
        images = []
        for model in "AB":
            image = image_of(model, case)
            mask = hysteresis(probabilities(case, model)[1], 0.45, 0.9) & (image != 2)
            images.append(np.where(mask, 1, np.where(image == 2, 2, 0)))
            changed += int((images[-1] != image).sum())
        expected = ensemble_by_volume([(image, r) for image, r in zip(images, RANGES)], SPACING)[0]
        assert (folders.result(case) == expected).all()
    assert changed > 0


def test_hysteresis_without_probabilities_is_one_line(folders: Folders) -> None:
    plan = EnsemblePlan(PLAN.members, hysteresis={"*": (0.3, 0.6)})
    with pytest.raises(UserError, match=r"case 'a': cannot read probabilities from .*A/a.npz: predict again"):
        folders.ensemble(plan)
    assert sorted(path.name for path in folders.root.iterdir()) == ["A", "B"]


# --- mistakes end with one line, and leave nothing ---------------------------------------------------------


def out(folders: Folders) -> list[str]:
    return ["-o", str(folders.output), "-np", "1"]


def remove(*names: str) -> Callable[[Folders], object]:
    return lambda f: [(f.root / name).unlink() for name in names]


def replaced(change: Callable[[np.ndarray], np.ndarray], **options: object) -> Callable[[Folders], None]:
    return lambda f: write(f.root / "B" / "b.nii.gz", change(image_of("B", "b")), **options)


def text(name: str, content: str) -> Callable[[Folders], object]:
    return lambda f: ((f.root / name).parent.mkdir(exist_ok=True), (f.root / name).write_text(content))


AB = ["-m", "{r}/A:0-0.05", "-m", "{r}/B:0.05-"]
CONFIG = ["--config", "{r}/plan.json", "--predictions", "A={r}/A", "B={r}/B"]
BAD: dict[str, tuple[Callable[[Folders], object], list[str], str]] = {
    "other cases": (remove("B/b.nii.gz", "B/c.nii.gz"), AB, "case 'b' and 1 more is missing in {r}/B, but is in {r}/A"),
    "more cases": (
        remove("A/c.nii.gz"),
        AB,
        "case 'c' is missing in {r}/A, but is in {r}/B: add it, or",
    ),
    "no folder": (lambda f: None, ["-m", "{r}/A:0-0.05", "-m", "{r}/X:0.05-"], "there is no folder {r}/X"),
    "missing fold": (lambda f: None, ["-m", "{r}/A", "{r}/fold_1:0-0.05", "-m", "{r}/B:0.05-"], "no folder {r}/fold_1"),
    "too few folds": (
        lambda f: None,
        ["-m", "{r}/A", "{r}/B", "--vote", "3"],
        "a vote of 3 needs as many folders, model",
    ),
    "a fold twice": (lambda f: None, ["-m", "{r}/A", "{r}/A"], "is given twice: give each fold once"),
    "empty folder": (
        remove(*(f"B/{case}.nii.gz" for case in CASES)),
        AB,
        "{r}/B has no files that end in .nii.gz: give the folder that holds the cases",
    ),
    "shape": (
        replaced(lambda a: a[1:]),
        AB,
        "case 'b': {r}/B/b.nii.gz differs from {r}/A/b.nii.gz in size: 9 x 12 x 6 against 9 x 12 x 7 voxels: save",
    ),
    "spacing": (
        replaced(lambda a: a, spacing=(5.0, 0.86, 0.87)),
        AB,
        "case 'b': {r}/B/b.nii.gz differs from {r}/A/b.nii.gz in spacing: ",
    ),
    "direction": (
        replaced(lambda a: a, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)),
        AB,
        "in direction: (1, 0, 0, 0, 1",
    ),
    "unknown label": (
        replaced(lambda a: a + 2),
        AB,
        "case 'b': {r}/B/b.nii.gz has label 3, which dataset.json does not",
    ),
    "unreadable": (text("B/b.nii.gz", "no image"), AB, "case 'b': cannot read {r}/B/b.nii.gz ("),
    "unreadable first": (text("A/a.nii.gz", "no image"), AB, "no reader of nnU-Net can open {r}/A/a.nii.gz"),
    "overlap": (
        lambda f: None,
        ["-m", "{r}/A:0-0.06", "-m", "{r}/B:0.05-"],
        "the ranges of 'A' and 'B' overlap from 0.05 mL on",
    ),
    "gap": (
        lambda f: None,
        ["-m", "{r}/A:0-0.04", "-m", "{r}/B:0.05-"],
        "no member has the sizes 0.04-0.05 mL: extend a range, or allow gaps with --gaps",
    ),
    "no range": (lambda f: None, ["-m", "{r}/A", "-m", "{r}/B"], "overlap from 0 mL on"),
    "bad range": (lambda f: None, ["-m", "{r}/A:0,05-"], "after the colon comes a range such as 0-0.05"),
    "range upside down": (lambda f: None, ["-m", "{r}/A:2-1"], "the range 2.0-1.0 mL of member 'A' must go"),
    "no folder before the range": (lambda f: None, ["-m", ":2-1"], "before the colon comes a folder"),
    "other labels": (
        text("B/dataset.json", '{"labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}'),
        AB,
        "{r}/A/dataset.json and {r}/B/dataset.json differ in labels",
    ),
    "no dataset.json": (remove("A/dataset.json", "B/dataset.json"), AB, "no dataset.json in or above {r}/A: give one"),
    "wrong -djfile": (
        lambda f: None,
        [*AB, "-djfile", "{r}/none.json"],
        "{r}/none.json is missing: give the",
    ),
    "broken dataset.json": (text("A/dataset.json", "{"), AB, "{r}/A/dataset.json is no dataset.json of nnU-Net"),
    "areas of volumes": (
        lambda f: None,
        ["--member-mm2", "{r}/A:0-5", "--member-mm2", "{r}/B:5-"],
        "case 'a' is no 2D image, and only those have areas: give volumes with -m",
    ),
    "somebody's folder": (text("out/notes.txt", "mine"), AB, "{r}/out holds files that 'ensemble' did not write"),
    "a file": (text("out", "mine"), AB, "{r}/out is a file: give a folder with -o"),
    "no members": (lambda f: None, [], "give members either with -m, or with --member-mm2, or with --config"),
    "two kinds of members": (lambda f: None, [*AB, *CONFIG], "give members either with -m, or"),
    "processes": (lambda f: None, [*AB, "-np", "0"], "-np must be at least 1, got 0"),
    "minimum": (lambda f: None, [*AB, "--min-volume-ml", "-1"], "min_volume_ml must be 0 or more"),
    "area with volumes": (lambda f: None, [*AB, "--min-area-mm2", "1"], "--min-area-mm2 goes with --member-mm2 only"),
    "predictions alone": (lambda f: None, [*AB, "--predictions", "A=x"], "--predictions belongs to --config"),
    "no config": (lambda f: None, CONFIG, "cannot read {r}/plan.json (No such file or directory): give the file"),
    "config and vote": (
        text("plan.json", json.dumps(PLAN.to_json())),
        [*CONFIG, "--vote", "2"],
        "--vote is said by the file of --config: leave it away",
    ),
    "a model without folder": (
        text("plan.json", json.dumps(PLAN.to_json())),
        CONFIG[:4],
        "there is no folder of predictions for model 'B': add it with --predictions",
    ),
    "a folder without model": (
        text("plan.json", json.dumps(PLAN.to_json())),
        [*CONFIG, "C={r}/C"],
        "the ensemble has no model 'C', its models are A, B",
    ),
    "no name": (text("plan.json", json.dumps(PLAN.to_json())), [*CONFIG, "{r}/C"], "--predictions takes NAME=DIR"),
    "other classes": (
        text("plan.json", json.dumps({**PLAN.to_json(), "classes": {"1": PLAN.to_json()["classes"]["*"]}})),
        CONFIG,
        "the ensemble was made for classes 1, but dataset.json has 1, 2",
    ),
}


@pytest.mark.parametrize("spoil, options, message", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(folders: Folders, spoil: Callable, options: list[str], message: str) -> None:
    spoil(folders)
    before = tree(folders.root)
    with pytest.raises(SystemExit) as info:
        cli.main(["ensemble", *out(folders), *(option.format(r=folders.root) for option in options)])
    line = str(info.value.code)
    assert line.startswith("nnunet-instance: error: ") and "\n" not in line
    assert message.replace("{r}", str(folders.root)) in line
    assert tree(folders.root) == before
    assert not [path for path in folders.root.iterdir() if path.name.startswith(".")]


def test_the_predictions_are_never_overwritten(folders: Folders) -> None:
    before = tree(folders.root)
    for output in (folders.folders["A"], folders.root):
        with pytest.raises(UserError, match="holds the predictions in"):
            ensemble(PLAN, {model: [folder] for model, folder in folders.folders.items()}, output)
    assert tree(folders.root) == before


def test_an_earlier_ensemble_is_replaced_but_not_mixed(folders: Folders) -> None:
    folders.ensemble(instances=True)
    folders.ensemble(EnsemblePlan({"*": [Member("B", *RANGES[0]), Member("A", *RANGES[1])]}))
    replaced_by = tree(folders.output)
    assert not (folders.output / "instances").exists()
    folders.output.rename(folders.root / "first")
    folders.ensemble(EnsemblePlan({"*": [Member("B", *RANGES[0]), Member("A", *RANGES[1])]}))
    assert tree(folders.output) == replaced_by
    for folder in folders.folders.values():
        (folder / "c.nii.gz").unlink()
    with pytest.raises(UserError, match="has case 'c', which the predictions have not"):
        folders.ensemble()


def test_a_folder_that_cannot_be_written_is_one_line(folders: Folders) -> None:
    (folders.root / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .* make room, or give another folder with -o"):
        ensemble(PLAN, {m: [f] for m, f in folders.folders.items()}, folders.root / "file" / "out")


@pytest.mark.parametrize("written", [b"", b"half"])
def test_an_image_that_its_writer_did_not_finish_is_one_line(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, written: bytes
) -> None:
    """SimpleITK's NIfTI writer passes over a full disk without an error."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    monkeypatch.setattr(SimpleITKIO, "write_seg", lambda self, image, path, geometry: Path(path).write_bytes(written))
    with pytest.raises(UserError, match="case 'a': cannot write .*a.nii.gz .*: make room"):
        folders.ensemble()
    assert {path.name for path in folders.root.iterdir()} == {"A", "B"}


# --- interrupted runs --------------------------------------------------------------------------------------


class Stopped(BaseException):
    """What a killed process does not catch."""


@pytest.mark.parametrize("name", ["mkdir", "replace", "rename", "rmtree", "copyfile"])
def test_stopped_anywhere_the_same_call_ends_with_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The work is stopped at the first, second, ... call that changes the folders, with and without an old result."""
    from nnunet_instance_trainers.ensembling import output_folder as module

    other = EnsemblePlan({"*": [Member("B", *RANGES[0]), Member("A", *RANGES[1])]})
    folders = Folders(tmp_path)
    folders.ensemble(instances=True)
    expected = tree(folders.output)
    owner = {"mkdir": Path, "rename": Path, "replace": module.os}.get(name, module.shutil)
    original, stops = getattr(owner, name), 0
    for old in (False, True):
        for stop in range(100):
            module.shutil.rmtree(folders.output)
            if old:
                folders.ensemble(other)
            before = tree(folders.output)
            calls = iter(range(1000))

            def stopping(*args: object, calls=calls, stop=stop, **options: object) -> object:
                if next(calls) == stop:
                    raise Stopped
                return original(*args, **options)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, stopping)
                try:
                    folders.ensemble(instances=True)
                    break
                except Stopped:
                    stops += 1
            if (folders.output / "ensemble.json").exists():  # then it is whole
                assert tree(folders.output) in (before, expected)
            else:
                assert old or not folders.output.exists()
            folders.ensemble(instances=True)
            assert tree(folders.output) == expected
            assert {path.name for path in tmp_path.iterdir()} == {"A", "B", "out"}
        else:
            pytest.fail("never came to an end")
    assert stops >= 1


def test_a_case_that_was_done_is_not_done_again(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_instance_trainers.ensembling import folder_ensemble as module

    original, done = module.ensemble_case, []

    def two_cases(job: object, case: str) -> object:
        if len(done) == 2:
            raise Stopped
        done.append(case)
        return original(job, case)

    monkeypatch.setattr(module, "ensemble_case", two_cases)
    with pytest.raises(Stopped):
        folders.ensemble()
    assert not folders.output.exists() and done == ["a", "b"]
    done.clear()
    folders.ensemble()
    assert done == ["c"]
    write(folders.folders["A"] / "a.nii.gz", image_of("A", "b"))
    done.clear()
    with pytest.raises(Stopped):
        folders.ensemble()
    write(folders.folders["A"] / "a.nii.gz", image_of("A", "c"))  # so that what was begun is out of date
    done.clear()
    with pytest.raises(Stopped):
        folders.ensemble()
    assert done == ["a", "b"]


@pytest.mark.heavy
def test_killed_at_random_the_same_command_ends_with_the_same_files(folders: Folders) -> None:
    command = [sys.executable, "-m", "nnunet_instance_trainers.cli", "ensemble", "-np", "2", "--instances"]
    command += ["-m", f"{folders.root}/A:0-0.03", "-m", f"{folders.root}/B:0.03-", "-o"]
    subprocess.run([*command, str(folders.root / "whole")], check=True, capture_output=True)
    random = np.random.default_rng(0)
    for _ in range(20):
        process = subprocess.Popen([*command, str(folders.output)], start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0.5, 6))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        subprocess.run([*command, str(folders.output)], check=True, capture_output=True)
        assert tree(folders.output) == tree(folders.root / "whole")
        subprocess.run(["rm", "-r", str(folders.output)], check=True)


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_does_as_the_function(folders: Folders, capsys: pytest.CaptureFixture) -> None:
    rows = folders.ensemble(EnsemblePlan({"*": [Member("A", 0, 0.03), Member("B", 0.03)]}, min_volume_ml={"*": 0.0}))
    expected = tree(folders.output)
    folders.output.rename(folders.root / "first")
    cli.main(["ensemble", "-m", f"{folders.root}/A:0-0.03", "-m", f"{folders.root}/B", ":0.03-", *out(folders)])
    assert tree(folders.output) == expected
    shown = capsys.readouterr()
    assert format_members(rows) in shown.out and "--rescue keeps them" in shown.out
    assert "ensemble: 100%" in shown.err and "3/3" in shown.err
    header, lesion, _ = format_members(rows).splitlines()
    assert dict(zip(header.split(), lesion.split()))["lost"] == str(
        sum(row["lost"] for row in rows if row["class"] == "lesion")
    )


def test_all_options_reach_the_plan(folders: Folders) -> None:
    more = ["--rescue", "--gaps", "--vote", "2", "--min-volume-ml", "0.01", "--connectivity", "6", "--instances"]
    cli.main(["ensemble", "-m", f"{folders.root}/A:0-0.02", "-m", f"{folders.root}/B:0.03-", *out(folders), *more])
    settings = json.loads((folders.output / "ensemble.json").read_text())
    plan = settings["plan"]
    assert (plan["rescue"], plan["gaps"], plan["vote"], settings["instances"]) == (True, True, 2, True)
    assert plan["connectivity"] == 6
    assert [entry["min_volume_ml"] for entry in plan["classes"].values()] == [0.01, 0.01]


def test_a_file_says_what_the_options_say(folders: Folders) -> None:
    plan = EnsemblePlan({"1": PLAN.members["*"], "2": PLAN.members["*"]}, rescue=True)
    plan.write(folders.root / "plan.json")
    places = [f"{model}={folder}" for model, folder in folders.folders.items()]
    cli.main(["ensemble", "--config", str(folders.root / "plan.json"), "--predictions", *places, *out(folders)])
    by_file = tree(folders.output)
    folders.output.rename(folders.root / "first")
    folders.ensemble(plan)
    assert tree(folders.output) == by_file


def test_folds_in_a_file_repeat_the_name(tmp_path: Path) -> None:
    folders = Folders(tmp_path, models="AXYB")
    PLAN.write(tmp_path / "plan.json")
    places = [f"{name}={tmp_path / folder}" for name, folder in (("A", "A"), ("A", "X"), ("A", "Y"), ("B", "B"))]
    cli.main(["ensemble", "--config", str(tmp_path / "plan.json"), "--predictions", *places, *out(folders)])
    voted = majority_vote([image_of(name, "a") for name in "AXY"])
    expected = ensemble_by_volume([(voted, RANGES[0]), (image_of("B", "a"), RANGES[1])], SPACING)[0]
    assert (folders.result("a") == expected).all()


def test_workers_do_the_same(folders: Folders) -> None:
    folders.ensemble(instances=True)
    alone = tree(folders.output)
    folders.output.rename(folders.root / "first")
    folders.ensemble(instances=True, n_processes=2)
    assert tree(folders.output) == alone
