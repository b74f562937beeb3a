"""Maps that a training may use, and those that stop it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_instance_trainers.data.map_checks import is_current, verify
from nnunet_instance_trainers.data.map_store import (
    CaseRecord,
    Manifest,
    digest,
    map_file,
    maps_folder,
    segmentation_file,
    table_file,
)
from nnunet_instance_trainers.data.raw_files import RawFiles
from nnunet_instance_trainers.errors import UserError

REMEDY = "nnunet-instance precompute -d 27 -c 2d -p nnUNetPlans"
PREPROCESS = "nnUNetv2_preprocess -d 27 -plans_name nnUNetPlans -c 2d"
CASES = ["case_a", "case_b", "case_c"]


@pytest.fixture
def files(tmp_path: Path) -> RawFiles:
    """Labels, nnU-Net's copies and annotators' maps of three cases."""
    files = RawFiles(tmp_path / "gt_segmentations", tmp_path / "raw", {"file_ending": ".png"})
    for folder in (files.ground_truth, tmp_path / "raw" / "labelsTr", tmp_path / "raw" / "instancesTr"):
        folder.mkdir(parents=True)
        for case in CASES:
            kind = "ids" if folder.name == "instancesTr" else "label"
            (folder / files.name(case)).write_text(f"{kind} of {case}")
    return files


@pytest.fixture
def preprocessed(tmp_path: Path, files: RawFiles) -> Path:
    """Three cases with maps and a manifest for channels 1 and 2; what is inside the files does not matter here."""
    folder = tmp_path / "nnUNetPlans_2d"
    maps = maps_folder(folder)
    folder.mkdir()
    maps.mkdir()
    records = {}
    for case in CASES:
        made = segmentation_file(folder, case), map_file(maps, case), table_file(maps, case)
        for file in made:
            file.write_bytes(f"{file.name} {'x' * 100}".encode())
        records[case] = CaseRecord(*map(digest, made), " ".join(files.sources(case).values()), found=5, lost=1)
    Manifest("instancesTr", (1, 2), False, records).write(maps)
    return folder


def check(preprocessed: Path, files: RawFiles, cases: list[str] = CASES, channels: tuple = (1, 2)) -> None:
    verify(preprocessed, cases, channels, files, REMEDY, PREPROCESS)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def strike(preprocessed: Path, case: str) -> None:
    manifest = Manifest.read(maps_folder(preprocessed))
    assert manifest is not None
    del manifest.cases[case]
    manifest.write(maps_folder(preprocessed))


DAMAGES = {
    "map gone": (lambda p, case: map_file(maps_folder(p), case).unlink(), "its instance map is missing"),
    "table gone": (lambda p, case: table_file(maps_folder(p), case).unlink(), "its instance map is missing"),
    "not in the manifest": (strike, "its instance map is missing"),
    "segmentation gone": (
        lambda p, case: segmentation_file(p, case).unlink(),
        "its preprocessed segmentation is missing",
    ),
    "other segmentation": (
        lambda p, case: flip_a_bit(segmentation_file(p, case)),
        "its instance map is older than its preprocessed segmentation",
    ),
    "map truncated": (lambda p, case: truncate(map_file(maps_folder(p), case)), "its instance map is damaged"),
    "map flipped": (lambda p, case: flip_a_bit(map_file(maps_folder(p), case)), "its instance map is damaged"),
    "table truncated": (lambda p, case: truncate(table_file(maps_folder(p), case)), "its instance map is damaged"),
    "table flipped": (lambda p, case: flip_a_bit(table_file(maps_folder(p), case)), "its instance map is damaged"),
}


@pytest.mark.parametrize("damage, problem", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damage_names_the_case_the_problem_and_the_remedy(
    preprocessed: Path, files: RawFiles, damage: Callable, problem: str
) -> None:
    damage(preprocessed, "case_b")
    with pytest.raises(UserError) as info:
        check(preprocessed, files)
    assert str(info.value) == f"case 'case_b': {problem}: run '{REMEDY}'"
    manifest = Manifest.read(maps_folder(preprocessed))
    assert [is_current(manifest, preprocessed, case, files) for case in CASES] == [True, False, True]
    check(preprocessed, files, ["case_a", "case_c"])  # what the training does not read does not matter


@pytest.mark.parametrize("channels", [(), (1,), (2, 1)])
def test_whole_maps_pass(preprocessed: Path, files: RawFiles, channels: tuple) -> None:
    check(preprocessed, files, channels=channels)
    check(preprocessed, replace(files, raw=None), channels=channels)  # raw data need not be on this machine


def test_no_maps_at_all(preprocessed: Path, files: RawFiles) -> None:
    folder = maps_folder(preprocessed)
    Manifest.file(folder).unlink()
    with pytest.raises(UserError, match=re.escape(f"no instance maps in {folder}: run '{REMEDY}'")):
        check(preprocessed, files)
    assert not is_current(None, preprocessed, "case_a", files)


def test_maps_made_without_a_class_of_the_training(preprocessed: Path, files: RawFiles) -> None:
    with pytest.raises(UserError, match=f"were made without class 3: run '{REMEDY}'"):
        check(preprocessed, files, channels=(1, 4, 3))


# --- what the maps were made of -----------------------------------------------------------------------------


def test_ids_that_were_corrected_after_the_maps_were_made_stop_the_training(
    preprocessed: Path, files: RawFiles
) -> None:
    assert files.annotated is not None
    file = files.annotated / "case_b.png"
    file.write_text("corrected")
    line = re.escape(f"case 'case_b': {file} changed after its instance map was made: run '{REMEDY}'")
    with pytest.raises(UserError, match=line):
        check(preprocessed, files)
    manifest = Manifest.read(maps_folder(preprocessed))
    assert [is_current(manifest, preprocessed, case, files) for case in CASES] == [True, False, True]


def test_a_label_that_was_copied_again_needs_preprocessing_first(preprocessed: Path, files: RawFiles) -> None:
    files.kept_label("case_c").write_text("corrected")
    with pytest.raises(UserError, match=f"is newer than its instance map: run '{PREPROCESS}', then '{REMEDY}'"):
        check(preprocessed, files)


def test_annotators_maps_that_came_after_maps_of_components_stop_the_training(
    preprocessed: Path, files: RawFiles
) -> None:
    folder = maps_folder(preprocessed)
    manifest = Manifest.read(folder)
    assert manifest is not None
    replace(manifest, origin="components").write(folder)
    with pytest.raises(UserError, match=f"made from components, and {files.annotated} is there now: run '{REMEDY}'"):
        check(preprocessed, files)
    check(preprocessed, replace(files, raw=None))
