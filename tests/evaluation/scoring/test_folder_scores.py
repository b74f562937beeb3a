from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from geometry import random_labels
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage import io

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.data.case_workers import over_cases
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation import Counts, Rule, detect
from nnunet_instance_trainers.evaluation.detection import OVERLAP
from nnunet_instance_trainers.evaluation.froc import find_candidates, froc
from nnunet_instance_trainers.evaluation.object_surfaces import class_surfaces, instance_surfaces
from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate, format_table, read_evaluation
from nnunet_instance_trainers.evaluation.surfaces import surface_columns
from nnunet_instance_trainers.instances import label_components

pytestmark = pytest.mark.nnunet

SHAPE, SPACING = (7, 12, 9), (3.0, 0.5, 0.8)  # as arrays have it, slices first
VOXEL_ML = 3.0 * 0.5 * 0.8 / 1000
LABELS = {"background": 0, "lesion": 1, "organ": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
CASES = ("a", "b", "c")


class Folders:
    """Predictions, ground truth and instance maps of one small dataset."""

    def __init__(self, root: Path, labels: dict, ending: str = ".nii.gz", **more: object) -> None:
        self.predictions, self.truth, self.maps = root / "predictions", root / "labelsTs", root / "instancesTs"
        self.output, self.ending = root / "scores", ending
        for folder in (self.predictions, self.truth, self.maps):
            folder.mkdir()
        (root / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending, **more}))

    def write(self, folder: Path, case: str, image: np.ndarray, spacing: tuple[float, ...] = SPACING) -> None:
        file = folder / f"{case}{self.ending}"
        if self.ending == ".png":
            io.imsave(file, image.astype(np.uint8), check_contrast=False)
            return
        volume = sitk.GetImageFromArray(image.astype(np.int16))
        volume.SetSpacing(spacing[::-1])
        sitk.WriteImage(volume, str(file))

    def evaluate(self, **options: object):
        return evaluate(self.predictions, self.truth, self.output, **options)


def images(case: str, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instances in a numbering with gaps, their labels, and a predicted label image. Case c has no target."""
    seed = CASES.index(case)
    drawn, others = (random_labels(shape, 5, seed + k, batch=1)[0].numpy() for k in (0, 50))
    instances = np.where(drawn > 0, 100 - 7 * drawn, 0) if case != "c" else np.zeros(shape, int)
    target = np.where(instances > 0, 1 + instances % 2, 0)
    prediction = np.where(others > 0, 1 + others % 2, np.where(drawn > 2, target, 0))
    return instances, target, prediction


def make(tmp_path: Path, labels: dict = LABELS, **more: object) -> Folders:
    folders = Folders(tmp_path, labels, **more)
    for case in CASES:
        instances, target, prediction = images(case)
        folders.write(folders.maps, case, instances)
        folders.write(folders.truth, case, target)
        folders.write(folders.predictions, case, prediction)
    return folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make(tmp_path)


def expected_counts(case: str, values: list[int], rule: Rule = OVERLAP, *, maps: bool = False) -> Counts:
    instances, target, prediction = images(case)
    mask = np.isin(target, values)
    ids = np.where(mask, instances, 0) if maps else label_components(mask)[0]
    return detect(ids, np.isin(prediction, values), rule=rule, voxel_ml=VOXEL_ML).counts


def row_of(rows: list[dict], **key: str) -> dict:
    (row,) = [row for row in rows if key.items() <= row.items()]
    return row


# --- what is scored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("rule", [Rule(), Rule("dice", 0.3)], ids=str)
def test_a_row_per_case_and_class(folders: Folders, rule: Rule, maps: bool) -> None:
    got = folders.evaluate(rule=rule, instances=folders.maps if maps else None)
    assert len(got.cases) == 6
    for case in CASES:
        for name, value in (("lesion", 1), ("organ", 2)):
            row = row_of(got.cases, case=case, **{"class": name})
            expected = expected_counts(case, [value], rule, maps=maps).scores()
            assert {key: row[key] for key in expected} == pytest.approx(expected, nan_ok=True)
    pooled = sum((expected_counts(case, [2], rule, maps=maps) for case in CASES), Counts())
    assert got.summary["pooled"]["2"]["f1"] == pytest.approx(pooled.f1)
    everything = sum((expected_counts(case, [v], rule, maps=maps) for case in CASES for v in (1, 2)), Counts())
    assert got.summary["pooled"]["foreground"]["lesion_dice"] == pytest.approx(everything.lesion_dice)


def test_an_object_at_an_edge_is_in_one_bin_in_every_table(tmp_path: Path) -> None:
    """A header holds 0.99999994 mm for 1 mm: ten such voxels are 0.01 mL, as ensembles have it."""
    folders = Folders(tmp_path, LABELS)
    image = np.zeros((4, 4, 14), int)
    image[2, 2, 2:12] = 1
    for case, spacing in (("one", 1.0), ("below", 0.99999994)):
        for folder in (folders.truth, folders.predictions):
            folders.write(folder, case, image, (1, 1, spacing))
    got = folders.evaluate(bins_ml=(0.01, 0.05))
    assert [row["bin"] for row in got.objects] == ["0.01-0.05"] * 4
    assert sum(row["instances"] for row in got.sizes if row["bin"] == "0.01-0.05") == 2


def test_regions_are_unions_of_labels(tmp_path: Path) -> None:
    folders = make(tmp_path, REGIONS, regions_class_order=[1, 2])
    got = folders.evaluate(instances=folders.maps)
    for case in CASES:
        for name, values in (("whole", [1, 2]), ("core", [2])):
            row = row_of(got.cases, case=case, **{"class": name})
            assert row["found"] == expected_counts(case, values, maps=True).found
            assert row["dice"] == pytest.approx(expected_counts(case, values).dice, nan_ok=True)
    assert list(got.summary["mean"]) == ["(1, 2)", "2"]
    assert got.summary["settings"]["classes"] == {"(1, 2)": "whole", "2": "core"}


def test_ignored_voxels_are_left_out_of_everything(tmp_path: Path) -> None:
    folders = make(tmp_path, {**LABELS, "ignore": 3})
    ignored = np.zeros(SHAPE, bool)
    ignored[:, :, 5:] = True
    for case in CASES:
        folders.write(folders.truth, case, np.where(ignored, 3, images(case)[1]))
    got = folders.evaluate()
    for case in CASES:
        _, target, prediction = images(case)
        ids = label_components((target == 1) & ~ignored)[0]
        counts = detect(ids, prediction == 1, valid=~ignored, voxel_ml=VOXEL_ML).counts
        row = row_of(got.cases, case=case, **{"class": "lesion"})
        assert {key: row[key] for key in counts.scores()} == pytest.approx(counts.scores(), nan_ok=True)
        assert row["target_ml"] == pytest.approx(((target == 1) & ~ignored).sum() * VOXEL_ML)


def test_an_instance_beside_ignored_voxels_that_nothing_meets_is_left_out(tmp_path: Path) -> None:
    """Whatever is cut away around the objects to save work."""
    folders = Folders(tmp_path, {"background": 0, "lesion": 1, "ignore": 2})
    target = np.zeros(SHAPE, int)
    target[3, 4:6, 4:6], target[3, :, 6], target[1, 9, 2] = 1, 2, 1
    folders.write(folders.truth, "a", target)
    folders.write(folders.predictions, "a", np.zeros(SHAPE))
    (row,) = folders.evaluate().cases
    assert (row["instances"], row["missed"]) == (1, 1)
    assert row["target_ml"] == pytest.approx(5 * VOXEL_ML)


def test_a_2d_image_is_a_millimetre_thick(tmp_path: Path) -> None:
    folders = Folders(tmp_path, {"background": 0, "cell": 1}, ".png")
    for case in CASES:
        _, target, prediction = (image > 0 for image in images(case, (20, 30)))
        folders.write(folders.truth, case, target)
        folders.write(folders.predictions, case, prediction)
        assert target.any() == (case != "c")
    got = folders.evaluate()
    for row in got.cases:
        assert row["target_ml"] == pytest.approx((images(row["case"], (20, 30))[1] > 0).sum() * 0.001)


def test_sizes_add_up_to_the_case(folders: Folders) -> None:
    got = folders.evaluate(bins_ml=[0.02, 0.05])
    for row in got.cases:
        bins = [r for r in got.sizes if (r["case"], r["class"]) == (row["case"], row["class"])]
        assert [r["bin"] for r in bins] == ["<0.02", "0.02-0.05", ">=0.05"]
        for name in ("instances", "components", "found", "missed", "hits", "false"):
            assert sum(r[name] for r in bins) == row[name]
    assert len({r["bin"] for r in got.sizes if r["instances"]}) > 1


@pytest.mark.parametrize("rule", [Rule(), Rule("iou", 0.2)], ids=str)
def test_a_row_per_object_that_agrees_with_the_counts(folders: Folders, rule: Rule) -> None:
    got = folders.evaluate(instances=folders.maps, rule=rule, bins_ml=[0.02, 0.05])
    states = {"found": "target", "missed": "target", "hit": "prediction", "false": "prediction"}
    for row in got.cases:
        objects = [o for o in got.objects if (o["case"], o["class"]) == (row["case"], row["class"])]
        assert all(states[o["state"]] == o["side"] for o in objects)
        for state, column in (("found", "found"), ("missed", "missed"), ("hit", "hits"), ("false", "false")):
            assert sum(o["state"] == state for o in objects) == row[column]
        targets = {str(o["id"]): o for o in objects if o["side"] == "target"}
        components = {str(o["id"]): o for o in objects if o["side"] == "prediction"}
        if targets:
            assert np.mean([o["dice"] for o in targets.values()]) == pytest.approx(row["lesion_dice"])
            assert {*targets} <= {str(i) for i in np.unique(images(row["case"])[0])}  # the annotators' own ids
        pairs = {(i, j) for i, o in targets.items() for j in o["matched_id"].split(";") if j}
        assert pairs == {(i, j) for j, o in components.items() for i in o["matched_id"].split(";") if i}
        for o in objects:
            assert bool(o["matched_id"]) == (o["state"] in ("found", "hit")) == (o["dice"] > 0)
            voxels = round(o["volume_ml"] / VOXEL_ML)
            assert o["bin"] == ("<0.02" if voxels <= 16 else "0.02-0.05" if voxels <= 41 else ">=0.05")
    assert {o["state"] for o in got.objects} == set(states)


def test_what_meets_several_names_them_all(tmp_path: Path) -> None:
    folders = Folders(tmp_path, {"background": 0, "lesion": 1})
    instances = np.zeros(SHAPE, int)
    instances[2, 2, 1:8] = [30, 30, 0, 12, 12, 12, 0]
    prediction = np.zeros(SHAPE, int)
    prediction[2, 2, 2:5] = 1
    folders.write(folders.maps, "a", instances)
    folders.write(folders.truth, "a", instances > 0)
    folders.write(folders.predictions, "a", prediction)
    seen = [
        (o["side"], o["id"], o["state"], o["matched_id"], round(o["dice"], 3))
        for o in folders.evaluate(instances=folders.maps).objects
    ]
    assert seen == [
        ("target", 12, "found", "1", round(2 / 6, 3)),
        ("target", 30, "found", "1", round(2 / 5, 3)),
        ("prediction", 1, "hit", "12;30", round(4 / 8, 3)),
    ]
    one_to_one = folders.evaluate(instances=folders.maps, rule=Rule("dice", 0.2)).objects
    assert [(o["id"], o["state"], o["matched_id"]) for o in one_to_one] == [
        (12, "missed", ""),
        (30, "found", "1"),
        (1, "hit", "30"),
    ]


def test_another_numbering_of_the_instances_changes_nothing_but_ids(folders: Folders) -> None:
    before = folders.evaluate(instances=folders.maps)
    for case in CASES:
        instances = images(case)[0]
        folders.write(folders.maps, case, np.where(instances > 0, 1000 - instances, 0))
    after = folders.evaluate(instances=folders.maps)
    for got in (before, after):
        for entry in got.summary["metric_per_case"]:
            del entry["sha256"]["instances"]
    assert repr((after.cases, after.sizes, after.summary)) == repr((before.cases, before.sizes, before.summary))
    key = ("case", "class", "side", "volume_ml", "state", "dice", "bin")
    a, b = (sorted(tuple(o[k] for k in key) for o in got.objects) for got in (before, after))
    assert a == b


def test_surfaces_of_classes_and_of_found_instances(tmp_path: Path) -> None:
    folders = make(tmp_path, {**LABELS, "ignore": 3})
    ignored = np.zeros(SHAPE, bool)
    ignored[:, :, 7:] = True
    for case in CASES:
        folders.write(folders.truth, case, np.where(ignored, 3, images(case)[1]))
    got = folders.evaluate(surfaces_mm=0.7)
    columns = list(surface_columns(0.7))
    for case in CASES:
        _, target, prediction = images(case)
        masks = [(image == 2) & ~ignored for image in (target, prediction)]
        row = row_of(got.cases, case=case, **{"class": "organ"})
        expected = class_surfaces(*masks, SPACING, 0.7)
        assert {name: row[name] for name in columns} == pytest.approx(expected, nan_ok=True)
        detection = detect(label_components(masks[0])[0], prediction == 2, valid=~ignored)
        own = [r for r in got.objects if (r["case"], r["class"], r["side"]) == (case, "organ", "target")]
        of_objects = instance_surfaces(detection, SPACING, 0.7)
        assert [r["assd_mm"] for r in own] == pytest.approx([s["assd_mm"] for s in of_objects], nan_ok=True)
    read = read_evaluation(folders.output)
    assert list(read.objects[0])[-4:] == list(read.cases[0])[-4:] == columns
    mean = np.nanmean([row["nsd_at_0.7_mm"] for row in got.cases if row["class"] == "organ"])
    assert read.summary["mean"]["2"]["nsd_at_0.7_mm"] == pytest.approx(mean)
    assert read.summary["settings"]["surfaces_mm"] == 0.7 and len({row["assd_mm"] for row in got.cases}) > 3


def test_pooled_are_the_numbers_of_cases_of_each_kind(folders: Folders) -> None:
    got = folders.evaluate()
    by_case = [sum((expected_counts(case, [value]) for value in (1, 2)), Counts()) for case in CASES]
    for name in ("cases_with_missed", "cases_all_missed", "cases_with_false", "cases_with_neither"):
        own = [row[name] for row in got.cases if row["class"] == "organ"]
        assert got.summary["pooled"]["2"][name] == sum(own)
        assert got.summary["mean"]["2"][name] == pytest.approx(np.mean(own))
        assert got.summary["pooled"]["foreground"][name] == sum(getattr(counts, name) for counts in by_case)
    assert got.summary["pooled"]["foreground"]["cases_with_false"] == 3


# --- files -------------------------------------------------------------------------------------------------


def test_the_summary_has_the_shape_of_nnunets(folders: Folders) -> None:
    folders.evaluate()
    ours = load_summary_json(str(folders.output / "summary.json"))
    assert set(ours["mean"]) == {1, 2}
    assert [Path(entry["reference_file"]).name for entry in ours["metric_per_case"]] == [
        "a.nii.gz",
        "b.nii.gz",
        "c.nii.gz",
    ]
    dices: dict[int, list[float]] = {1: [], 2: []}
    for entry in ours["metric_per_case"]:
        theirs = compute_metrics(entry["reference_file"], entry["prediction_file"], SimpleITKIO(), [1, 2])
        for label in (1, 2):
            dices[label].append(theirs["metrics"][label]["Dice"])
            assert entry["metrics"][label]["Dice"] == pytest.approx(dices[label][-1], nan_ok=True)
    for label in (1, 2):
        assert ours["mean"][label]["Dice"] == pytest.approx(np.nanmean(dices[label]))
        defined = [expected_counts(case, [label]).sensitivity for case in ("a", "b")]  # there is nothing to find in c
        assert ours["mean"][label]["sensitivity"] == pytest.approx(np.mean(defined))
    assert ours["foreground_mean"]["Dice"] == pytest.approx(np.mean([np.nanmean(dices[label]) for label in (1, 2)]))


def test_what_is_returned_is_what_is_read(folders: Folders) -> None:
    written, read = folders.evaluate(), read_evaluation(folders.output)
    assert repr(replace(written, cases=[], sizes=[], objects=[])) == repr(replace(read, cases=[], sizes=[], objects=[]))
    for name in ("cases", "sizes", "objects"):
        for a, b in zip(getattr(written, name), getattr(read, name), strict=True):
            assert list(a) == list(b)
            assert all(
                a[key] == b[key] if isinstance(a[key], str) else a[key] == pytest.approx(b[key], rel=1e-5, nan_ok=True)
                for key in a
            )
    assert {path.name for path in folders.output.iterdir()} == {"cases.csv", "sizes.csv", "objects.csv", "summary.json"}


def test_settings_say_how_it_was_made(folders: Folders) -> None:
    settings = folders.evaluate(rule=Rule("iou", 0.3), instances=folders.maps, bins_ml=[1, 2]).summary["settings"]
    assert (settings["match"], settings["threshold"], settings["bins_ml"]) == ("iou", 0.3, [1, 2])
    assert settings["predictions"] == str(folders.predictions)
    assert settings["instances"] == str(folders.maps)


def test_workers_find_the_same(folders: Folders) -> None:
    alone, together = folders.evaluate(), folders.evaluate(n_processes=2)
    assert repr(alone) == repr(together)


def test_a_killed_worker_is_one_line() -> None:
    """What kills it is ``exec``, which can be sent to a process that does not know this file."""
    with pytest.raises(UserError, match="a worker was killed, probably for want of memory: use a smaller -np"):
        list(over_cases(exec, "import os; os._exit(9)", [{}, {}], 2))  # type: ignore[list-item]


# --- FROC --------------------------------------------------------------------------------------------------


def probabilities(case: str, channels: int) -> np.ndarray:
    """(C, *S), high where the prediction is."""
    random = np.random.default_rng(CASES.index(case))
    p = random.uniform(0, 0.5, (channels, *SHAPE)).astype(np.float32)
    p[:, images(case)[2] > 0] += 0.5
    p *= random.uniform(size=p.shape) < 0.3
    if channels == 3:  # of labels, which exclude each other
        p[1:] /= np.maximum(p[1:].sum(0), 1)
        p[0] = 1 - p[1:].sum(0)
    return p


@pytest.mark.parametrize(
    "labels, channels, places",
    [(LABELS, 3, {"lesion": (1, [1]), "organ": (2, [2])}), (REGIONS, 2, {"whole": (0, [1, 2]), "core": (1, [2])})],
    ids=["labels", "regions"],
)
def test_froc_from_probabilities(tmp_path: Path, labels: dict, channels: int, places: dict) -> None:
    folders = make(tmp_path, labels, regions_class_order=[1, 2])
    for case in CASES:
        np.savez_compressed(folders.predictions / f"{case}.npz", probabilities=probabilities(case, channels))
    got = folders.evaluate(froc_threshold=0.3, instances=folders.maps)
    read = read_evaluation(folders.output)
    names = {name: key for key, name in got.summary["settings"]["classes"].items()}
    for name, (channel, values) in places.items():
        candidates = [
            find_candidates(
                np.where(np.isin(images(case)[1], values), images(case)[0], 0),
                probabilities(case, channels)[channel],
                threshold=0.3,
            )
            for case in CASES
        ]
        expected = froc(candidates)
        summary = read.summary["froc"][names[name]]
        assert summary["average_sensitivity"] == pytest.approx(expected.average)
        assert summary["average_sensitivity_interval"] == pytest.approx(expected.average_interval, nan_ok=True)
        assert list(summary["sensitivity_at"]) == ["0.125", "0.25", "0.5", "1", "2", "4", "8"]
        assert list(summary["sensitivity_at"].values()) == pytest.approx(expected.sensitivity)
        rows = [row for row in read.froc if row["class"] == name]
        assert [row["sensitivity"] for row in rows] == pytest.approx(expected.curve.sensitivity, rel=1e-5)
        assert len(rows) > 10
    assert "froc" not in folders.evaluate().summary
    assert not (folders.output / "froc.csv").exists()


# --- mistakes end with one line, and leave nothing ---------------------------------------------------------


def without(folder: str, *cases: str) -> Callable[[Folders], None]:
    return lambda f: [(getattr(f, folder) / f"{case}.nii.gz").unlink() for case in cases]  # type: ignore[return-value]


def replaced(folder: str, change: Callable[[np.ndarray], np.ndarray], **options: object) -> Callable[[Folders], None]:
    part = {"maps": 0, "truth": 1, "predictions": 2}[folder]
    return lambda f: f.write(getattr(f, folder), "b", change(images("b")[part]), **options)


def damaged(f: Folders) -> None:
    (f.predictions / "b.nii.gz").write_bytes(b"no image")


def one_more(f: Folders) -> None:
    f.write(f.predictions, "d", images("a")[2])


def own_summary(f: Folders) -> None:
    f.output.mkdir()
    (f.output / "summary.json").write_text('{"foreground_mean": {}}')


def dataset(content: str) -> Callable[[Folders], None]:
    return lambda f: (f.truth.parent / "dataset.json").write_text(content)  # type: ignore[return-value]


def background(ids: np.ndarray) -> np.ndarray:
    return np.where(np.cumsum(ids == 0).reshape(ids.shape) <= 2, 5, ids)


BAD = {
    "no folder": (lambda f: f.predictions.rename(f.output), [], "there is no folder {p}"),
    "empty folder": (without("predictions", *CASES), [], "{p} has no files that end in .nii.gz: give the folder"),
    "no prediction": (
        without("predictions", "b", "c"),
        [],
        "the prediction of case 'b' and of 1 more is missing in {p}: add it, or use --chill to score",
    ),
    "no ground truth": (one_more, [], "the ground truth of case 'd' is missing in {g}: add it"),
    "no instance map": (without("maps", "c"), ["--instances"], "the instance map of case 'c' is missing in {m}: add"),
    "shape": (
        replaced("predictions", lambda a: a[1:]),
        [],
        "in size: 9 x 12 x 6 against 9 x 12 x 7 voxels: save it",
    ),
    "spacing": (
        replaced("predictions", lambda a: a, spacing=(3.0, 0.5, 0.9)),
        [],
        "{p}/b.nii.gz differs from its ground truth in spacing: 0.9 x 0.5 x 3 against 0.8 x 0.5 x 3: save",
    ),
    "unknown label": (
        replaced("predictions", lambda a: a + 2),
        [],
        "{p}/b.nii.gz has label 3, which dataset.json does not know (it has 0, 1, 2): correct the file",
    ),
    "negative label": (replaced("truth", lambda a: a - 1), [], "{g}/b.nii.gz has label -1, which dataset.json"),
    "large label": (replaced("truth", lambda a: a * 9999), [], "{g}/b.nii.gz has label 9999, which dataset.json"),
    "unreadable": (damaged, [], "cannot read {p}/b.nii.gz ("),
    "map shape": (
        replaced("maps", lambda a: a[1:]),
        ["--instances"],
        "{m}/b.nii.gz differs from its ground truth in",
    ),
    "bare label": (
        replaced("maps", lambda a: np.where(a == a.max(), 0, a)),
        ["--instances"],
        "{m}/b.nii.gz has no id in ",
    ),
    "stray ids": (replaced("maps", background), ["--instances"], "{m}/b.nii.gz has ids in 2 voxels that its ground"),
    "no probabilities": (lambda f: None, ["--froc"], "{p} has no files that end in .npz"),
    "somebody's summary": (own_summary, [], "{o}/summary.json was not written by 'evaluate': give another folder"),
    "broken dataset.json": (dataset("{"), [], "dataset.json is no dataset.json of nnU-Net: give the right one"),
    "labels of no use": (dataset('{"labels": {"a": 1}, "file_ending": ".nii.gz"}'), [], "labels that nnU-Net refuses"),
    "no foreground": (dataset('{"labels": {"background": 0}, "file_ending": ".nii.gz"}'), [], "no foreground labels"),
    "no dataset.json": (
        lambda f: (f.truth.parent / "dataset.json").unlink(),
        [],
        "no dataset.json in {p} or beside {g}: give one with -djfile",
    ),
    "wrong -djfile": (lambda f: None, ["-djfile", "none.json"], "none.json is missing: give the dataset's"),
    "threshold": (lambda f: None, ["--threshold", "0"], "--threshold must be above 0 and at most 1, got 0"),
    "bins": (lambda f: None, ["--bins", "1", "0.5"], "--bins must be positive and ascending, got 1 0.5"),
    "froc threshold": (lambda f: None, ["--froc", "1"], "--froc takes a probability above 0 and below 1, got 1"),
    "tolerance": (lambda f: None, ["--surfaces", "0"], "--surfaces takes a tolerance above 0 mm, got 0"),
    "processes": (lambda f: None, ["-np", "0"], "-np must be at least 1, got 0"),
}


def run(folders: Folders, *options: str) -> None:
    more = [str(folders.maps) if option == "MAPS" else option for option in options]
    where = ["-i", str(folders.predictions), "-g", str(folders.truth), "-o", str(folders.output), "-np", "1"]
    cli.main(["evaluate", *where, *more])


@pytest.mark.parametrize("spoil, options, message", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(folders: Folders, spoil: Callable, options: list[str], message: str) -> None:
    spoil(folders)
    before = sorted(path for path in folders.output.glob("*"))
    if options == ["--instances"]:
        options = ["--instances", "MAPS"]
    with pytest.raises(SystemExit) as info:
        run(folders, *options)
    line = str(info.value.code)
    names = {"p": folders.predictions, "g": folders.truth, "m": folders.maps, "o": folders.output}
    assert message.format(**names) in line and "\n" not in line
    if "b.nii.gz" in message:
        assert line.startswith("nnunet-instance: error: case 'b': ")
    assert sorted(path for path in folders.output.glob("*")) == before


@pytest.mark.parametrize("content", [{"other": 1}, {"probabilities": np.zeros((3, 2, 2, 2))}, None])
def test_bad_probabilities_are_one_line(folders: Folders, content: dict | None) -> None:
    for case in CASES:
        file = folders.predictions / f"{case}.npz"
        np.savez(file, **content) if content else file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"case 'a': .*predict again with --save_probabilities"):
        folders.evaluate(froc_threshold=0.1)


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_with_what_belongs_together(folders: Folders, capsys: pytest.CaptureFixture) -> None:
    run(folders, "--instances", "MAPS", "--match", "dice", "--threshold", "0.3", "--bins", "0.01", "1")
    shown = capsys.readouterr().out
    written = read_evaluation(folders.output)
    assert format_table(written) in shown
    header, *rows = format_table(written).splitlines()
    assert [row.split()[0] for row in rows] == ["lesion", "organ", "all"]
    assert {"f1", "f1_iou50", "volume_ratio", "dice", "missed", "false"} <= set(header.split())
    for row, key in zip(rows, ("1", "2", "foreground")):
        assert (
            row.split()[header.split().index("volume_ratio")] == f"{written.summary['pooled'][key]['volume_ratio']:.3f}"
        )
    assert written.summary["settings"]["match"] == "dice" and written.summary["settings"]["bins_ml"] == [0.01, 1]


def test_surfaces_have_a_tolerance_of_1_mm_unless_another_is_given(folders: Folders) -> None:
    for options, column in (([], "nsd_at_1_mm"), (["0.5"], "nsd_at_0.5_mm")):
        run(folders, "--surfaces", *options)
        assert column in read_evaluation(folders.output).cases[0]
    run(folders)
    assert column not in read_evaluation(folders.output).cases[0]


def test_chill_scores_what_was_predicted(folders: Folders) -> None:
    (folders.predictions / "b.nii.gz").unlink()
    run(folders, "--chill")
    assert {row["case"] for row in read_evaluation(folders.output).cases} == {"a", "c"}


@pytest.mark.parametrize("place", ["predictions", "truth", "option"])
def test_dataset_json_is_found(folders: Folders, place: str) -> None:
    target = folders.output.with_name("mine.json") if place == "option" else getattr(folders, place) / "dataset.json"
    (folders.truth.parent / "dataset.json").rename(target)
    run(folders, *(["-djfile", str(target)] if place == "option" else []))
    assert len(read_evaluation(folders.output).cases) == 6


def test_files_of_nnunet_beside_the_predictions_do_not_matter(folders: Folders) -> None:
    (folders.predictions / "summary.json").write_text("{}")
    (folders.predictions / ".unfinished_x.nii.gz").write_bytes(b"")
    assert len(folders.evaluate().cases) == 6
