from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from evaluated import evaluate_masks, write_masks
from geometry import Box, paint

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.comparing.evaluated_models import read_models
from nnunet_instance_trainers.evaluation.report.case_images import CaseLoader

SHAPE = (8, 10, 12)
FOUND, MISSED, FALSE = Box((1, 1, 1), (3, 4, 5)), Box((5, 6, 7), (7, 9, 10)), Box((1, 6, 1), (2, 9, 4))


def boxes(*items: Box) -> np.ndarray:
    return (paint(SHAPE, items) > 0).numpy()


def shows(loader: CaseLoader, mask: np.ndarray) -> bool:
    planes = loader.view(loader.models[0]).codes
    return all(((plane > 0) == mask.any(along)).all() for along, plane in enumerate(planes))


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    prediction = boxes(FOUND, FALSE)
    return evaluate_masks(tmp_path, {"case.1": boxes(FOUND, MISSED)}, {"A": {"case.1": prediction}}, ".nii.gz")


def test_masks_are_found_again_and_give_the_counts_of_the_table(folders: list[Path]) -> None:
    """The case's name has a dot, which must not be taken for the ending."""
    loader = CaseLoader(read_models(folders), "case.1")
    one = loader.view(loader.models[0])
    assert one.counts == {"found": 1, "missed": 1, "false": 1}
    assert [plane.shape for plane in one.codes] == [(10, 12), (8, 12), (8, 10)]
    assert loader.spacing == [1, 1, 1] and loader.image(None) is None


def test_a_case_that_begins_like_another_is_not_taken_for_it(tmp_path: Path) -> None:
    masks = {"case": boxes(FOUND), "case.1": boxes(MISSED)}
    folders = evaluate_masks(tmp_path, masks, {"A": masks}, ".nii.gz")
    for case, mask in masks.items():
        assert shows(CaseLoader(read_models(folders), case), mask)


def test_flat_images_lose_their_only_slice(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), int)
    mask[3:9, 3:9] = 1
    (folder,) = evaluate_masks(tmp_path, {"a": mask}, {"A": {"a": mask}}, ".png")
    write_masks(tmp_path / "images", {"a": 200 * mask}, ".png", "_0000")
    loader = CaseLoader(read_models([folder]), "a")
    assert loader.view(loader.models[0]).codes[0].shape == (20, 30) and loader.spacing == [1, 1]
    (image,) = loader.image(tmp_path / "images")
    assert (image == 200 * mask).all()


def test_the_ignore_label_and_annotators_maps_are_heeded(tmp_path: Path) -> None:
    from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate

    mask, prediction = np.zeros((12, 12), int), np.zeros((12, 12), int)
    mask[2:5, 2:8], mask[8:, :] = 1, 2  # two touching objects, and a zone of ignored voxels
    prediction[2:5, 2:5], prediction[9:, :] = 1, 1
    ids = np.zeros_like(mask)
    ids[2:5, 2:5], ids[2:5, 5:8] = 1, 2
    for name, array in (("labelsTs", mask), ("instancesTs", ids), ("masks", prediction)):
        write_masks(tmp_path / name, {"a": array}, ".png")
    content = '{"labels": {"background": 0, "cell": 1, "ignore": 2}, "file_ending": ".png"}'
    (tmp_path / "dataset.json").write_text(content)
    evaluate(tmp_path / "masks", tmp_path / "labelsTs", tmp_path / "A", instances=tmp_path / "instancesTs")
    loader = CaseLoader(read_models([tmp_path / "A"]), "a")
    one = loader.view(loader.models[0])
    assert one.counts == {"found": 1, "missed": 1, "false": 0}


@pytest.mark.parametrize("axes, flips", [((0, 1, 2), (0, 0, 0)), ((0, 1, 2), (1, 1, 0)), ((1, 2, 0), (0, 1, 1))])
def test_however_the_file_lies_the_patient_lies_the_same(tmp_path: Path, axes: tuple, flips: tuple) -> None:
    """Images that hold one patient in other axes lead to one array: up, back, left."""
    standard = SimpleITK.GetImageFromArray(boxes(FOUND, MISSED).astype(np.uint8))  # identity: left, back, up
    standard.SetSpacing((1.0, 2.0, 3.0))
    moved = SimpleITK.PermuteAxes(standard, axes)
    moved = SimpleITK.Flip(moved, [bool(flip) for flip in flips])
    for folder in ("labelsTs", "A_masks"):
        (tmp_path / folder).mkdir()
        SimpleITK.WriteImage(moved, str(tmp_path / folder / "a.nii.gz"))
    content = '{"labels": {"background": 0, "cell": 1}, "file_ending": ".nii.gz"}'
    (tmp_path / "dataset.json").write_text(content)
    from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate

    evaluate(tmp_path / "A_masks", tmp_path / "labelsTs", tmp_path / "A")
    loader = CaseLoader(read_models([tmp_path / "A"]), "a")
    assert shows(loader, boxes(FOUND, MISSED))
    assert loader.spacing == pytest.approx([3, 2, 1])


@pytest.mark.parametrize("changed", ["A_masks", "labelsTs"])
def test_masks_that_changed_since_are_refused(folders: list[Path], changed: str) -> None:
    """Moved by a voxel they keep all counts and volumes."""
    file = folders[0].parent / changed / "case.1.nii.gz"
    moved = np.roll(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))), 1, 2)
    write_masks(file.parent, {"case.1": moved}, ".nii.gz")
    with pytest.raises(UserError, match=rf"case 'case.1': {file} is not the file that A was evaluated with: run 'eval"):
        shows(CaseLoader(read_models(folders), "case.1"), moved)


def test_a_folder_from_before_digests_is_evaluated_again(folders: list[Path]) -> None:
    file = folders[0] / "summary.json"
    file.write_text(file.read_text().replace('"sha256"', '"other"'))
    with pytest.raises(UserError, match="is not the file that A was evaluated with: run 'evaluate' again"):
        CaseLoader(read_models(folders), "case.1")


def test_masks_that_are_gone_are_named(folders: list[Path]) -> None:
    file = folders[0].parent / "A_masks" / "case.1.nii.gz"
    file.unlink()
    with pytest.raises(UserError, match=rf"{file} is gone, .* put it back, or run 'evaluate' again"):
        shows(CaseLoader(read_models(folders), "case.1"), boxes())


def test_images_must_be_there_and_fit(folders: list[Path], tmp_path: Path) -> None:
    loader = CaseLoader(read_models(folders), "case.1")
    with pytest.raises(UserError, match=r"has no case\.1_0000\.nii\.gz: give the folder"):
        loader.image(tmp_path)
    write_masks(tmp_path / "images", {"case.1": np.zeros((8, 10, 11))}, ".nii.gz", "_0000")
    with pytest.raises(UserError, match="differs from its ground truth in size: 11 x 10 x 8 against 12 x 10 x 8"):
        loader.image(tmp_path / "images")


def test_an_image_that_lies_otherwise_is_refused_and_not_drawn_mirrored(folders: list[Path], tmp_path: Path) -> None:
    image = SimpleITK.Flip(SimpleITK.GetImageFromArray(boxes(FOUND).astype(np.float32)), [True, False, False])
    (tmp_path / "images").mkdir()
    SimpleITK.WriteImage(image, str(tmp_path / "images" / "case.1_0000.nii.gz"))
    with pytest.raises(UserError, match=r"case\.1_0000\.nii\.gz differs from its ground truth in direction: \(-1, 0"):
        CaseLoader(read_models(folders), "case.1").image(tmp_path / "images")


@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_drawn_as_the_darkest(folders: list[Path], tmp_path: Path, what: float) -> None:
    dataset = folders[0].parent / "dataset.json"
    content = {**json.loads(dataset.read_text()), "overwrite_image_reader_writer": "NibabelIO"}  # SimpleITK sets 0
    dataset.write_text(json.dumps(content))
    grey = 7 + np.random.default_rng(0).random(SHAPE)
    grey[:, :, :3] = what
    image = SimpleITK.GetImageFromArray(grey.astype(np.float32))
    (tmp_path / "images").mkdir()
    SimpleITK.WriteImage(image, str(tmp_path / "images" / "case.1_0000.nii.gz"))
    axial, *_ = CaseLoader(read_models(folders), "case.1").image(tmp_path / "images")
    assert (
        (axial[:, :3] == axial.min()).all()
        and axial.min() >= 7
        and axial[:, 3:] == pytest.approx(grey[:, :, 3:].max(0), rel=1e-6)
    )
