from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest

from nnunet_instance_trainers.data.map_store import (
    CaseRecord,
    Manifest,
    decode_map,
    digest,
    map_file,
    maps_folder,
    remove_unfinished,
    segmentation_file,
    table_file,
    write_atomically,
    write_map,
)
from nnunet_instance_trainers.errors import UserError

CASES = ["case_a", "case_b", "case_c"]


@pytest.fixture
def preprocessed(tmp_path: Path) -> Path:
    """Three cases with maps and a manifest for channels 1 and 2; what is inside the files does not matter here."""
    folder = tmp_path / "nnUNetPlans_2d"
    maps = maps_folder(folder)
    folder.mkdir()
    maps.mkdir()
    records = {}
    for case in CASES:
        files = segmentation_file(folder, case), map_file(maps, case), table_file(maps, case)
        for file in files:
            file.write_bytes(f"{file.name} {'x' * 100}".encode())
        records[case] = CaseRecord(*map(digest, files), "raw", found=5, lost=1)
    Manifest("instancesTr", (1, 2), False, records).write(maps)
    return folder


def test_maps_lie_beside_the_cases_and_not_among_them(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset027" / "nnUNetPlans_3d"
    assert maps_folder(folder) == maps_folder(str(folder)) == tmp_path / "Dataset027" / "nnUNetPlans_3d_instances"


# --- atomic writing ---------------------------------------------------------------------------------------


def test_success_leaves_only_the_final_name(tmp_path: Path) -> None:
    file = tmp_path / "table.npz"
    for text in ("old", "new"):
        with write_atomically(file) as temporary:
            temporary.write_text(text)
        assert (file.read_text(), list(tmp_path.iterdir())) == (text, [file])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path, old: str | None, error: type) -> None:
    file = tmp_path / "table.npz"
    if old is not None:
        file.write_text(old)
    with pytest.raises(error), write_atomically(file) as temporary:
        temporary.write_text("half a ta")
        raise error
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_failure_before_the_first_byte_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the cause"), write_atomically(tmp_path / "table.npz"):
        raise ValueError("the cause")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_the_old_content(small_disk: Path) -> None:
    file = small_disk / "table.npz"
    file.write_text("old")
    says = f"cannot write to {file} \\(No space left on device\\): make room"
    with pytest.raises(UserError, match=says), write_atomically(file) as temporary:
        temporary.write_bytes(bytes(10**7))
    assert [path.read_text() for path in small_disk.iterdir()] == ["old"]


def test_a_map_that_does_not_fit_on_the_disk_is_one_line(small_disk: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2**32, (1, 100, 100, 100), dtype=np.uint32)
    segmentation = blosc2.zeros(ids.shape, dtype=np.int16, chunks=ids.shape, blocks=ids.shape)
    with pytest.raises(UserError, match="case_a.b2nd .No space left on device"):
        write_map(small_disk / "case_a.b2nd", ids, segmentation)
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("place", ["missing/table.npz", "file/table.npz"])
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    says = f"cannot write to {tmp_path / place} "
    with pytest.raises(UserError, match=says), write_atomically(tmp_path / place) as temporary:
        temporary.write_text("new")


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "case_a.b2nd") as temporary:
        temporary.touch()
    temporary.touch()
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["case_a.b2nd"]


def test_the_temporary_name_is_hidden_and_keeps_the_ending(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "case_a.b2nd") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".") and temporary.suffix == ".b2nd"
        temporary.touch()


# --- maps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, chunks, blocks", [((9, 8, 7), (4, 8, 5), (2, 4, 3)), ((1, 16, 13), (1, 8, 8), (1, 4, 8))]
)
def test_a_map_returns_its_ids_in_the_chunks_of_the_segmentation(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], blocks: tuple[int, ...]
) -> None:
    segmentation = blosc2.zeros((1, *shape), dtype=np.int16, chunks=(1, *chunks), blocks=(1, *blocks))
    ids = np.random.default_rng(1).integers(0, 2**32, (2, *shape), dtype=np.uint32)
    file = tmp_path / "case_a.b2nd"
    write_map(file, ids, segmentation)
    back = blosc2.open(str(file), mode="r")
    assert (back.dtype, back.chunks, back.blocks) == (np.uint32, (1, *chunks), (1, *blocks))
    np.testing.assert_array_equal(back[:], ids)
    assert list(tmp_path.iterdir()) == [file]


def test_any_integer_type_and_memory_order_will_do(tmp_path: Path) -> None:
    segmentation = blosc2.zeros((1, 6, 5), dtype=np.int16)
    ids = np.arange(30, dtype=np.int16).reshape(1, 5, 6).transpose(0, 2, 1)
    write_map(tmp_path / "case_a.b2nd", ids, segmentation)
    np.testing.assert_array_equal(blosc2.open(str(tmp_path / "case_a.b2nd"), mode="r")[:], ids)


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    file, segmentation = tmp_path / "case_a.b2nd", blosc2.zeros((1, 6, 5), dtype=np.int16)
    with write_atomically(file) as temporary:
        temporary.touch()
    temporary.write_bytes(b"half a map")
    write_map(file, np.full((1, 6, 5), 3), segmentation)
    assert (blosc2.open(str(file), mode="r")[:] == 3).all()
    assert list(tmp_path.iterdir()) == [file]


def test_a_decoded_map_needs_its_bytes_no_more() -> None:
    """blosc2 3.6 keeps no hold of them, so they would be gone when the first crop is read."""
    ids = np.arange(256, dtype=np.uint32).reshape(1, 4, 8, 8)
    content = bytearray(blosc2.asarray(ids).to_cframe())
    decoded = decode_map(content, Path("case_a.b2nd"))
    content[:] = bytes(len(content))
    assert (decoded[:] == ids).all()


# --- manifest ---------------------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    records = {
        "b": CaseRecord("1", "2", "3", "4", found=4, lost=0),
        "a": CaseRecord("5", "6", "7", "8", found=8, lost=2),
    }
    for manifest in (Manifest("components", (1, 3), True, records), Manifest("instancesTr", (0,), False, {})):
        manifest.write(tmp_path)
        assert Manifest.read(tmp_path) == manifest
        assert list(tmp_path.iterdir()) == [Manifest.file(tmp_path)]


def test_no_manifest_is_none(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) is None


def edited(**changes: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-20],
        lambda content: b"",
        lambda content: b"\xff\xfe" + content,
        lambda content: b"[]",
        lambda content: b"{}",
        edited(format=2),
        edited(channels=None),
        edited(cases={"case_a": {"map": "1"}}),
        edited(more="unknown"),
        lambda content: b"null",
        edited(cases=[]),
    ],
)
def test_an_unreadable_manifest_names_itself_and_the_remedy(preprocessed: Path, damage: Callable) -> None:
    file = Manifest.file(maps_folder(preprocessed))
    file.write_bytes(damage(file.read_bytes()))
    message = re.escape(f"{file} is unreadable: delete it and run 'nnunet-instance precompute' again")
    with pytest.raises(UserError, match=message):
        Manifest.read(file.parent)
