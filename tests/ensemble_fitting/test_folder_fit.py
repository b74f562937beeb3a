"""The fit over nnU-Net's folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.data.label_folders import find_labels
from nnunet_instance_trainers.ensemble_fitting.bin_search import Space
from nnunet_instance_trainers.ensemble_fitting.choice_counts import Choice
from nnunet_instance_trainers.ensemble_fitting.count_table import Table
from nnunet_instance_trainers.ensemble_fitting.cross_validation import LOWS, Models, _above, find_cases, list_case
from nnunet_instance_trainers.ensemble_fitting.folder_fit import make_plan
from nnunet_instance_trainers.ensembling.ensemble_plan import EnsemblePlan
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation import Rule
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate

pytestmark = pytest.mark.nnunet

NAME = "Dataset777_Fit"
SPACING = (5.0, 0.86, 0.86)
VOXEL_ML = 5 * 0.86 * 0.86 / 1000
FOLDS, PER_FOLD = 3, 5


class Root:
    """nnU-Net's folders with the predictions of two specialists: objects of up to 4 x 4 voxels, and all above."""

    def __init__(self, root: Path, labels: dict, seed: int = 0) -> None:
        self.preprocessed, self.results, self.output = root / "pre" / NAME, root / "res" / NAME, root / "fit.json"
        self.truth, random = self.preprocessed / "gt_segmentations", np.random.default_rng(seed)
        self.truth.mkdir(parents=True)
        (self.preprocessed / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
        (self.preprocessed / "nnUNetPlans.json").write_text("{}")
        for trainer in ("Small", "Large"):
            self.model(trainer).mkdir(parents=True)
            (self.model(trainer) / "plans.json").write_text(json.dumps({"configurations": {"2d": {}}}))
        for i in range(FOLDS * PER_FOLD):
            fold, case = i % FOLDS, f"case_{i:02}"
            target, small, large = self.draw(random, [v for v in labels.values() if v])
            self.write(self.truth / f"{case}.nii.gz", target)
            self.write(self.validation("Small", fold) / f"{case}.nii.gz", small)
            self.write(self.validation("Large", fold) / f"{case}.nii.gz", large)

    def model(self, trainer: str) -> Path:
        return self.results / f"{trainer}__nnUNetPlans__2d"

    def validation(self, trainer: str, fold: int) -> Path:
        return self.model(trainer) / f"fold_{fold}" / "validation"

    def draw(self, random: np.random.Generator, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Squares on a grid; half of them are real. A specialist is right 9 times of 10 in its sizes, else 5."""
        images = np.zeros((3, 3, 60, 60), int)
        for row in range(6):
            for column in range(6):
                side, label = random.integers(1, 8), random.choice(labels)
                real = random.uniform() < 0.5
                place = (1, slice(10 * row, 10 * row + side), slice(10 * column, 10 * column + side))
                right = [True, *(random.uniform() < (0.9 if ok else 0.5) for ok in (side <= 3, side > 3))]
                for image, is_right in zip(images, right):
                    if real == is_right:
                        image[place] = label
        return tuple(images)

    def write(self, file: Path, image: np.ndarray, spacing: Sequence[float] = SPACING) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        volume = sitk.GetImageFromArray(image.astype(np.uint8))
        volume.SetSpacing(tuple(spacing)[::-1])
        sitk.WriteImage(volume, str(file))

    def run(self, *more: str, trainers: Sequence[str] = ("Small", "Large")) -> None:
        folds = map(str, range(FOLDS))
        cli.main(["fit-ensemble", "-d", "777", "-c", "2d", "-f", *folds, "--trainers", *trainers, "-o",
                  str(self.output), "-np", "1", *more])  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "res"))
    return Root(tmp_path, {"background": 0, "lesion": 1})


def test_the_file_says_what_was_planted(root: Root, capsys: pytest.CaptureFixture) -> None:
    root.run()
    plan = EnsemblePlan.read(root.output)
    first, second = plan.members["1"]
    assert (first.name, second.name) == ("Small", "Large")
    assert 9 * VOXEL_ML < first.high_ml <= 16 * VOXEL_ML  # between sides of 3 and of 4
    assert plan.fit["parts"] == ["bins"] and plan.fit["estimate"]["gain_interval"][0] > 0
    assert root.output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "Answer: an ensemble" in printed
    assert (
        f"nnUNetv2_predict -d {NAME} -i INPUT_FOLDER -o OUTPUT_FOLDER_Small -f 0 1 2 -tr Small -c 2d -p nnUNetPlans\n"
        in printed
    )
    assert (
        f"nnunet-instance ensemble --config {root.output} --predictions Small=OUTPUT_FOLDER_Small "
        "Large=OUTPUT_FOLDER_Large -o OUTPUT_FOLDER\n" in printed
    )


def test_plain_models_score_as_evaluate_says(root: Root, tmp_path: Path) -> None:
    root.run("--score", "f1_iou50")
    for estimate in EnsemblePlan.read(root.output).fit["models"]:
        together = tmp_path / estimate["name"]
        together.mkdir()
        for fold in range(FOLDS):
            for file in root.validation(estimate["name"], fold).iterdir():
                shutil.copy(file, together)
        scored = evaluate(together, root.truth, tmp_path / f"scores_{estimate['name']}").summary["pooled"]["1"]
        assert estimate["score"] == pytest.approx(scored["f1_iou50"])
        assert {name: estimate[name] for name in ("f1", "dice", "volume_ratio")} == pytest.approx(
            {name: scored[name] for name in ("f1", "dice", "volume_ratio")}
        )


def test_the_rule_of_a_fit_is_that_of_evaluate_and_of_the_ensemble(root: Root, tmp_path: Path) -> None:
    """Objects of bars that meet at corners: one with 26 neighbours, each bar for itself with 6."""
    predicted = [root.validation(trainer, fold) for trainer in ("Small", "Large") for fold in range(FOLDS)]
    for file in (file for folder in (root.truth, *predicted) for file in folder.iterdir()):
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        _, row, column = np.indices(image.shape)
        root.write(file, image * ((row + column // 3) % 2))
    minimum = 2.5 * VOXEL_ML
    flags = ["--match", "share", "--threshold", "0.3", "--minimum-size", str(minimum), "--score", "f1_iou50"]
    instances = []
    for connectivity in (6, 26):
        root.run(*flags, "--connectivity", str(connectivity))
        plan = EnsemblePlan.read(root.output)
        own = {name: plan.fit[name] for name in ("match", "threshold", "minimum_ml")}
        assert own == {"match": "share", "threshold": 0.3, "minimum_ml": minimum} and plan.connectivity == connectivity
        estimate = next(one for one in plan.fit["models"] if one["name"] == "Large")
        together = tmp_path / "Large"
        for fold in range(FOLDS):
            shutil.copytree(root.validation("Large", fold), together, dirs_exist_ok=True)
        rule = Rule("share", 0.3, connectivity, minimum)
        scored = evaluate(together, root.truth, tmp_path / f"scores_{connectivity}", rule=rule).summary["pooled"]["1"]
        assert {name: estimate[name] for name in ("f1", "f1_iou50", "dice")} == pytest.approx(
            {name: scored[name] for name in ("f1", "f1_iou50", "dice")}, nan_ok=True
        )
        instances.append(scored["instances"])
    assert instances[0] > instances[1] > 0


def test_each_class_has_its_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "res"))
    root = Root(tmp_path, {"background": 0, "lesion": 1, "node": 2})
    root.run()
    plan = EnsemblePlan.read(root.output)
    assert {key: [m.name for m in members] for key, members in plan.members.items()} == {
        "1": ["Small", "Large"],
        "2": ["Small", "Large"],
    }


def test_one_trainer_gets_no_ensemble(root: Root, capsys: pytest.CaptureFixture) -> None:
    root.run(trainers=["Large"])
    plan = EnsemblePlan.read(root.output)
    assert plan.models == ("Large",)
    assert "Answer: one model, Large" in capsys.readouterr().out


def test_saved_probabilities_allow_hysteresis(root: Root, capsys: pytest.CaptureFixture) -> None:
    """True objects peak at 0.85 but barely reach 0.5 somewhere; false ones peak at 0.6."""
    random = np.random.default_rng(0)
    for fold in range(FOLDS):
        for file in root.validation("Small", fold).glob("*.nii.gz"):
            target = sitk.GetArrayFromImage(sitk.ReadImage(str(root.truth / file.name)))
            p = np.where(target > 0, 0.85, 0.01)
            for row, column in random.integers(0, 6, (8, 2)):
                place = (1, slice(10 * row, 10 * row + 3), slice(10 * column, 10 * column + 3))
                p[place] = np.maximum(p[place], 0.6)
            root.write(file, p > 0.5)
            np.savez_compressed(file.parent / f"{file.name[:-7]}.npz", probabilities=np.stack((1 - p, p)))
    root.run(trainers=["Small"])
    plan = EnsemblePlan.read(root.output)
    assert plan.fit["parts"] == ["hysteresis"]
    assert 0.6 < plan.hysteresis["1"][1] < 0.85
    printed = capsys.readouterr().out
    assert "--save_probabilities" in printed and f"p > {plan.hysteresis['1'][0]:g}" in printed


def test_a_cascade_predicts_its_first_stage_too(root: Root, capsys: pytest.CaptureFixture) -> None:
    plans = {"configurations": {"2d": {"previous_stage": "low"}}}
    (root.model("Large") / "plans.json").write_text(json.dumps(plans))
    root.run(trainers=["Large"])
    first, second, _ = capsys.readouterr().out.splitlines()[-3:]
    assert "-c low" in first and "-o OUTPUT_FOLDER_Large_PREV_STAGE" in first
    assert "-prev_stage_predictions OUTPUT_FOLDER_Large_PREV_STAGE" in second


@pytest.mark.parametrize(("labels", "bound"), [
    ({"background": 0, "lesion": 1}, 0),
    ({"background": 0, "lesion": 1, "node": 2}, 0.02),
    ({"background": 0, "whole": [1, 2], "core": 2}, 0.02),
], ids=["label", "labels", "regions"])  # fmt: skip
def test_images_score_as_lists_say(root: Root, tmp_path: Path, labels: dict, bound: float) -> None:
    """Exactly for one class. With more, lists do not know who wins a voxel that two classes claim, nor of nesting."""
    more = {"regions_class_order": [1, 2]} if "whole" in labels else {}
    dataset = {"labels": labels, "file_ending": ".nii.gz", **more}
    (root.preprocessed / "dataset.json").write_text(json.dumps(dataset))
    second = [column for column in range(60) if len(labels) > 2 and column % 10 in (1, 2)]
    for file in root.truth.iterdir():
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        image[:, :, second] *= 2
        root.write(file, image)
    random, together = np.random.default_rng(1), {t: tmp_path / t for t in ("Small", "Large")}
    for name, folder in together.items():
        folder.mkdir()
        (folder / "dataset.json").write_text(json.dumps(dataset))
        for fold in range(FOLDS):
            for file in sorted(root.validation(name, fold).glob("*.nii.gz")):
                image = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(int)
                image = np.roll(image, tuple(random.integers(-1, 2, 3)), (0, 1, 2))
                image[:, :, second] *= 2
                channels = [image > 0, image == 2] if more else [image == v for v in labels.values()]
                p = np.clip(0.7 * np.stack(channels) + random.uniform(0, 0.29, (len(channels), *image.shape)), 0, 1)
                p = p if more else p**2 / (p**2).sum(0)
                for saved in (file, folder / file.name):
                    root.write(saved, image)
                    np.savez_compressed(f"{str(saved)[:-7]}.npz", probabilities=p)
    models = Models(NAME, "2d", "nnUNetPlans", ("Small", "Large"), tuple(range(FOLDS)))
    job, fold_of = find_cases(models, None, 26)
    lists, keys = [list_case(job, case) for case in fold_of], [c.key for c in job.labels.classes]
    space = Space(2, (), lows=LOWS)
    edges = (4 * VOXEL_ML, 16 * VOXEL_ML)
    low, n = LOWS.index(0.5), 2
    for k, choice in enumerate([
        Choice((0, 1), edges[1:], rescue=True),
        Choice((1, 0, 1), edges, min_volume_ml=9 * VOXEL_ML),
        Choice((0 + n * (1 + low), 1 + n * (1 + low)), edges[1:], peak=0.95),
    ]):  # fmt: skip
        chosen = (choice,) * len(keys)
        make_plan(chosen, keys, models.trainers, space, {}).write(root.output)
        cli.main(["ensemble", "--config", str(root.output), "--predictions", *(f"{t}={f}" for t, f in together.items()),
                  "-o", str(tmp_path / f"out{k}"), "-np", "1"])  # fmt: skip
        scored = evaluate(tmp_path / f"out{k}", root.truth, tmp_path / f"scores{k}").summary["pooled"]
        listed = Table(lists).counts_of(chosen).sum(0)
        for c, key in enumerate(keys):
            assert Counts(*listed[c]).f1 == pytest.approx(scored[key]["f1"], abs=bound or 1e-9)
            assert 0 < scored[key]["f1"] < 1


def test_hysteresis_leaves_other_labels_alone_as_ensemble_does() -> None:
    labels = find_labels({"labels": {"background": 0, "lesion": 1, "node": 2}}, Path("dataset.json"))
    p, prediction = np.array([[[0.3, 0.9, 0.3, 0.0, 0.3]]]), np.array([[[0, 1, 2, 0, 0]]])
    above, peak = _above(p, 0.2, prediction, labels.classes[0], labels)
    assert above.tolist() == [[[True, True, False, False, True]]]
    assert peak.tolist() == [[[0.9, 0.9, 0.9, 0.0, 0.3]]]


def test_a_truth_of_tiff_without_its_spacing_takes_that_of_the_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net copies labelsTr/CASE.tif to gt_segmentations, and not CASE.json."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "res"))
    dataset = {"labels": {"background": 0, "lesion": 1}, "file_ending": ".tif"}
    image, io = np.zeros((6, 9, 9)), Tiff3DIO()
    image[1:3, 2:5, 2:7] = 1
    models = Models(NAME, "2d", "nnUNetPlans", ("Small", "Large"), (0, 1, 2))
    truth = tmp_path / "pre" / NAME / "gt_segmentations"
    truth.mkdir(parents=True)
    (truth.parent / "dataset.json").write_text(json.dumps(dataset))
    for trainer, fold in product(models.trainers, models.folds):
        folder = models.validation(trainer, fold)
        folder.mkdir(parents=True)
        (models.folder(trainer) / "plans.json").write_text(json.dumps({"configurations": {"2d": {}}}))
        for saved in (folder, truth):
            io.write_seg(image, str(saved / f"c{fold}.tif"), {"spacing": (3, 0.5, 0.5)})
        (truth / f"c{fold}.json").unlink()
    job, fold_of = find_cases(models, None, 26)
    assert [list_case(job, case)[0].volumes_ml.tolist() for case in fold_of] == [[30 * 0.75 / 1000] * 2] * 3
    (truth / "c0.json").write_text(json.dumps({"spacing": (1, 1, 1)}))
    with pytest.raises(UserError, match="spacing: 0.5 x 0.5 x 3 against 1 x 1 x 1"):
        list_case(job, "c0")


def test_a_missing_file_of_probabilities_is_said(root: Root, capsys: pytest.CaptureFixture) -> None:
    for trainer, fold in product(("Small", "Large"), range(FOLDS)):
        for file in root.validation(trainer, fold).glob("*.nii.gz"):
            p = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(np.float16)
            np.savez_compressed(f"{str(file)[:-7]}.npz", probabilities=np.stack((1 - p, p)))
    file = root.validation("Large", 1) / "case_04.npz"
    file.unlink()
    root.run()
    printed = capsys.readouterr().out
    assert f"Hysteresis was not tried: 1 of 30 .npz is missing (case_04.npz in {file.parent})" in printed


def test_too_few_cases_are_said_and_no_ensemble_is_made(root: Root, capsys: pytest.CaptureFixture) -> None:
    for trainer, fold in product(("Small", "Large"), range(FOLDS)):
        for file in sorted(root.validation(trainer, fold).glob("*.nii.gz"))[1:]:
            file.unlink()
    root.run()
    printed, plan = capsys.readouterr().out, EnsemblePlan.read(root.output)
    assert "Answer: too few cases to tell. With a group of cases set aside 2 are left; with fewer than 7" in printed
    assert "no gain on held-out cases" not in printed and "nan" not in printed
    assert len(plan.models) == 1 and plan.fit["enough_cases"] is False


def drop(file: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()


@pytest.mark.parametrize(("spoil", "line"), [
    (lambda r: drop(r.validation("Large", 1)), "fold 1 of Large has no predictions in .*fold_1.validation: run "
     "'nnunet-instance train 777 2d 1 -tr Large --val', or leave it out of -f"),
    (lambda r: drop(r.model("Large")), "there is no trained Large in .*Large__nnUNetPlans__2d: check --trainers"),
    (lambda r: drop(r.model("Large") / "plans.json"), "Large__nnUNetPlans__2d.plans.json has no configuration '2d'"),
    (lambda r: drop(r.validation("Large", 1) / "case_04.nii.gz"), "fold 1: case 'case_04' was predicted by Small and "
     "not by Large: run"),
    (lambda r: drop(r.truth / "case_04.nii.gz"), "the ground truth of case 'case_04' is missing in"),
    (lambda r: (r.validation("Large", 1) / "case_04.nii.gz").write_text("x"), "case 'case_04': cannot read .*case_04"),
    (lambda r: r.write(r.validation("Large", 1) / "case_04.nii.gz", np.full((3, 60, 60), 7)), "has label 7"),
    (lambda r: r.write(r.validation("Large", 1) / "case_04.nii.gz", np.zeros((3, 60, 60)), (1, 1, 1)), "differs from "
     "its ground truth in spacing"),
    (lambda r: [shutil.copy(r.validation(t, 0) / "case_00.nii.gz", r.validation(t, 2)) for t in ("Small", "Large")],
     "case 'case_00' was predicted in folds 0 and 2"),
    (lambda r: [r.write(file, np.zeros((3, 60, 60))) for file in r.truth.iterdir()],
     "no ground truth in .*gt_segmentations has an object, so nothing can be scored"),
])  # fmt: skip
def test_bad_input_ends_with_one_line_and_no_file(root: Root, spoil, line: str) -> None:
    spoil(root)
    with pytest.raises(SystemExit, match=line) as error:
        root.run()
    assert "\n" not in str(error.value)
    assert not root.output.exists() and not list(root.output.parent.glob("*fit*"))


@pytest.mark.parametrize(("flags", "line"), [
    (["--score", "missed"], "--score must be one of f1, f1_dice, .*, got 'missed'"),
    (["--max-bins", "0"], "--max-bins must be at least 1, got 0"),
    (["--minimum-size", "-1"], "--minimum-size must be 0 mL or more, got -1"),
    (["--threshold", "0"], "--threshold must be above 0 and at most 1, got 0"),
    (["-f", "0", "0"], "-f has 0 twice"),
    (["--trainers", "A", "A"], "--trainers has A twice"),
    (["-o", "fit.txt"], "-o fit.txt must be a file that ends in .json"),
])  # fmt: skip
def test_bad_flags_end_with_one_line(root: Root, flags: list[str], line: str) -> None:
    with pytest.raises(SystemExit, match=line):
        root.run(*flags)
