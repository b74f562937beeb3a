from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from geometry import random_labels

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.data.text_files import read_table
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES
from nnunet_instance_trainers.evaluation.challenges.folder_challenge import score_folder
from nnunet_instance_trainers.evaluation.challenges.mask_pair import MaskPair
from nnunet_instance_trainers.evaluation.challenges.results import read_result

pytestmark = pytest.mark.nnunet

SHAPE, SPACING = (7, 12, 9), (3.0, 0.5, 0.8)
KIDNEY = {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3}


class Folders:
    def __init__(self, root: Path, labels: dict) -> None:
        self.truth, self.predictions, self.output = root / "labelsTs", root / "predictions", root / "scores"
        self.maps = root / "maps"
        for folder in (self.truth, self.predictions, self.maps):
            folder.mkdir()
        (root / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))

    def write(self, folder: Path, case: str, image: np.ndarray) -> None:
        volume = sitk.GetImageFromArray(image.astype(np.int16))
        volume.SetSpacing(SPACING[::-1])
        sitk.WriteImage(volume, str(folder / f"{case}.nii.gz"))

    def score(self, name: str, **options: object):
        return score_folder(name, self.predictions, self.truth, self.output, **options)


def masks(case: str) -> tuple[np.ndarray, np.ndarray]:
    seed = "abc".index(case)
    target, prediction = (random_labels(SHAPE, 5, seed + k, batch=1)[0].numpy() > 0 for k in (0, 50))
    return (target, prediction) if case != "c" else (target, np.zeros_like(prediction))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path, {"background": 0, "lesion": 1})
    for case in "abc":
        for folder, mask in zip((made.truth, made.predictions), masks(case)):
            made.write(folder, case, mask)
    return made


@pytest.mark.parametrize("name", ["isles22", "autopet3", "msseg", "wmh2017", "brats-lesionwise-2023-met"])
def test_rows_are_the_scores_of_the_arrays(folders: Folders, name: str) -> None:
    rows = folders.score(name).rows
    assert [row["case"] for row in rows] == ["a", "b", "c"]
    for row in rows:
        expected = CHALLENGES[name].score(MaskPair.of(*masks(row["case"]), SPACING))
        assert {key: row[key] for key in expected} == pytest.approx(expected, nan_ok=True, rel=1e-6)


def test_files_say_what_they_equal_and_what_empty_cases_cost(folders: Folders) -> None:
    result = folders.score("isles22")
    read = read_result(folders.output)
    assert read.rows[0]["case"] == "a" and read.rows[0]["dice"] == pytest.approx(result.rows[0]["dice"], rel=1e-8)
    assert "31b7c8c2" in read.summary["equals"]
    own = read.summary["regions"]["lesion"]
    assert own["official"]["dice"] == pytest.approx(np.mean([row["dice"] for row in result.rows]))
    assert own["empty"]["prediction"]["cases"] == ["c"] and own["empty"]["prediction"]["official"]["dice"] == 0


def test_missing_cases_are_refused_or_their_cost_is_told(folders: Folders) -> None:
    (folders.predictions / "b.nii.gz").unlink()
    with pytest.raises(UserError, match="prediction of case 'b' is missing"):
        folders.score("isles22")
    assert not folders.output.exists()
    own = folders.score("isles22", subset=True).summary["regions"]["lesion"]
    assert own["missing"]["cases"] == ["b"]
    assert own["missing"]["official_if_they_were_empty"]["dice"] == pytest.approx(own["official"]["dice"] * 2 / 3)


def test_regions_of_the_challenge_replace_those_of_the_dataset(tmp_path: Path) -> None:
    folders = Folders(tmp_path, KIDNEY)
    image = np.zeros(SHAPE, int)
    image[1:4, 2:8, 2:7], image[2, 3:6, 3:5], image[3, 3, 3] = 1, 2, 3
    folders.write(folders.truth, "a", image)
    folders.write(folders.predictions, "a", np.where(image == 3, 1, image))
    dice = {row["region"]: row["dice"] for row in folders.score("kits23").rows}
    assert dice["kidney_and_mass"] == dice["tumor"] == 1 and dice["mass"] == pytest.approx(12 / 13)


def test_wmh2017_masks_label_2(tmp_path: Path) -> None:
    folders = Folders(tmp_path, {"background": 0, "WMH": 1})
    target = np.zeros(SHAPE, int)
    target[2, 2:4, 2:4], target[4, 6:9, 4:7] = 1, 2
    folders.write(folders.truth, "a", target)
    folders.write(folders.predictions, "a", target > 0)
    row = folders.score("wmh2017").rows[0]
    assert (row["dsc"], row["lesion_f1"]) == (1, 1)


def test_instance_maps_take_the_place_of_components(folders: Folders) -> None:
    for case in "abc":
        target, prediction = masks(case)
        folders.write(folders.maps, case, np.where(target, 1 + np.indices(SHAPE)[0], 0))
    plain = folders.score("isles22").rows[0]["absolute_lesion_difference"]
    target, prediction = masks("a")
    ids = np.where(target, 1 + np.indices(SHAPE)[0], 0)
    expected = CHALLENGES["isles22"].score(MaskPair.of(target, prediction, SPACING, (ids, None)))
    assert expected["absolute_lesion_difference"] != plain
    own = folders.score("isles22", instances=folders.maps).rows[0]
    assert own["absolute_lesion_difference"] == expected["absolute_lesion_difference"]


def rewritten(where: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Folders], None]:
    """Case b with another image."""

    def spoil(f: Folders) -> None:
        file = getattr(f, where) / "b.nii.gz"
        f.write(file.parent, "b", change(sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(int)))

    return spoil


def without(where: str, *cases: str) -> Callable[[Folders], None]:
    return lambda f: [(getattr(f, where) / f"{case}.nii.gz").unlink() for case in cases] and None


def without_spacing(f: Folders) -> None:
    """As nibabel reads it; of SimpleITK's mending nothing is left to see."""
    for folder in (f.truth, f.predictions):
        image = nibabel.load(folder / "b.nii.gz")
        data = bytearray(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine).to_bytes())
        data[84:88] = struct.pack("<f", np.nan)
        (folder / "b.nii.gz").write_bytes(gzip.compress(bytes(data)))
    file = f.truth.parent / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"overwrite_image_reader_writer": "NibabelIO"}))


def evaluated(f: Folders) -> None:
    f.output.mkdir()
    (f.output / "summary.json").write_text("{}")


def nothing(f: Folders) -> None:
    """The options are bad enough."""


BAD = {
    "unreadable": (lambda f: (f.predictions / "b.nii.gz").write_bytes(b"no image"), "isles22", [], "cannot read {p}/b"),
    "shape": (
        rewritten("predictions", lambda a: a[1:]),
        "isles22",
        [],
        "in size: 9 x 12 x 6 against 9 x 12 x 7 voxels",
    ),
    "label": (rewritten("predictions", lambda a: 7 * a), "isles22", [], "{p}/b.nii.gz has label 7, which dataset.json"),
    "masked label of another": (rewritten("truth", lambda a: 2 * a), "isles22", [], "{g}/b.nii.gz has label 2, which"),
    "spacing": (without_spacing, "msseg", [], "{g}/b.nii.gz says that a voxel has 0.8 x nan x 3 mm: correct"),
    "no prediction": (without("predictions", "b"), "isles22", [], "the prediction of case 'b' is missing in {p}"),
    "no ground truth": (without("truth", "b"), "isles22", [], "the ground truth of case 'b' is missing in {g}: add it"),
    "empty folder": (without("predictions", *"abc"), "isles22", [], "{p} has no files that end in .nii.gz"),
    "empty ground truth": (without("truth", *"abc"), "isles22", [], "{g} has no files that end in .nii.gz"),
    "no maps": (
        nothing,
        "dsb2018",
        [],
        "dsb2018 scores instance maps: give those of the ground truth with --instances",
    ),
    "a map too few": (
        without("maps", "b"),
        "ctc",
        ["--instances", "M"],
        "the instance map of case 'b' is missing in {m}",
    ),
    "a predicted map too few": (
        without("maps", "b"),
        "isles22",
        ["--predicted-instances", "M"],
        "'b' is missing in {m}",
    ),
    "bare label": (
        rewritten("maps", lambda a: np.where(a == a.max(), 0, a)),
        "conic",
        ["--instances", "M"],
        "{m}/b.nii.gz has no id in ",
    ),
    "ids off the label": (
        rewritten("maps", lambda a: np.where(a, a, 1)),
        "pannuke",
        ["--instances", "M"],
        "{m}/b.nii.gz has ids in ",
    ),
    "ids of the other side": (nothing, "isles22", ["--predicted-instances", "M"], "of its prediction: add them"),
    "maps of no use": (nothing, "brats-lesionwise-2024-gli", ["--instances", "M"], "leave --instances away"),
    "lacking labels": (nothing, "kits23", [], "no label 2, which kits23 scores"),
    "no dataset.json": (lambda f: (f.truth.parent / "dataset.json").unlink(), "isles22", [], "no dataset.json in {p}"),
    "an evaluation": (evaluated, "isles22", [], "{o} holds an evaluation: give another folder with -o"),
    "a file": (lambda f: f.output.write_text("x"), "isles22", [], "{o} is a file: give a folder with -o"),
    "processes": (nothing, "isles22", ["-np", "0"], "-np must be at least 1, got 0"),
}


@pytest.mark.parametrize("spoil, name, options, message", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_nothing_is_written(
    folders: Folders, spoil: Callable[[Folders], object], name: str, options: list[str], message: str
) -> None:
    for case in "abc":
        folders.write(folders.maps, case, np.where(masks(case)[0], 1 + np.indices(SHAPE)[0], 0))
    spoil(folders)
    before = sorted(folders.truth.parent.rglob("*"))
    where = ["-i", str(folders.predictions), "-g", str(folders.truth), "-o", str(folders.output)]
    more = [str(folders.maps) if option == "M" else option for option in options]
    with pytest.raises(SystemExit) as info:
        cli.main(["challenge", name, *where, *(["-np", "1"] if "-np" not in more else []), *more])
    names = {"p": folders.predictions, "g": folders.truth, "m": folders.maps, "o": folders.output}
    line = str(info.value.code)
    assert message.format(**names) in line and "\n" not in line
    assert sorted(folders.truth.parent.rglob("*")) == before


def test_command_scores_and_compares(folders: Folders, capsys: pytest.CaptureFixture) -> None:
    flags = ["-i", str(folders.predictions), "-g", str(folders.truth), "-np", "1"]
    cli.main(["challenge", "wmh2017", *flags, "-o", str(folders.output / "one")])
    assert "equals hjkuijf/wmhchallenge 2e628cb" in capsys.readouterr().out
    for case in "abc":
        folders.write(folders.predictions, case, masks(case)[0])
    cli.main(["challenge", "wmh2017", *flags, "-o", str(folders.output / "two")])
    models = [str(folders.output / "one"), str(folders.output / "two")]
    cli.main(["compare", *models, "-o", str(folders.output / "compared")])
    rows = read_table(folders.output / "compared" / "ranks.csv", "")
    assert [(row["model"], row["official"]) for row in rows] == [("one", "1"), ("two", "0")]
    cli.main(["challenge", "--list"])
    assert all(name in capsys.readouterr().out for name in ["wmh2017"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["challenge"], "NAME is missing"), (["challenge", "isles22"], "-i is missing")],
)
def test_command_asks_for_what_is_missing(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        cli.main(arguments)


def test_unknown_challenge() -> None:
    with pytest.raises(SystemExit, match="no challenge 'isles99'"):
        cli.main(["challenge", "isles99", "-i", "a", "-g", "b", "-o", "c"])
