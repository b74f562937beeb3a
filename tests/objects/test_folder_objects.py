"""The command ``objects`` over folders: tables and maps against scikit-image, SimpleITK, nibabel and plain searches."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made_up_files import write
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from object_folders import (
    BEFORE,
    IMAGES,
    LABELS,
    NOW,
    ORIGIN,
    REGIONS,
    SHAPE,
    SPACING,
    VOXEL_ML,
    folder,
    image,
    line_of,
    numbers,
    objects,
    planes,
    stored,
    table,
)
from scipy import ndimage
from skimage.measure import regionprops

from nnunet_instance_trainers.ensembling.functional import hysteresis
from nnunet_instance_trainers.instances import label_components

pytestmark = pytest.mark.nnunet


def equal_to_scikit_image(output: Path, images: Mapping[str, np.ndarray], voxel_ml: Mapping[str, float]) -> int:
    """Hold every row against ``regionprops`` of the map; the number of objects."""
    rows = table(output)
    for case, array in images.items():
        ids = stored(output, case)
        assert ((ids > 0) == (array > 0)).all()
        own = [row for row in rows if row["case"] == case]
        properties = regionprops(ids.astype(int))
        assert [int(row["id"]) for row in own] == [p.label for p in properties]
        axes = "kji"[-array.ndim :]
        for row, p in zip(own, properties):
            assert int(row["voxels"]) == p.area and float(row["volume_ml"]) == pytest.approx(p.area * voxel_ml[case])
            assert numbers(row, *(f"centre_{axis}" for axis in axes)) == pytest.approx(p.centroid)
            box = [int(row[f"first_{axis}"]) for axis in axes] + [int(row[f"last_{axis}"]) + 1 for axis in axes]
            assert tuple(box) == p.bbox
    return len(rows)


# --- what is written ---------------------------------------------------------------------------------------


def test_every_row_is_that_of_scikit_image_and_ids_are_those_of_the_map(tmp_path: Path) -> None:
    output = objects(folder(tmp_path / "pred"))
    n = equal_to_scikit_image(output, IMAGES, dict.fromkeys(IMAGES, VOXEL_ML))
    assert n == sum(label_components(own)[1] for own in IMAGES.values()) > 6
    for row in table(output):
        labels = IMAGES[row["case"]][stored(output, row["case"]) == int(row["id"])]
        assert set(labels.tolist()) == {LABELS[row["class"]]}
        assert int(row["slices"]) == int(row["last_k"]) - int(row["first_k"]) + 1
        if row["nearest_id"]:
            (other,) = [o for o in table(output) if (o["case"], o["id"]) == (row["case"], row["nearest_id"])]
            assert other["class"] == row["class"]
    for row in table(output, "cases"):
        own = [o for o in table(output) if (o["case"], o["class"]) == (row["case"], row["class"])]
        assert int(row["objects"]) == len(own) == sum(int(row[name]) for name in row if name.startswith("objects_"))
        assert float(row["volume_ml"]) == pytest.approx(sum(float(o["volume_ml"]) for o in own))
    assert len(table(output, "cases")) == 6
    first = sitk.ReadImage(str(output / "instances" / "a.nii.gz"))
    assert first.GetSpacing() == SPACING and first.GetOrigin() == ORIGIN


def test_bins_are_counted_by_the_rule_of_the_scores(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[1, 1, 1:3] = array[3, 3, 1:5] = array[5, 5, 1] = 1
    output = objects(folder(tmp_path / "pred", {"a": array}), "--bins", 2 * VOXEL_ML, 4 * VOXEL_ML)
    row = table(output, "cases")[0]
    assert [int(row[name]) for name in row if name.startswith("objects_")] == [1, 1, 1]


def turned(flips: tuple[int, int, int], degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    about_x = turn[[2, 0, 1]][:, [2, 0, 1]]
    return turn @ about_x @ np.diag(flips)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, SimpleITKIOWithReorient, NibabelIOWithReorient])
@pytest.mark.parametrize("direction", [np.eye(3)[[1, 2, 0]], turned((-1, 1, -1), 25), turned((1, -1, -1), -10)])
def test_world_coordinates_are_those_of_simpleitk_and_nibabel(
    tmp_path: Path, reader: type, direction: np.ndarray
) -> None:
    """On rotated and flipped headers, with readers that reorient too; from the map that was written."""
    more = {"overwrite_image_reader_writer": reader.__name__}
    output = objects(folder(tmp_path / "pred", {"a": IMAGES["a"]}, direction=direction, **more))
    file = output / "instances" / "a.nii.gz"
    by_itk, by_nibabel = sitk.ReadImage(str(file)), nibabel.load(file)
    ids = by_nibabel.get_fdata()
    for row in table(output):
        own = np.argwhere(ids == int(row["id"])).mean(0)
        got = numbers(row, *(f"centre_{axis}_ras_mm" for axis in "xyz"))
        lps = by_itk.TransformContinuousIndexToPhysicalPoint(own.tolist())
        assert got == pytest.approx(np.array([-1, -1, 1]) * lps, abs=1e-3)
        assert got == pytest.approx(nibabel.affines.apply_affine(by_nibabel.affine, own), abs=1e-3)


def test_regions_have_a_map_each_and_share_voxels(tmp_path: Path) -> None:
    output = objects(folder(tmp_path / "pred", labels=REGIONS, regions_class_order=[1, 2]))
    for name, part, values in (("whole", "region_1_2", (1, 2)), ("core", "region_2", (2,))):
        for case, array in IMAGES.items():
            ids, n = label_components(np.isin(array, values))
            assert (stored(output, case, part) == ids).all()
            own = [row for row in table(output) if (row["case"], row["class"]) == (case, name)]
            assert [int(row["id"]) for row in own] == list(range(1, n + 1))


def test_an_ignore_label_is_background(tmp_path: Path) -> None:
    array = np.where(np.arange(9) > 6, 3, IMAGES["a"]).astype(np.uint8)
    output = objects(folder(tmp_path / "pred", {"a": array}, {**LABELS, "ignore": 3}))
    assert ((stored(output, "a") > 0) == np.isin(array, (1, 2))).all()


def test_small_objects_and_another_connectivity(tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred", {"a": IMAGES["a"]})
    output = objects(pred, "--min-volume-ml", 4 * VOXEL_ML, "--connectivity", 6)
    expected, sizes = 0, []
    for value in (1, 2):
        ids, n = label_components(IMAGES["a"] == value, 6)
        own = np.bincount(ids.ravel(), minlength=n + 1)[1:]
        sizes += own[own >= 4].tolist()
        expected += int((own < 4).sum())
    assert expected > 0 and [int(row["voxels"]) for row in table(output)] == sizes
    assert np.unique(stored(output, "a")).tolist() == list(range(len(sizes) + 1))


def test_a_second_call_replaces_the_first_and_its_maps(tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred")
    objects(pred)
    (pred / "c.nii.gz").unlink()
    output = objects(pred)
    assert {path.name for path in (output / "instances").iterdir()} == {"a.nii.gz", "b.nii.gz"}
    assert {row["case"] for row in table(output, "cases")} == {"a", "b"}
    objects(pred, "--no-maps")
    assert {path.name for path in output.iterdir()} == {"objects.csv", "cases.csv", "objects.html", "objects.json"}


class Stopped(BaseException):
    """What a killed process does not catch."""


@pytest.mark.parametrize("name", ["list_case", "publish"])
def test_the_same_call_goes_on_where_a_killed_one_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from nnunet_instance_trainers.ensembling.output_folder import Output
    from nnunet_instance_trainers.objects import folder_objects

    pred = folder(tmp_path / "pred")
    expected = {path.name: path.read_bytes() for path in objects(pred).rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "out")
    owner = folder_objects if name == "list_case" else Output
    original, done = getattr(owner, name), []

    def once(*words: object) -> object:
        if len(done) == (name == "list_case"):
            raise Stopped
        done.append(words)
        return original(*words)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, once)
        with pytest.raises(Stopped):
            objects(pred)
    assert not (tmp_path / "out").exists()
    output = objects(pred)
    assert {path.name: path.read_bytes() for path in output.rglob("*") if path.is_file()} == expected
    assert {path.name for path in tmp_path.iterdir()} == {"pred", "out"}


# --- flat images and formats without a spacing -------------------------------------------------------------

FLAT = {"a": image(5, (16, 20)), "b": image(6, (16, 20))}


def test_a_flat_image_has_areas(tmp_path: Path) -> None:
    pred = tmp_path / "pred"
    folder(pred, {}, ending=".mha")
    for case, array in FLAT.items():
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((0.5, 2.0))
        volume.SetOrigin((3.0, 4.0))
        sitk.WriteImage(volume, str(pred / f"{case}.mha"))
    output = objects(pred, "--min-area-mm2", 2)
    rows = table(output)
    assert rows and not {"volume_ml", "slices", "centre_k"} & set(rows[0])
    for row in rows:
        own = np.argwhere(stored(output, row["case"], ending=".mha") == int(row["id"]))
        assert float(row["area_mm2"]) == len(own) >= 2
        assert numbers(row, "centre_j", "centre_i") == pytest.approx(own.mean(0))
        x, y = sitk.ReadImage(str(pred / f"{row['case']}.mha")).TransformContinuousIndexToPhysicalPoint(
            own.mean(0)[::-1].tolist()
        )
        assert numbers(row, "centre_x_ras_mm", "centre_y_ras_mm") == pytest.approx([-x, -y])
        assert row["centre_z_ras_mm"] == "" and float(row["largest_diameter_mm"]) > 2


def test_a_png_has_pixels_only_or_a_file_with_its_spacing(tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred", FLAT, ending=".png", reader=NaturalImage2DIO)
    n = equal_to_scikit_image_png(objects(pred))
    rows = table(tmp_path / "out")
    assert len(rows) == n and not {"area_mm2", "volume_ml"} & set(rows[0])
    assert {row[name] for row in rows for name in ("largest_diameter_mm", "sphericity", "centre_x_ras_mm")} == {""}
    for case in FLAT:
        (pred / f"{case}.json").write_text(json.dumps({"spacing": [2.0, 0.25]}))
    with_spacing = table(objects(pred))
    assert [float(row["area_mm2"]) for row in with_spacing] == [int(row["voxels"]) / 2 for row in rows]
    for row in with_spacing:
        height, width = (int(row[f"last_{axis}"]) + 1 - int(row[f"first_{axis}"]) for axis in "ji")
        diagonal = float(np.hypot(2 * height, width / 4))
        assert max(2 * height, width / 4) <= float(row["largest_diameter_mm"]) <= diagonal * (1 + 1e-6)


def equal_to_scikit_image_png(output: Path) -> int:
    rows = table(output)
    for case, array in FLAT.items():
        ids = stored(output, case, ending=".png")
        assert ((ids > 0) == (array > 0)).all()
        for p in regionprops(ids.astype(int)):
            (row,) = [row for row in rows if (row["case"], int(row["id"])) == (case, p.label)]
            assert int(row["voxels"]) == p.area
            assert numbers(row, "centre_j", "centre_i") == pytest.approx(p.centroid)
    return sum(label_components(array)[1] for array in FLAT.values())


@pytest.mark.parametrize("known", [False, True])
def test_a_tiff_volume_has_voxels_unless_a_file_says_its_spacing(tmp_path: Path, known: bool) -> None:
    pred = folder(tmp_path / "pred", {"a": IMAGES["a"]}, ending=".tif", reader=Tiff3DIO)
    if known:
        (pred / "a.json").write_text(json.dumps({"spacing": [3.0, 0.75, 0.5]}))
    rows = table(objects(pred))
    assert ("volume_ml" in rows[0]) == known
    assert all((row["nearest_mm"] != "") == (known and row["nearest_id"] != "") for row in rows)
    if known:
        assert [float(row["volume_ml"]) for row in rows] == pytest.approx([int(r["voxels"]) * VOXEL_ML for r in rows])


# --- probabilities -----------------------------------------------------------------------------------------


def save_probabilities(pred: Path, images: Mapping[str, np.ndarray] = IMAGES) -> dict[str, np.ndarray]:
    """Softmax outputs whose greatest channel is the image's label."""
    saved = {}
    for seed, (case, array) in enumerate(images.items()):
        raw = np.random.default_rng(seed).random((3, *array.shape)) + 0.8 * (np.arange(3)[:, None, None, None] == array)
        np.put_along_axis(raw, array[None].astype(int), raw.max(0)[None] + 0.1, 0)
        saved[case] = (raw / raw.sum(0)).astype(np.float32)
        np.savez(pred / f"{case}.npz", probabilities=saved[case])
    return saved


def test_mean_and_peak_probability_where_every_case_has_one(tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred")
    saved = save_probabilities(pred)
    output = objects(pred)
    for row in table(output):
        own = saved[row["case"]][LABELS[row["class"]]][stored(output, row["case"]) == int(row["id"])]
        assert numbers(row, "probability_mean", "probability_peak") == pytest.approx([own.mean(), own.max()], rel=1e-5)
    (pred / "b.npz").rename(tmp_path / "b.npz")
    assert "probability_mean" not in table(objects(pred))[0]
    assert "file of probabilities of case 'b' is missing" in line_of("-i", pred, "-o", output, "--probabilities", pred)


def test_objects_by_hysteresis_are_those_of_an_ensemble(tmp_path: Path) -> None:
    labels = {"background": 0, "lesion": 1}
    images = {case: (array > 0).astype(np.uint8) for case, array in IMAGES.items()}
    pred = folder(tmp_path / "pred", images, labels)
    rng, saved = np.random.default_rng(0), {}
    for case, array in images.items():
        p = np.clip(ndimage.gaussian_filter(array + 0.6 * rng.random(SHAPE), 0.6) / 1.4, 0, 1).astype(np.float32)
        saved[case] = p
        np.savez(pred / f"{case}.npz", probabilities=np.stack([1 - p, p]))
    output = objects(pred, "--hysteresis", 0.35, 0.6)
    for case, p in saved.items():
        expected = hysteresis(p, 0.35, 0.6)
        assert ((stored(output, case) > 0) == expected).all()
        assert case == "c" or (expected != (images[case] > 0)).any()
    objects(pred, "--hysteresis", 0.35, 0.6, "--reference", pred)
    assert {row["state"] for row in table(output, "changes")} == {"unchanged"}


def test_by_hysteresis_a_voxel_has_one_label(tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred")
    save_probabilities(pred)
    output = objects(pred, "--hysteresis", 0.2, 0.5)
    for case, array in IMAGES.items():
        ids = stored(output, case)
        for row in (row for row in table(output) if row["case"] == case):
            own = ids == int(row["id"])
            assert own.sum() == int(row["voxels"])
            assert set(array[own].tolist()) <= {0, LABELS[row["class"]]}
        assert ids.max() == sum(row["case"] == case for row in table(output))


# --- an earlier time point ---------------------------------------------------------------------------------

EXPECTED = {
    "a": ["vanished", "growing", "shrinking", "unchanged", "merged", "split", "vanished"],
    "b": ["unchanged", "new"],
}


def test_what_became_of_each_object(tmp_path: Path) -> None:
    labels = {"background": 0, "lesion": 1}
    before, now = planes(BEFORE), planes(NOW)
    earlier = folder(tmp_path / "earlier", before, labels)
    output = objects(folder(tmp_path / "pred", now, labels), "--reference", earlier)
    rows, changes = table(output), table(output, "changes")
    for case, states in EXPECTED.items():
        assert sorted(row["state"] for row in changes if row["case"] == case) == sorted(states)
    for side, name, other in (("current", "objects", now), ("reference", "reference", before)):
        part = "" if side == "current" else "reference"
        for row in table(output, name):
            ids = stored(output, row["case"], part)
            assert (ids == int(row["id"])).sum() == int(row["voxels"])
            (change,) = [
                own for own in changes if own["case"] == row["case"] and row["id"] in own[f"{side}_ids"].split(";")
            ]
            assert change["state"] == row["state"]
        assert sum(int((stored(output, case, part) > 0).sum()) for case in other) == sum(map(np.sum, other.values()))
    (merged,) = [row for row in rows if row["state"] == "merged"]
    earlier_rows = {(row["case"], row["id"]): row for row in table(output, "reference")}
    assert float(merged["reference_volume_ml"]) == pytest.approx(5 * VOXEL_ML)
    assert float(merged["change_percent"]) == pytest.approx(-20) and len(merged["reference_ids"].split(";")) == 2
    assert all(earlier_rows["a", own]["state"] == "merged" for own in merged["reference_ids"].split(";"))
    (new,) = [row for row in rows if row["state"] == "new"]
    assert new["change_percent"] == "" and float(new["reference_volume_ml"]) == 0
    totals = {row["case"]: row for row in table(output, "cases")}
    assert [int(totals["a"][name]) for name in ("vanished", "merged", "split", "complex")] == [2, 1, 1, 0]
    assert int(totals["b"]["reference_objects"]) == 1


def test_what_grows_is_what_the_options_say(tmp_path: Path) -> None:
    labels = {"background": 0, "lesion": 1}
    earlier = folder(tmp_path / "earlier", planes(BEFORE), labels)
    output = objects(
        folder(tmp_path / "pred", planes(NOW), labels), "--reference", earlier, "--growth", 70, "--shrinkage", 40
    )
    states = [row["state"] for row in table(output, "changes")]
    assert "growing" not in states and "shrinking" in states
    output = objects(tmp_path / "pred", "--reference", earlier, "--growth", 60, "--shrinkage", 41)
    states = [row["state"] for row in table(output, "changes")]
    assert "growing" in states and "shrinking" not in states


def test_small_objects_of_both_time_points_are_left_out(tmp_path: Path) -> None:
    labels = {"background": 0, "lesion": 1}
    earlier = folder(tmp_path / "earlier", planes(BEFORE), labels)
    pred = folder(tmp_path / "pred", planes(NOW), labels)
    output = objects(pred, "--reference", earlier, "--min-volume-ml", 3 * VOXEL_ML)
    assert all(int(row["voxels"]) >= 3 for name in ("objects", "reference") for row in table(output, name))
    assert [row["state"] for row in table(output, "changes") if row["case"] == "b"] == ["new"]


# --- real masks --------------------------------------------------------------------------------------------


def real_folder(path: Path, files: list[Path], labels: dict, ending: str) -> Path:
    path.mkdir(parents=True)
    for file in files:
        (path / file.name).symlink_to(file)
    (path / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending}))
    return path


def test_real_masks_equal_scikit_image(tmp_path: Path, shared_data: Path) -> None:
    """Multiple sclerosis at 1 mm, and changes of lesions at 0.72 x 0.72 x 3 mm."""
    for name, files in (
        ("ms", [shared_data / "masks_ms" / f"lit{k:02}.nii.gz" for k in (2, 5)]),
        ("change", sorted((shared_data / "Dataset503_LesionChange3D" / "labelsTr").glob("*.nii.gz"))),
    ):
        pred = real_folder(tmp_path / name / "pred", files, {"background": 0, "lesion": 1}, ".nii.gz")
        volumes = {file.name.removesuffix(".nii.gz"): sitk.ReadImage(str(file)) for file in files}
        arrays = {case: sitk.GetArrayFromImage(own) for case, own in volumes.items()}
        voxel_ml = {case: float(np.prod(own.GetSpacing())) / 1000 for case, own in volumes.items()}
        assert equal_to_scikit_image(objects(pred), arrays, voxel_ml) > 100


def test_real_tiles_of_four_classes_in_pixels(tmp_path: Path, shared_data: Path) -> None:
    dataset = shared_data / "Dataset505_RetinalLesions2D"
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    files = sorted((dataset / "labelsTr").glob("*.png"))[:4]
    output = objects(real_folder(tmp_path / "pred", files, labels, ".png"))
    arrays = {file.stem: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files}
    rows = table(output)
    assert len(rows) == sum(label_components(own)[1] for own in arrays.values()) > 50
    assert len({row["class"] for row in rows}) >= 3


def time_points(dataset: Path, file: Path) -> tuple[np.ndarray, np.ndarray, sitk.Image]:
    """Two segmentations out of two images and the mask of what changed between them.

    Bright in both images and not changed: in both. Changed: where it is brighter.
    """
    label = sitk.ReadImage(str(file))
    images = dataset / file.parent.name.replace("labels", "images")
    changed = sitk.GetArrayFromImage(label) > 0
    bright = []
    for k in (0, 1):
        name = file.name.replace(".nii.gz", f"_000{k}.nii.gz")
        own = sitk.GetArrayFromImage(sitk.ReadImage(str(images / name))).astype(float)
        inside = own[own > 0]
        bright.append((own - np.median(inside)) / np.median(np.abs(inside - np.median(inside))))
    common = (np.minimum(*bright) > 3.5) & ~changed
    later = bright[1] >= bright[0]
    return common | (changed & ~later), common | (changed & later), label


def test_two_real_time_points(tmp_path: Path, shared_data: Path) -> None:
    """Lesjak's pairs of studies; each object's state is what a search voxel by voxel says."""
    dataset = shared_data / "Dataset503_LesionChange3D"
    pairs = {}
    for path in ("earlier", "pred"):
        real_folder(tmp_path / path, [], {"background": 0, "lesion": 1}, ".nii.gz")
    for file in sorted(dataset.glob("labelsT*/*.nii.gz")):
        before, now, label = time_points(dataset, file)
        for path, array in (("earlier", before), ("pred", now)):
            volume = sitk.GetImageFromArray(array.astype(np.uint8))
            volume.CopyInformation(label)
            sitk.WriteImage(volume, str(tmp_path / path / file.name))
        pairs[file.name.removesuffix(".nii.gz")] = before, now
    output = objects(tmp_path / "pred", "--reference", tmp_path / "earlier")
    seen = set()
    for case, (before, now) in pairs.items():
        (a, n), (b, m) = (ndimage.label(own, np.ones((3, 3, 3))) for own in (before, now))
        both = np.unique(np.stack([a, b])[:, (a > 0) & (b > 0)], axis=1).T.tolist()
        rows = {int(row["id"]): row for row in table(output) if row["case"] == case}
        ids = stored(output, case)
        assert len(rows) == m
        for k in range(1, m + 1):
            own = b == k
            state = rows[int(ids[own].max())]["state"]
            partners = [i for i, j in both if j == k]
            siblings = [j for i, j in both if i in partners]
            if not partners:
                expected = {"new"}
            elif len(partners) == len(siblings) == 1:
                change = own.sum() / (a == partners[0]).sum() - 1
                expected = {"growing" if change >= 0.25 else "shrinking" if change <= -0.25 else "unchanged"}
            else:
                expected = {"merged", "split", "complex"}
            assert state in expected
            seen.add(state)
        vanished = [row for row in table(output, "reference") if (row["case"], row["state"]) == (case, "vanished")]
        assert len(vanished) == n - len({i for i, _ in both})
    assert seen >= {"new", "growing", "shrinking", "unchanged"}


@pytest.mark.heavy
def test_thirty_volumes_take_less_than_a_minute_on_two_cores(tmp_path: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "masks_ms").glob("*.nii.gz"))
    pred = real_folder(tmp_path / "pred", files, {"background": 0, "lesion": 1}, ".nii.gz")
    before = os.times()
    output = objects(pred, "-np", 2)
    spent = sum(after - earlier for after, earlier in zip(os.times()[:4], before[:4]))
    assert len(table(output)) == 3115
    assert spent < 2 * 60


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        (["--min-area-mm2", 3], "--min-area-mm2 does not fit images with sizes in mL: use --min-volume-ml"),
        (["--min-voxels", 3], "--min-voxels does not fit images with sizes in mL"),
        (["--min-volume-ml", -1], "--min-volume-ml must be 0 or more, got -1"),
        (["--bins", 2, 1], "--bins must be positive and ascending, got 2 1"),
        (["--hysteresis", 0.6, 0.3], "--hysteresis takes 0 <= LOW <= HIGH < 1, got 0.6 0.3"),
        (["--hysteresis", 0.3, 0.6], "the file of probabilities of case 'a' and of 2 more is missing"),
        (["--growth", 0], "--growth must be above 0 %, got 0"),
        (["--shrinkage", 100], "--shrinkage must be above 0 % and below 100 %, got 100"),
        (["--reference", "NOWHERE"], "the segmentation of the earlier time point of case 'a' and of 2 more is missing"),
        (["-djfile", "NOWHERE"], "NOWHERE is missing: give the dataset's dataset.json with -djfile"),
    ],
)
def test_odd_options_are_one_line(tmp_path: Path, options: list, says: str) -> None:
    pred = folder(tmp_path / "pred")
    assert says in line_of("-i", pred, "-o", tmp_path / "out", *options)
    assert {path.name for path in tmp_path.iterdir()} == {"pred"}


def test_odd_folders_and_files_are_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    pred, out = folder(tmp_path / "pred"), tmp_path / "out"

    def says() -> str:
        line = line_of("-i", pred, "-o", out)
        assert {path.name for path in tmp_path.iterdir()} == {"pred"}
        return line

    assert "there is no folder" in line_of("-i", tmp_path / "none", "-o", out)
    assert "give another folder" in line_of("-i", pred, "-o", pred)
    whole = (pred / "b.nii.gz").read_bytes()
    (pred / "b.nii.gz").write_bytes(whole[:-20])
    assert "case 'b'" in says() and "cut off or damaged" in says()
    write(pred / "b.nii.gz", IMAGES["b"] * 3, spacing=SPACING)
    assert "has label 3, which dataset.json does not know" in says()
    (pred / "b.nii.gz").write_bytes(whole)
    out.mkdir()
    (out / "precious").touch()
    assert "holds files that 'objects' did not write" in line_of("-i", pred, "-o", out)
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_an_earlier_time_point_on_another_grid_is_one_line(tmp_path: Path) -> None:
    pred, earlier = folder(tmp_path / "pred"), folder(tmp_path / "earlier")
    write(earlier / "b.nii.gz", IMAGES["b"], spacing=SPACING, origin=(0.0, 0.0, 0.0))
    line = line_of("-i", pred, "-o", tmp_path / "out", "--reference", earlier)
    assert "case 'b'" in line and "differs from" in line and "in origin" in line
    assert {path.name for path in tmp_path.iterdir()} == {"pred", "earlier"}


def test_images_of_two_kinds_are_one_line(tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred", FLAT, ending=".png", reader=NaturalImage2DIO)
    (pred / "b.json").write_text(json.dumps({"spacing": [1, 1]}))
    line = line_of("-i", pred, "-o", tmp_path / "out")
    assert "case 'b'" in line and "all with or all without a spacing" in line
    (pred / "a.json").write_text(json.dumps({"spacing": [1, 1, 1]}))
    assert "has the spacing [1, 1, 1]: give the height of rows" in line_of("-i", pred, "-o", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"pred"}


def test_more_objects_than_a_map_holds_are_one_line(tmp_path: Path) -> None:
    dots = np.zeros((32, 32, 2), np.uint8)
    dots[::2, ::2] = 1
    more = {"overwrite_image_reader_writer": "SimpleITKIOWithReorient"}
    pred = folder(tmp_path / "pred", {"a": dots}, **more)
    line = line_of("-i", pred, "-o", tmp_path / "out")
    assert "case 'a' has 256 objects, and an instance map holds 255" in line
    assert len(table(objects(pred, "--no-maps"))) == 256
