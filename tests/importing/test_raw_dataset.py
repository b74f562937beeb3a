from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread, imsave

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.dataset_import import Options, import_dataset
from nnunet_instance_trainers.importing.id_images import Objects
from nnunet_instance_trainers.importing.images import CaseFiles, open_image
from nnunet_instance_trainers.importing.raw_dataset import check_place, new_dataset, write_case
from nnunet_instance_trainers.importing.sources import find_source


@pytest.mark.parametrize("name", ["Lesions", "Dataset12_Lesions", "Dataset123", "Dataset123_a b", "Dataset123_"])
def test_a_dataset_is_named_as_nnunet_wants_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no dataset of nnU-Net: name it like"):
        check_place(tmp_path / name)
    check_place(tmp_path / "Dataset1234_Les-ions.2")


def test_a_place_is_free_and_in_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "Dataset123_A"
    place.mkdir()
    check_place(place)
    (place / "x").touch()
    with pytest.raises(UserError, match="exists: delete it"):
        check_place(place)
    with pytest.raises(UserError, match="there is no folder"):
        check_place(tmp_path / "other" / "Dataset123_A")


def test_a_dataset_is_whole_or_not_there(tmp_path: Path) -> None:
    place = tmp_path / "Dataset123_A"
    with pytest.raises(KeyboardInterrupt), new_dataset(place) as folder:
        (folder / "x").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".unfinished_Dataset123_A").mkdir()
    (tmp_path / ".unfinished_Dataset123_A" / "old").touch()  # of a killed run
    with new_dataset(place) as folder:
        (folder / "new").touch()
    assert [path.name for path in place.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [place]


def written(folder: Path, ids: np.ndarray, classes: dict[int, str]) -> tuple[np.ndarray, np.ndarray]:
    imsave(folder / "a.png", np.zeros(ids.shape[1:], np.uint8), check_contrast=False)
    image = open_image([folder / "a.png"], "a", None)
    names = ["x", "y"]
    write_case(folder, "a", CaseFiles((folder / "a.png",), ()), image, Objects(ids, classes), names, ".png")
    return imread(folder / "labelsTr" / "a.png"), imread(folder / "instancesTr" / "a.png")


def test_labels_are_classes_and_ids_are_kept(tmp_path: Path) -> None:
    ids = np.array([[[0, 300, 300], [7, 0, 65535]]])
    label, instances = written(tmp_path, ids, {300: "y", 7: "x", 65535: "y"})
    assert label.tolist() == [[0, 2, 2], [1, 0, 2]] and (instances == ids[0]).all()


def test_large_ids_are_numbered_anew_in_their_order(tmp_path: Path) -> None:
    ids = np.array([[[0, 2_000_000, 9], [70_000, 70_000, 0]]])
    label, instances = written(tmp_path, ids, {9: "x", 70_000: "y", 2_000_000: "x"})
    assert instances.tolist() == [[0, 3, 1], [2, 2, 0]] and label.tolist() == [[0, 1, 1], [2, 2, 0]]


def test_too_many_objects_for_a_map(tmp_path: Path) -> None:
    ids = np.arange(2**16 + 1).reshape(1, 1, -1)
    with pytest.raises(UserError, match="case 'a' has 65536 objects, and a map holds 65535"):
        written(tmp_path, ids, dict.fromkeys(range(1, 2**16 + 1), "x"))


# --- what does not work leaves nothing behind --------------------------------------------------------------


def place(folder: Path, cases: tuple[str, ...] = ("a", "b"), value: int = 3, channels: int = 1) -> None:
    for name in ("images", "maps"):
        (folder / name).mkdir(exist_ok=True)
    for case in cases:
        colours = np.random.default_rng(0).integers(0, 256, (6, 7, channels), np.uint8)
        imsave(folder / "images" / f"{case}.png", colours.squeeze(), check_contrast=False)
        imsave(folder / "maps" / f"{case}.png", np.full((6, 7), value, np.uint8), check_contrast=False)


@pytest.mark.parametrize(
    "options, says",
    [
        ({}, "case 'c': .*c.png has 3 channels, others have 1"),
        ({"channels": ("a", "b")}, "case 'a': .*a.png has 1 channels, there are names for 2"),
        ({"classes": ("x",)}, "--classes names 'x': the objects' classes are object"),
        ({"test": ("d",)}, "--test 'd' fits no case"),
        ({"patient": "z"}, "does not match case 'a'"),
    ],
)
def test_nothing_is_left_of_an_import_that_fails(tmp_path: Path, options: dict, says: str) -> None:
    place(tmp_path)
    place(tmp_path, ("c",), channels=3)
    before = sorted(tmp_path.rglob("*"))
    source = find_source(tmp_path / "images", [str(tmp_path / "maps")], None)
    with pytest.raises(UserError, match=says):
        import_dataset(source, tmp_path / "Dataset123_A", Options(**options))
    assert sorted(tmp_path.rglob("*")) == before


def test_images_without_any_object_are_no_dataset(tmp_path: Path) -> None:
    place(tmp_path, value=0)
    source = find_source(tmp_path / "images", [str(tmp_path / "maps")], None)
    with pytest.raises(UserError, match="no image has an object"):
        import_dataset(source, tmp_path / "Dataset123_A", Options())
    with pytest.raises(UserError, match="class 'ignore' is a word of nnU-Net's"):
        import_dataset(
            find_source(tmp_path / "images", [f"ignore={tmp_path / 'maps'}"], None),
            tmp_path / "Dataset123_A",
            Options(),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "maps"]


def test_colours_have_names(tmp_path: Path) -> None:
    place(tmp_path, channels=3)
    import_dataset(
        find_source(tmp_path / "images", [str(tmp_path / "maps")], None), tmp_path / "Dataset123_A", Options()
    )
    assert '"0": "R"' in (tmp_path / "Dataset123_A" / "dataset.json").read_text()


def test_a_place_that_holds_nothing_known(tmp_path: Path) -> None:
    place(tmp_path)
    (tmp_path / "x.json").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(UserError, match="x.json is no COCO file"):
        find_source(tmp_path / "images", [str(tmp_path / "x.json")], None)
    with pytest.raises(UserError, match="there is no folder .*nowhere"):
        find_source(tmp_path / "images", [str(tmp_path / "nowhere")], None).cases()
