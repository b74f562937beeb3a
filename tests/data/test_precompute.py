"""Instance maps are the raw maps on nnU-Net's grid, whatever happened on the way, or an error that names the case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.nnunet

BOXES, CLASSES, REGIONS, IGNORE = "Dataset901_Boxes", "Dataset902_Classes", "Dataset903_Regions", "Dataset904_Ignore"


def run(dataset, configurations=("3d_fullres",), plans="nnUNetPlans"):
    from nnunet_instance_trainers.data.precompute import precompute

    precompute(dataset, list(configurations), plans, 1)


def maps_of(folders, dataset, data_identifier="nnUNetPlans_3d_fullres"):
    import blosc2

    preprocessed = folders.preprocessed / dataset / data_identifier
    for path in sorted(preprocessed.glob("*_seg.b2nd")):
        case = path.name.removesuffix("_seg.b2nd")
        ids = blosc2.open(str(preprocessed.with_name(f"{data_identifier}_instances") / f"{case}.b2nd"))
        yield case, blosc2.open(str(path))[:][0], ids[:]


def read(path):
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def rewrite(path, change):
    from nnunet_datasets import save

    save(change(read(path)), path)


def same_partition(a, b) -> bool:
    """Whether two id images draw the same objects, under any numbering."""
    occupied = a > 0
    if not (occupied == (b > 0)).all():
        return False
    pairs = np.unique(np.stack((a[occupied], b[occupied])), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))


def test_without_resampling_the_map_is_the_raw_map_cropped(boxes):
    folders, _ = boxes
    run(BOXES)
    for case, _, ids in maps_of(folders, BOXES):
        raw = read(folders.raw / BOXES / "instancesTr" / f"{case}.nii.gz")[2:]  # two empty slices are cropped
        assert same_partition(ids[0], raw)


def test_a_mended_annotators_map_is_taken_up(boxes):
    folders, _ = boxes
    run(BOXES)
    before = {case: ids.copy() for case, _, ids in maps_of(folders, BOXES)}
    rewrite(folders.raw / BOXES / "instancesTr" / "case_1.nii.gz", lambda ids: np.where(ids == ids.max(), 1, ids))
    run(BOXES)
    changed = [case for case, _, ids in maps_of(folders, BOXES) if not same_partition(ids[0], before[case][0])]
    assert changed == ["case_1"]


def test_touching_objects_stay_apart_only_with_annotators_maps(boxes, capsys):
    import shutil

    from nnunet_instance_trainers.errors import UserError

    folders, _ = boxes
    run(BOXES)
    with_maps = [ids.max() for _, _, ids in maps_of(folders, BOXES)]
    assert "(from instancesTr), 0 lost" in capsys.readouterr().out
    shutil.rmtree(folders.raw / BOXES / "instancesTr")
    with pytest.raises(UserError, match="were made from instancesTr, which is not there now"):
        run(BOXES)
    shutil.rmtree(folders.preprocessed / BOXES / "nnUNetPlans_3d_fullres_instances")
    run(BOXES)
    assert "(from components), 0 lost" in capsys.readouterr().out
    without = [ids.max() for _, _, ids in maps_of(folders, BOXES)]
    assert all(apart > joined > 0 for apart, joined in zip(with_maps, without))


@pytest.mark.parametrize("dataset", [BOXES, CLASSES, REGIONS, IGNORE])
def test_ids_lie_exactly_where_a_class_or_region_is(boxes, dataset):
    folders, _ = boxes
    run(dataset)
    for _, labels, ids in maps_of(folders, dataset):
        regions = {REGIONS: [(1, 2), (2,)], CLASSES: [(1, 2)]}.get(dataset, [(1,)])
        assert len(ids) == len(regions)
        for channel, region in zip(ids, regions):
            assert ((channel > 0) == np.isin(labels, region)).all()


def test_slices_of_a_2d_configuration_share_no_id(boxes):
    folders, _ = boxes
    run(BOXES, ["2d"])
    for _, _, ids in maps_of(folders, BOXES, "nnUNetPlans_2d"):
        seen = [set(np.unique(piece)) - {0} for piece in ids[0]]
        assert sum(map(len, seen)) == len(set().union(*seen)) > 0


def test_the_table_describes_every_instance(boxes):
    folders, _ = boxes
    run(CLASSES)
    folder = folders.preprocessed / CLASSES / "nnUNetPlans_3d_fullres_instances"
    for case, labels, ids in maps_of(folders, CLASSES):
        table = dict(np.load(folder / f"{case}.npz", allow_pickle=False))
        assert sorted(table["id"]) == list(range(1, ids.max() + 1))
        for row, instance in enumerate(table["id"]):
            voxels = np.argwhere(ids[0] == instance)
            assert table["size"][row] == len(voxels)
            assert (table["box"][row] == np.stack((voxels.min(0), voxels.max(0) + 1), -1)).all()
            assert table["label"][row] == labels[tuple(voxels[0])]
            first = table["first_voxel"][row]
            sampled = table["voxels"][first : first + min(len(voxels), 50)]
            assert len(np.unique(sampled, axis=0)) == len(sampled)
            assert {tuple(v) for v in sampled} <= {tuple(v) for v in voxels}
        assert len(table["voxels"]) == np.minimum(table["size"], 50).sum()


def test_what_is_current_is_kept_and_what_changed_is_made_again(boxes):
    folders, plans = boxes
    from nnunet_datasets import preprocess

    run(BOXES)
    folder = folders.preprocessed / BOXES / "nnUNetPlans_3d_fullres_instances"
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    (folder / "case_1.b2nd").write_bytes(before["case_1.b2nd"][1][:100])
    run(BOXES)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert {name: content for name, (_, content) in after.items()} == {n: c for n, (_, c) in before.items()}
    assert after["case_0.b2nd"][0] == before["case_0.b2nd"][0]
    assert after["case_1.b2nd"][0] != before["case_1.b2nd"][0]
    rewrite(folders.raw / BOXES / "labelsTr" / "case_2.nii.gz", lambda label: label * 0)
    rewrite(folders.raw / BOXES / "instancesTr" / "case_2.nii.gz", lambda ids: ids * 0)
    from nnunet_datasets import write_plans

    write_plans(folders, BOXES, plans[BOXES]["configurations"])
    preprocess(folders, plans[BOXES], "3d_fullres")
    run(BOXES)
    assert [ids.max() > 0 for _, _, ids in maps_of(folders, BOXES)] == [True, True, False, True]


@pytest.mark.parametrize("factor", [0.8, 1.3])
@pytest.mark.parametrize(
    "dataset, spacing",
    [("Dataset502_Lesions3D", [1.0, 1.0, 1.0]), ("Dataset503_LesionChange3D", [0.71875, 3.0, 0.71875])],
)
def test_real_lesions_survive_resampling_transposing_and_cropping(real, capsys, factor, dataset, spacing):
    """Instances that are lost are those without a voxel on the new grid, and they are counted."""
    from nnunet_datasets import configuration, preprocess, write_plans

    folders = real(dataset, 2)
    channels = {"Dataset502_Lesions3D": 1, "Dataset503_LesionChange3D": 2}[dataset]
    plan = configuration("3d_fullres", [64, 64, 64], [factor * s for s in spacing])
    plans = write_plans(folders, dataset, {"3d_fullres": plan}, transpose=[1, 0, 2], channels=channels)
    preprocess(folders, plans, "3d_fullres")
    run(dataset)
    line = capsys.readouterr().out
    manifest = json.loads(
        (folders.preprocessed / dataset / "nnUNetPlans_3d_fullres_instances/manifest.json").read_text()
    )
    found = lost = 0
    for case, labels, ids in maps_of(folders, dataset):
        raw = read(folders.raw / dataset / "instancesTr" / f"{case}.nii.gz")
        record = manifest["cases"][case]
        assert record["found"] == len(np.unique(raw[raw > 0]))
        assert ((ids[0] > 0) == (labels == 1)).all()
        assert abs(ids.max() - (record["found"] - record["lost"])) <= 2  # orphans of the label make new ones
        found, lost = found + record["found"], lost + record["lost"]
    assert f"{found} instances in 2 cases (from instancesTr), {lost} lost to resampling" in line
    assert lost < 0.3 * found
    if factor == 1.3:
        assert lost > 0


@pytest.mark.parametrize("n", [40_000, 70_000])
def test_tens_of_thousands_of_instances_in_a_case(boxes, n):
    """Ids keep their identity beyond 16 bits; a crop that nnU-Net's int16 cannot hold stops by name."""
    from nnunet_datasets import Folders, configuration, preprocess, save, write_plans

    from nnunet_instance_trainers.data.instance_dataset import InstanceDataset
    from nnunet_instance_trainers.errors import UserError

    folders: Folders = boxes[0]
    name = "Dataset905_Many"
    ids = np.zeros((40, 100, 200), dtype=np.uint32)
    places = ids[:, ::2, ::2]
    flat = np.zeros(places.size, dtype=np.uint32)
    flat[: 2 * n : 2] = np.arange(1, n + 1)
    ids[:, ::2, ::2] = flat.reshape(places.shape)
    save((ids > 0).astype(np.uint8), folders.raw / name / "labelsTr" / "case_0.nii.gz")
    save(ids, folders.raw / name / "instancesTr" / "case_0.nii.gz")
    save(np.ones(ids.shape, dtype=np.float32), folders.raw / name / "imagesTr" / "case_0_0000.nii.gz")
    (folders.raw / name / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "x"},
                "labels": {"background": 0, "dot": 1},
                "numTraining": 1,
                "file_ending": ".nii.gz",
            }
        )
    )
    plans = write_plans(folders, name, {"3d_fullres": configuration("3d_fullres", [16, 32, 32], [1.0, 1.0, 1.0])})
    preprocessed = preprocess(folders, plans, "3d_fullres")
    run(name)
    ((_, _, made),) = maps_of(folders, name)
    assert made.max() == n and (made[0] == ids).all()
    _, segmentation, _, _ = InstanceDataset(str(preprocessed), ["case_0"]).load_case("case_0")
    for crop in (slice(0, 4), slice(4 * n // 10_000, 4 * n // 10_000 + 4)):  # the second has ids above 32,767
        loaded, raw = segmentation[:, crop, 0:100, 0:200], ids[crop]
        assert loaded.dtype == np.int16 and loaded[1].min() == 0 and same_partition(loaded[1], raw)
        assert (loaded[0] == (raw > 0)).all()
    with pytest.raises(UserError, match="case 'case_0'.*more than the 32767"):
        segmentation[:, 0:40, 0:100, 0:200]


# --- bad input ------------------------------------------------------------------------------------------------


def _without_map(folder):
    (folder / "case_1.nii.gz").unlink()


def _other_shape(folder):
    rewrite(folder / "case_1.nii.gz", lambda ids: ids[:-1])


def _other_geometry(folder):
    from nnunet_datasets import save

    save(read(folder / "case_1.nii.gz"), folder / "case_1.nii.gz", (2.0, 1.0, 1.0))


def _ids_on_background(folder):
    def add(ids):
        ids[0, 0, 0] = 99
        return ids

    rewrite(folder / "case_1.nii.gz", add)


def _bare_foreground(folder):
    rewrite(folder / "case_1.nii.gz", lambda ids: np.where(ids == ids.max(), 0, ids))


def _negative_foreground(folder):
    rewrite(folder / "case_1.nii.gz", lambda ids: np.where(ids == ids.max(), np.int16(-1), ids.astype(np.int16)))


def _huge_ids(folder):
    rewrite(folder / "case_1.nii.gz", lambda ids: np.where(ids > 0, ids + np.float32(2**24), 0).astype(np.float32))


def _unreadable(folder):
    (folder / "case_1.nii.gz").write_bytes(b"no image")


@pytest.mark.parametrize(
    "damage, says",
    [
        (_without_map, "is missing: add it"),
        (_other_shape, "differs from its label in size: 36 x 40 x 27 against 36 x 40 x 28 voxels"),
        (_other_geometry, "differs from its label in spacing: .* against 1 x 1 x 1"),
        (_ids_on_background, "has ids in 1 voxels that the label calls background"),
        (_bare_foreground, "has no id in .* foreground voxels.* add the objects, or name the classes"),
        (_negative_foreground, "has ids below 0 in .* voxels, down to -1: they overflowed"),
        (_huge_ids, "has ids of 2\\^24 and more.*renumber them"),
        (_unreadable, "cannot read"),
    ],
)
def test_a_bad_annotators_map_names_the_case_and_leaves_nothing_of_it(boxes, damage, says):
    from nnunet_instance_trainers.errors import UserError

    folders, _ = boxes
    damage(folders.raw / BOXES / "instancesTr")
    with pytest.raises(UserError, match=f"case 'case_1'.*{says}") as error:
        run(BOXES)
    assert "\n" not in str(error.value)
    folder = folders.preprocessed / BOXES / "nnUNetPlans_3d_fullres_instances"
    assert not [path for path in folder.iterdir() if "case_1" in path.name]
    assert list(json.loads((folder / "manifest.json").read_text())["cases"]) == ["case_0"]


def test_ids_in_ignored_voxels_are_dropped(boxes):
    folders, _ = boxes
    run(IGNORE)
    dropped = 0
    for case, labels, ids in maps_of(folders, IGNORE):
        raw = read(folders.raw / IGNORE / "instancesTr" / f"{case}.nii.gz")[2:]
        assert not ids[0][labels == 2].any()
        dropped += np.count_nonzero(raw[labels == 2])
    assert dropped > 0


def test_a_class_without_instances_may_be_bare_once_the_settings_say_so(boxes):
    from nnunet_datasets import write_plans

    from nnunet_instance_trainers.errors import UserError

    folders, plans = boxes
    for path in (folders.raw / CLASSES / "instancesTr").iterdir():
        rewrite(path, lambda ids: np.where(ids % 2 == 0, 0, ids))
    with pytest.raises(UserError, match="name the classes"):
        run(CLASSES)
    configurations = plans[CLASSES]["configurations"]
    configurations["3d_fullres"]["instance_training"] = {"classes": ["odd"]}
    write_plans(folders, CLASSES, configurations)
    run(CLASSES)
    for _, labels, ids in maps_of(folders, CLASSES):
        assert ((ids[0] > 0) == (labels == 1)).all()


def test_what_is_not_preprocessed_is_said_with_the_command(boxes):
    import shutil

    from nnunet_instance_trainers.errors import UserError

    folders, _ = boxes
    with pytest.raises(UserError, match="no configuration 'absent': there are 2d, 3d_fullres, 3d_flat"):
        run(BOXES, ["absent"])
    shutil.rmtree(folders.preprocessed / BOXES / "nnUNetPlans_2d")
    with pytest.raises(UserError, match="nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans -c 2d"):
        run(BOXES, ["2d"])
    with pytest.raises(UserError, match="nnUNetv2_plan_and_preprocess -d 901"):
        run(BOXES, ["2d"], "absent")


def test_ids_in_many_pieces_are_said(boxes, capsys):
    """A semantic mask taken for a map, or ids that wrapped: allowed, for pieces can be meant."""
    folders, _ = boxes
    for path in (folders.raw / BOXES / "instancesTr").iterdir():
        rewrite(path, lambda ids: (ids > 0).astype(np.uint8))
    run(BOXES)
    assert "ids are in several pieces each: are these instance maps?" in capsys.readouterr().out


def test_a_label_that_is_not_that_of_the_preprocessed_segmentation_is_refused(boxes):
    """nnUNetv2_preprocess -c 2d copies corrected labels, and 3d_fullres is as old as it was."""
    import shutil

    from nnunet_datasets import preprocess

    from nnunet_instance_trainers.errors import UserError

    folders, plans = boxes
    for room in ("labelsTr", "instancesTr"):
        rewrite(folders.raw / BOXES / room / "case_1.nii.gz", lambda image: np.roll(image[:, ::-1], 9, 2).copy())
    with pytest.raises(UserError, match="labelsTr/case_1.nii.gz and nnU-Net's copy of it, .* differ"):
        run(BOXES)
    label = Path("labelsTr", "case_1.nii.gz")
    shutil.copy(folders.raw / BOXES / label, folders.preprocessed / BOXES / "gt_segmentations" / label.name)
    with pytest.raises(UserError, match="'case_1': .* is not the label of its preprocessed segmentation .* -c 3d_full"):
        run(BOXES)
    preprocess(folders, plans[BOXES], "3d_fullres")
    run(BOXES)


def test_maps_hold_the_classes_of_all_configurations_that_share_the_folder(boxes, capsys):
    import shutil

    from nnunet_datasets import write_plans

    folders, plans = boxes
    shutil.rmtree(folders.raw / CLASSES / "instancesTr")
    configurations = {"3d_fullres": plans[CLASSES]["configurations"]["3d_fullres"]}
    configurations["3d_fullres"]["instance_training"] = {"classes": ["odd"]}
    configurations["3d_all"] = {"inherits_from": "3d_fullres", "instance_training": {}}
    write_plans(folders, CLASSES, configurations)
    folder = folders.preprocessed / CLASSES / "nnUNetPlans_3d_fullres_instances"

    def channels():
        return json.loads((folder / "manifest.json").read_text())["channels"]

    run(CLASSES)
    assert channels() == [1]
    for chosen in (["3d_fullres", "3d_all"], ["3d_all"], ["3d_fullres"]):
        run(CLASSES, chosen)
        assert channels() == [1, 2]
    del configurations["3d_all"]  # what other plans once asked for stays
    write_plans(folders, CLASSES, configurations)
    run(CLASSES)
    assert channels() == [1, 2]


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_broken_preprocessed_file_is_named_with_the_command(boxes, damage):
    from nnunet_instance_trainers.errors import UserError

    run(BOXES)
    path = boxes[0].preprocessed / BOXES / "nnUNetPlans_3d_fullres" / "case_1_seg.b2nd"
    content = path.read_bytes()
    path.unlink()
    if damage == "damaged":
        path.write_bytes(content[:-9])
    with pytest.raises(UserError, match=f"{path} is {damage}: run 'nnUNetv2_preprocess -d 901 .* -c 3d_fullres'"):
        run(BOXES)


def test_what_a_killed_run_left_is_removed(boxes):
    run(BOXES)
    folder = boxes[0].preprocessed / BOXES / "nnUNetPlans_3d_fullres_instances"
    (folder / ".unfinished_case_gone.b2nd").write_bytes(b"half a map")
    run(BOXES)
    assert not list(folder.glob(".unfinished_*"))


def test_the_old_numpy_format_is_refused(boxes):
    from nnunet_instance_trainers.errors import UserError

    folders, _ = boxes
    folder = folders.preprocessed / BOXES / "nnUNetPlans_3d_fullres"
    for path in folder.glob("*.b2nd"):
        path.rename(path.with_suffix(".npz"))
    with pytest.raises(UserError, match="old numpy format.*nnUNetv2_preprocess"):
        run(BOXES)


def test_an_object_that_gets_voxels_of_its_neighbours_class_is_still_one(corners):
    """Touching objects of three classes at twice the spacing: classes are resampled linearly, ids nearest."""
    from feature_matrix import TARGETS

    preprocessed = corners.folders.preprocessed / TARGETS["three classes"]
    manifest = json.loads((preprocessed / "nnUNetPlans_3d_lowres_instances" / "manifest.json").read_text())
    assert all(0 <= record["lost"] < record["found"] for record in manifest["cases"].values())
