from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from evaluated import write_masks

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.evaluation.detection import Rule, detect
from nnunet_instance_trainers.evaluation.overlays import Overlay, overlays_folder, write_names


def row(*pieces: tuple[int, int, int]) -> np.ndarray:
    """(1, 1, 20) with values in ranges."""
    line = np.zeros((1, 1, 20), np.uint8)
    for low, high, value in pieces:
        line[..., low:high] = value
    return line


TARGET = row((0, 4, 1), (6, 9, 2), (12, 16, 3))
PREDICTION = row((2, 5, 1), (10, 11, 1), (12, 20, 1)) > 0


def painted(rule: Rule) -> str:
    overlay = Overlay((1, 1, 20), 1)
    overlay.add(0, (slice(None),) * 3, detect(TARGET, PREDICTION, rule=rule))
    return "".join(map(str, overlay.image.ravel()))


def test_each_voxel_says_what_became_of_its_object() -> None:
    #                       instances 11110022200033330000, components ..111.....1.11111111
    assert painted(Rule()) == "11553022204055553333"
    # with IoU 0.5 the first pair (2 of 5) fails, and the last one (4 of 8) holds
    assert painted(Rule("iou", 0.5)) == "22224022204055553333"


def test_classes_have_values_of_their_own_and_later_ones_are_on_top() -> None:
    overlay = Overlay((1, 1, 20), 60)
    assert overlay.image.dtype == np.uint16
    box = (slice(0, 1), slice(0, 1), slice(4, 12))
    overlay.add(1, box, detect(TARGET[box], PREDICTION[box]))
    expected = row((4, 5, 9), (6, 9, 7), (10, 11, 9))
    assert (overlay.image == expected).all()
    overlay.add(59, (slice(None),) * 3, detect(row((6, 9, 1)), PREDICTION & False))
    assert (overlay.image == np.where(row((6, 9, 1)) > 0, 297, expected.astype(int))).all()


@pytest.mark.parametrize("classes", [["cell"], ["cell", 'a "b" c']])
def test_names_are_as_the_viewers_read_them(tmp_path: Path, classes: list[str]) -> None:
    write_names(tmp_path, classes)
    states = ["found", "missed", "hit", "false", "found and hit"]
    names = states if len(classes) == 1 else [f"{s} {c}" for c in ("cell", "a 'b' c") for s in states]
    # as ITK-SNAP reads a line: seven numbers, and the name in quotation marks
    lines = [line for line in (tmp_path / "itksnap_labels.txt").read_text().splitlines() if line[0] != "#"]
    read = [re.fullmatch(r'(\d+) (\d+) (\d+) (\d+) ([\d.]+) ([01]) ([01]) "([^"]*)"', line).groups() for line in lines]
    assert [(int(r[0]), r[-1]) for r in read] == [(0, "Clear Label"), *enumerate(names, start=1)]
    # as Slicer reads a line: six words
    lines = (tmp_path / "slicer_colors.ctbl").read_text().splitlines()
    assert lines[0].startswith("# Color table file") and lines[1] == f"# {len(names) + 1} values"
    words = [line.split() for line in lines[2:]]
    assert {len(line) for line in words} == {6} and [int(line[0]) for line in words] == list(range(len(names) + 1))
    assert [line[1].replace("_", " ") for line in words[1:]] == [name.replace("'", '"') for name in names]
    assert [line[2:5] for line in words] == [list(r[1:4]) for r in read]
    assert all(0 <= int(value) <= 255 for line in words for value in line[2:])
    assert len({tuple(line[2:5]) for line in words}) == 6


def test_a_folder_of_overlays_is_whole_or_not_there(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    with pytest.raises(KeyboardInterrupt), overlays_folder(output, True) as folder:
        (folder / "a").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    for names in (["a", "slicer_colors.ctbl"], ["b", "slicer_colors.ctbl"]):
        with overlays_folder(output, True) as folder:
            output.mkdir(exist_ok=True)
            for name in names:
                (folder / name).touch()
        assert sorted(path.name for path in (output / "overlays").iterdir()) == names
    with overlays_folder(output, False) as folder:
        assert folder is None
    assert list(output.iterdir()) == []


@pytest.mark.nnunet
def test_evaluate_writes_them_on_the_grid_of_the_case(tmp_path: Path) -> None:
    for name, image in (("labelsTs", TARGET > 0), ("PRED", PREDICTION)):
        write_masks(tmp_path / name, {"a": np.repeat(image, 4, 1)}, ".nii.gz")
        image = sitk.ReadImage(str(tmp_path / name / "a.nii.gz"))
        image.SetSpacing((0.5, 2, 3))
        image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        sitk.WriteImage(image, str(tmp_path / name / "a.nii.gz"))
    dataset = {"labels": {"background": 0, "cell": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    words = ["evaluate", "-i", tmp_path / "PRED", "-g", tmp_path / "labelsTs", "-o", tmp_path / "out", "-np", 1]
    cli.main([str(word) for word in (*words, "--overlays")])
    written = sitk.ReadImage(str(tmp_path / "out" / "overlays" / "a.nii.gz"))
    for part in ("GetSpacing", "GetDirection", "GetOrigin", "GetSize"):
        assert getattr(written, part)() == getattr(image, part)()
    values = sitk.GetArrayFromImage(written)
    assert "".join(map(str, values[0, 2])) == painted(Rule()) and (values == values[:, :1]).all()
    assert sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir()) == [
        "a.nii.gz",
        "itksnap_labels.txt",
        "slicer_colors.ctbl",
    ]
    (tmp_path / "PRED" / "a.nii.gz").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit):
        cli.main([str(word) for word in (*words[:6], tmp_path / "other", "--overlays")])
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "mine" / "overlays").mkdir(parents=True)
    with pytest.raises(SystemExit, match="was not written by 'evaluate --overlays'"):
        cli.main([str(word) for word in (*words[:6], tmp_path / "mine", "--overlays")])
