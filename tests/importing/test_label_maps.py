from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from foreign_labels import save_volume
from skimage.io import imsave

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.images import Image, open_image
from nnunet_instance_trainers.importing.label_maps import LabelMaps, RawLabels

IDS = np.zeros((1, 6, 7), np.uint16)
IDS[0, 1:3, 1:3], IDS[0, 4, 4] = 3, 9


def put(folder: Path, *names: str, values: np.ndarray = IDS[0]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith(".npy"):
            np.save(folder / name, {"masks": values})
        else:
            imsave(folder / name, values.astype(np.uint8), check_contrast=False)


def pairs(images: Path, maps: Path, suffix: str | None = None) -> dict[str, tuple[list[str], str]]:
    found = LabelMaps(images, maps, "cell", suffix).cases()
    return {case: ([p.name for p in files.images], files.objects[0].name) for case, files in found.items()}


@pytest.mark.parametrize("name", ["a.png", "a_masks.tif", "a_cp_masks.png", "a-label.tif", "a.seg.png", "a_seg.npy"])
def test_maps_are_found_by_the_names_that_programs_give(tmp_path: Path, name: str) -> None:
    put(tmp_path / "images", "a.png", "b_c.png")
    put(tmp_path / "maps", name, "b_c.png")
    assert pairs(tmp_path / "images", tmp_path / "maps") == {"a": (["a.png"], name), "b_c": (["b_c.png"], "b_c.png")}


def test_channels_and_frames_are_told_apart_by_the_maps(tmp_path: Path) -> None:
    put(tmp_path / "images", "a_0000.png", "a_0001.png", "t_0001.png", "t_0002.png")
    put(tmp_path / "maps", "a.png", "t_0001.png", "t_0002_masks.png")
    found = pairs(tmp_path / "images", tmp_path / "maps")
    assert found == {
        "a": (["a_0000.png", "a_0001.png"], "a.png"),
        "t_0001": (["t_0001.png"], "t_0001.png"),
        "t_0002": (["t_0002.png"], "t_0002_masks.png"),
    }


def test_one_folder_for_all_that_cellpose_writes(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a_cp_masks.png", "a_cp_output.png", "a_outlines_cp_masks.png", "b.png", "b_seg.npy")
    assert pairs(tmp_path, tmp_path) == {"a": (["a.png"], "a_cp_masks.png"), "b": (["b.png"], "b_seg.npy")}


def test_two_maps_want_a_choice(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a_seg.npy", "a_cp_masks.png")
    with pytest.raises(UserError, match="a_seg.npy and .*a_cp_masks.png are both for 'a': choose with --suffix"):
        pairs(tmp_path, tmp_path)
    for suffix in ("_seg.npy", "_cp_masks.png"):
        assert pairs(tmp_path, tmp_path, suffix) == {"a": (["a.png"], f"a{suffix}")}


@pytest.mark.parametrize(
    "images, maps, suffix, says",
    [
        (["a.png", "b.png"], ["a.png"], None, "b.png has no map in"),
        (["a.png"], ["a.png", "b.png"], None, "b.png belongs to no image in"),
        (["a.png"], ["a.png"], "_cells.png", "has no files that end in _cells.png"),
        (["a.png"], [], None, "has no maps of ids"),
        (["a.png", "a.tif"], ["a.png"], None, "has the images a.png, a.tif: one is wanted"),
        (["a_0000.png", "a_0002.png"], ["a.png"], None, "has the images a_0000.png, a_0002.png: one"),
        ([], ["a.png"], None, "has no images: known endings are"),
    ],
)
def test_what_does_not_pair(tmp_path: Path, images: list, maps: list, suffix: str | None, says: str) -> None:
    put(tmp_path / "images", *images)
    put(tmp_path / "maps", *maps)
    with pytest.raises(UserError, match=says):
        pairs(tmp_path / "images", tmp_path / "maps", suffix)


def read(tmp_path: Path, image: str, name: str):
    source = LabelMaps(tmp_path, tmp_path, "cell")
    opened = open_image([tmp_path / image], "a", None)
    from nnunet_instance_trainers.importing.images import CaseFiles

    return source.read("a", CaseFiles((tmp_path / image,), (tmp_path / name,)), opened, frozenset({"cell"}))


def test_ids_are_kept_with_one_class(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a_map.png", "a_seg.npy")
    for name in ("a_map.png", "a_seg.npy"):
        objects = read(tmp_path, "a.png", name)
        assert (objects.ids == IDS).all() and objects.classes == {3: "cell", 9: "cell"}


@pytest.mark.parametrize(
    "name, values, says",
    [
        ("map.png", np.zeros((6, 8)), "differs from its image in size: 8 x 6 x 1 against 7 x 6 x 1 voxels"),
        ("a_seg.npy", np.zeros((7, 6), int), "differs from its image in size"),
        ("a_seg.npy", np.full((6, 7), -1), "has ids below 0, down to -1: they overflowed"),
        ("a_seg.npy", np.full((6, 7), 2**24), "has ids of 2\\^24 and more"),
    ],
)
def test_maps_that_do_not_fit(tmp_path: Path, name: str, values: np.ndarray, says: str) -> None:
    put(tmp_path, "a.png")
    put(tmp_path, name, values=values)
    with pytest.raises(UserError, match=f"case 'a': .*{name}.*{says}|case 'a': .*{name} {says}"):
        read(tmp_path, "a.png", name)


def test_a_header_that_differs_is_told_where_both_have_one(tmp_path: Path) -> None:
    volume = np.zeros((4, 6, 7), np.uint8)
    save_volume(volume, tmp_path / "a.nii.gz")
    save_volume(volume + 2, tmp_path / "good.nrrd")
    assert read(tmp_path, "a.nii.gz", "good.nrrd").classes == {2: "cell"}
    tifffile.imwrite(tmp_path / "bare.tif", volume + 3, photometric="minisblack")  # knows no spacing
    assert read(tmp_path, "a.nii.gz", "bare.tif").classes == {3: "cell"}
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / "moved.nrrd"))
    with pytest.raises(
        UserError, match="moved.nrrd differs from its image in spacing: 1 x 1 x 1 against 0.9 x 0.8 x 2.5"
    ):
        read(tmp_path, "a.nii.gz", "moved.nrrd")


def test_labels_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "imagesTr", "a_0000.png")
    put(tmp_path / "labelsTr", "a.png")
    for more in ({"ignore": 2}, {"whole": [1, 2]}):
        description = {"labels": {"background": 0, "x": 1, **more}, "file_ending": ".png"}
        (tmp_path / "dataset.json").write_text(json.dumps(description))
        with pytest.raises(UserError, match="has regions or ignored voxels, which are no ids"):
            RawLabels(tmp_path, "cell").cases()


def test_test_images_with_labels_stay_the_test_part(tmp_path: Path) -> None:
    for part in ("Tr", "Ts"):
        put(tmp_path / f"images{part}", f"{part}_0000.png")
        put(tmp_path / f"labels{part}", f"{part}.png")
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "x": 1}, "file_ending": ".png", "channel_names": {"0": "CT"}})
    )
    source = RawLabels(tmp_path, "cell")
    assert {case: files.part for case, files in source.cases().items()} == {"Tr": "Tr", "Ts": "Ts"}
    assert source.channel_names() == ["CT"]
    (tmp_path / "labelsTs" / "Ts.png").unlink()
    (tmp_path / "labelsTs").rmdir()
    assert set(source.cases()) == {"Tr"}


def test_the_opened_image_says_whether_it_has_a_place(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    opened = open_image([tmp_path / "a.png"], "a", None)
    assert isinstance(opened, Image) and not opened.located and opened.shape == (1, 6, 7)
