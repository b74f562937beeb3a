"""Annotators' maps that fit their label, and the line for each that does not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from PIL import Image

from nnunet_instance_trainers.data.raw_files import RawFiles
from nnunet_instance_trainers.data.raw_instances import count_in_pieces, raw_instances, read_label
from nnunet_instance_trainers.errors import UserError

READER = NaturalImage2DIO()


def objects() -> np.ndarray:
    """Nine squares of 6 x 6 in 32 x 32, ids 1 to 9."""
    ids = np.zeros((32, 32), np.int32)
    for k in range(9):
        y, x = 1 + 10 * (k // 3), 1 + 10 * (k % 3)
        ids[y : y + 6, x : x + 6] = k + 1
    return ids


def save(values: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


@pytest.fixture
def files(tmp_path: Path) -> RawFiles:
    files = RawFiles(tmp_path / "gt", tmp_path / "raw", {"file_ending": ".png", "labels": {"background": 0, "a": 1}})
    mask = (objects() > 0).astype(np.uint8)
    for file in (files.kept_label("c"), tmp_path / "raw" / "labelsTr" / "c.png"):
        save(mask, file)
    save(objects().astype(np.uint16), tmp_path / "raw" / "instancesTr" / "c.png")
    return files


def read(files: RawFiles) -> tuple[list[np.ndarray], int]:
    label, geometry = read_label(files, READER, "c", "preprocess")
    return raw_instances(files, READER, "c", label, geometry, [label], "P")


def change_map(files: RawFiles, ids: np.ndarray, name: str = "c.png") -> None:
    assert files.annotated is not None
    (files.annotated / "c.png").unlink()
    save(ids, files.annotated / name)


def test_ids_are_those_of_the_annotators(files: RawFiles) -> None:
    (ids,), in_pieces = read(files)
    assert (ids == objects()[None]).all() and in_pieces == 0


def test_ids_of_several_pieces_are_counted(files: RawFiles) -> None:
    change_map(files, np.where(objects() > 0, objects() % 2 + 1, 0).astype(np.uint16))
    assert read(files)[1] == 2
    change_map(files, (objects() > 0).astype(np.uint8))  # a semantic mask
    assert read(files)[1] == 1
    assert count_in_pieces(np.zeros((4, 4), int)) == 0


def test_colours_are_no_ids(files: RawFiles) -> None:
    ids = objects().astype(np.uint8)
    change_map(files, np.stack((255 * (ids > 0), ids * 20, 0 * ids), -1).astype(np.uint8))
    with pytest.raises(UserError, match="case 'c': .*c.png has 3 channels that differ"):
        read(files)


def test_a_border_without_id_is_told_from_objects_without_one(files: RawFiles) -> None:
    ids = objects()
    inner = np.zeros_like(ids)
    for k in range(1, 10):
        y, x = np.argwhere(ids == k).min(0)
        inner[y + 1 : y + 5, x + 1 : x + 5] = k
    change_map(files, inner.astype(np.uint16))
    with pytest.raises(UserError, match="no id in 180 foreground voxels, 180 of them beside an object: .* border"):
        read(files)
    change_map(files, np.where(ids == 9, 0, ids).astype(np.uint16))
    with pytest.raises(UserError, match="no id in 36 foreground voxels; else add the objects, .* of plans 'P'") as info:
        read(files)
    assert "are its border" not in str(info.value)


def test_a_map_of_another_ending_is_seen(files: RawFiles) -> None:
    change_map(files, objects().astype(np.uint16), "c.tif")
    with pytest.raises(UserError, match="c.png is missing; c.tif is there, but maps end as labels do"):
        read(files)


def test_ids_that_overflowed_are_called_so(files: RawFiles) -> None:
    class Overflowing(NaturalImage2DIO):
        def read_seg(self, seg_fname: str) -> tuple:
            values, geometry = super().read_seg(seg_fname)
            return (-values if "instancesTr" in seg_fname else values), geometry

    label, geometry = read_label(files, READER, "c", "preprocess")
    with pytest.raises(UserError, match="ids below 0 in 324 voxels, down to -9: they overflowed"):
        raw_instances(files, Overflowing(), "c", label, geometry, [label], "P")


# --- the label -----------------------------------------------------------------------------------------------


def test_a_label_that_nnunet_has_not_copied_again_is_named_with_its_copy(files: RawFiles) -> None:
    label = files.label("c")
    assert label is not None
    save(np.zeros((32, 32), np.uint8), label)
    kept = files.kept_label("c")
    os.utime(kept, (1e9, 1e9))
    with pytest.raises(UserError, match=f"{kept}, differ; the file in gt is older: run 'preprocess'"):
        read(files)
    os.utime(label, (9e8, 9e8))  # unpacked with the dates of long ago
    with pytest.raises(UserError, match=f"labelsTr is older: delete {kept}, for nnU-Net copies only newer .*'prep"):
        read(files)


def test_a_label_that_was_only_saved_anew_is_the_same(files: RawFiles) -> None:
    label = files.label("c")
    assert label is not None
    Image.open(label).save(label, compress_level=0)
    assert label.read_bytes() != files.kept_label("c").read_bytes()
    assert (read(files)[0][0] == objects()[None]).all()


def test_a_copy_that_is_gone_is_named_with_the_command(files: RawFiles) -> None:
    files.kept_label("c").unlink()
    with pytest.raises(UserError, match=f"case 'c': {files.kept_label('c')} is missing: run 'preprocess'"):
        read(files)
