"""The centres of forced-foreground patches are drawn by instance, and nnU-Net's loader notices nothing."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nnunet_instance_trainers.data.instance_sampling import InstanceSampler
from nnunet_instance_trainers.errors import UserError

BOXES, CLASSES, REGIONS, IGNORE = "Dataset901_Boxes", "Dataset902_Classes", "Dataset903_Regions", "Dataset904_Ignore"
HUGE = "Dataset906_Huge"
UNTOUCHED = np.array([[0, 9, 9, 9]])
LIMIT = {4: 18.47, 49: 85.35}
"""What chi-square of so many degrees of freedom exceeds once in 1,000 times; seeds are fixed, so it never flickers."""


def chi_square(counts, shares) -> float:
    expected = np.array(shares) * np.sum(counts)
    return float(((np.array(counts) - expected) ** 2 / expected).sum())


# --- the draw -------------------------------------------------------------------------------------------------


def write_table(folder: Path, classes: list[int], sizes: list[int], channels: list[int] | None = None) -> None:
    """A table of objects on a line each: voxel j of instance i is at (i, j, 0)."""
    stored = np.minimum(sizes, 50).astype(int)
    np.savez_compressed(
        folder / "case.npz",
        channel=np.array(channels or [0] * len(sizes), dtype=np.int32),
        id=np.arange(1, len(sizes) + 1),
        label=np.array(classes, dtype=np.int64),
        size=np.array(sizes, dtype=np.int64),
        box=np.zeros((len(sizes), 3, 2), dtype=np.int32),
        voxels=np.array([[i, j, 0] for i, n in enumerate(stored) for j in range(n)], dtype=np.int32).reshape(-1, 3),
        first_voxel=np.cumsum([0, *stored])[:-1],
    )


def draw(sampler: InstanceSampler, stock: dict, times: int) -> list[dict]:
    np.random.seed(0)
    return [sampler.class_locations("case", stock) for _ in range(times)]


@pytest.mark.parametrize(
    "power, shares",
    [
        (0, [0.2, 0.2, 0.2, 0.2, 0.2]),
        (0.5, [0.5, 0.125, 0.125, 0.125, 0.125]),  # roots 40, 10, 10, 10, 10
        (1, [0.8, 0.05, 0.05, 0.05, 0.05]),  # 1600 and four times 100 of 2000 voxels, though 50 of each are stored
    ],
)
def test_the_shares_of_instances_follow_the_power_of_their_volume(tmp_path, power, shares):
    write_table(tmp_path, [1] * 5, [1600, 100, 100, 100, 100])
    drawn = draw(InstanceSampler(tmp_path, {1: 1}, False, power), {1: UNTOUCHED}, 1000)
    counts = np.bincount([locations[1][0, 1] for locations in drawn], minlength=5)
    assert chi_square(counts, shares) < LIMIT[4]


def test_every_stored_voxel_of_an_instance_has_the_same_chance(tmp_path):
    write_table(tmp_path, [1, 1], [3, 60])
    drawn = draw(InstanceSampler(tmp_path, {1: 1}, False, 0), {1: UNTOUCHED}, 2000)
    rows = np.concatenate([locations[1] for locations in drawn])
    counts = np.bincount(rows[rows[:, 1] == 1, 2], minlength=50)
    assert len(counts) == 50 and chi_square(counts, [0.02] * 50) < LIMIT[49]
    assert set(rows[rows[:, 1] == 0, 2]) == {0, 1, 2}


def test_a_class_gets_one_voxel_of_its_own_instances_in_nnunets_form(tmp_path):
    write_table(tmp_path, [3, 1, 3, 1, 3], [5, 5, 90, 5, 5])
    sampler = InstanceSampler(tmp_path, {1: 1, 3: 3}, False, 0)
    seen = {1: Counter(), 3: Counter()}
    for locations in draw(sampler, {1: UNTOUCHED, 3: UNTOUCHED}, 300):
        for label, rows in locations.items():
            assert rows.shape == (1, 4) and rows.dtype == np.int64 and rows[0, 0] == 0
            seen[label][int(rows[0, 1])] += 1
    assert set(seen[1]) == {1, 3} and set(seen[3]) == {0, 2, 4}


def test_a_region_is_found_by_its_channel_and_named_as_nnunet_names_it(tmp_path):
    write_table(tmp_path, [1, 1, 1], [5, 5, 5], channels=[0, 2, 0])
    sampler = InstanceSampler(tmp_path, {0: (1, 2), 2: 2}, True, 0)
    stock = {(1, 2): UNTOUCHED, (2, 3): UNTOUCHED, 2: UNTOUCHED}
    seen = {key: set() for key in stock}
    for locations in draw(sampler, stock, 100):
        assert list(locations) == list(stock)
        for key, rows in locations.items():
            seen[key].add(int(rows[0, 1]))
    assert seen == {(1, 2): {0, 2}, (2, 3): {9}, 2: {1}}


def test_what_has_no_instances_keeps_nnunets_voxels_and_nothing_is_changed_in_place(tmp_path):
    write_table(tmp_path, [1, 2], [5, 5])
    annotated = (-1, 0, 1, 2, 3)
    stock = {1: UNTOUCHED, 2: UNTOUCHED, 3: UNTOUCHED, annotated: UNTOUCHED}
    before = dict(stock)
    (locations,) = draw(InstanceSampler(tmp_path, {1: 1, 3: 3}, False, 0), stock, 1)
    assert locations[1] is not UNTOUCHED and list(locations) == list(stock)
    assert all(locations[key] is UNTOUCHED for key in (2, 3, annotated))
    assert stock == before and (UNTOUCHED == [[0, 9, 9, 9]]).all()


def test_a_case_without_instances_is_nnunets(tmp_path):
    write_table(tmp_path, [], [])
    stock = {1: [], (-1, 0, 1): UNTOUCHED}
    assert draw(InstanceSampler(tmp_path, {1: 1}, False, 0.5), stock, 1) == [stock]


def test_draws_follow_numpys_global_state_as_nnunets_do(tmp_path):
    write_table(tmp_path, [1] * 40, [60] * 40)
    sampler = pickle.loads(pickle.dumps(InstanceSampler(tmp_path, {1: 1}, False, 0)))  # as it comes to a worker

    def sequence(seed):
        np.random.seed(seed)
        return [sampler.class_locations("case", {})[1].tolist() for _ in range(10)]

    assert sequence(1) == sequence(1) != sequence(2)


def _with_objects(path):
    np.savez(path, voxels=np.array([{}], dtype=object), label=[1], size=[1], first_voxel=[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: np.savez(path, label=[1]),
        _with_objects,
    ],
    ids=["gone", "truncated", "empty", "of another kind", "with pickled objects"],
)
def test_a_table_that_cannot_be_read_names_the_case_and_the_command(tmp_path, damage):
    write_table(tmp_path, [1], [5])
    damage(tmp_path / "case.npz")
    with pytest.raises(UserError, match="case 'case': cannot read .*case.npz: run 'nnunet-instance precompute' again"):
        InstanceSampler(tmp_path, {1: 1}, False, 0).class_locations("case", {})


# --- through nnU-Net ------------------------------------------------------------------------------------------


def precompute(dataset, configuration="3d_fullres"):
    from nnunet_instance_trainers.data.precompute import precompute

    precompute(dataset, [configuration], "nnUNetPlans", 1)


def make(boxes, dataset, configuration="3d_fullres", trainer=None, **settings):
    from nnunet_datasets import make_trainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerInstanceBaseline

    folders, plans = boxes
    settings = {"sampling": "instance", "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, **settings}
    plans[dataset]["configurations"][configuration]["instance_training"] = {**settings, "num_epochs": 1, "seed": 0}
    return make_trainer(trainer or nnUNetTrainerInstanceBaseline, folders, plans[dataset], configuration)


def ready(trainer):
    trainer.initialize()
    trainer.on_train_start()
    return trainer


def centres(loader, case: str, times: int) -> list[tuple[int, ...]]:
    """Where nnU-Net's loader puts the centre of a patch that must show foreground."""
    found = []
    for _ in range(times):
        data, _, _, properties = loader._data.load_case(case)
        low, _ = loader.get_bbox(data.shape[1:], True, properties["class_locations"])
        found.append(tuple(int(start) + size // 2 for start, size in zip(low, loader.patch_size)))
    return found


@pytest.fixture
def huge(boxes):
    """A case with a box of 16^3 voxels and 16 of 2^3, and two without any foreground; none near the border."""
    from nnunet_datasets import configuration, preprocess, save, write_plans

    folders, plans = boxes
    raw = folders.raw / HUGE
    for case in ("case_0", "case_1", "case_2"):
        label = np.zeros((48, 48, 64), dtype=np.uint8)
        if case == "case_0":
            label[16:32, 16:32, 14:30] = 1
            for z, y in np.ndindex(4, 4):
                label[14 + 5 * z : 16 + 5 * z, 14 + 5 * y : 16 + 5 * y, 44:46] = 1
        save(label, raw / "labelsTr" / f"{case}.nii.gz")
        save(label + np.float32(1), raw / "imagesTr" / f"{case}_0000.nii.gz")
    shutil.copy(folders.raw / BOXES / "dataset.json", raw)
    plans[HUGE] = write_plans(folders, HUGE, {"3d_fullres": configuration("3d_fullres", [16, 16, 16], [1.0, 1.0, 1.0])})
    preprocess(folders, plans[HUGE], "3d_fullres")
    return boxes


@pytest.mark.nnunet
@pytest.mark.parametrize(
    "sampling, share",
    [
        ("voxel", 4096 / (4096 + 16 * 8)),
        ("instance", 1 / 17),
        (0.5, 64 / (64 + 16 * 8**0.5)),
        (1, 4096 / (4096 + 16 * 8)),
    ],
)
def test_the_share_of_a_huge_object_among_tiny_ones(huge, sampling, share):
    precompute(HUGE)
    trainer = ready(make(huge, HUGE, sampling=sampling))
    np.random.seed(1)
    found = centres(trainer.dataloader_train.data_loader, "case_0", 400)
    of_huge = sum(x < 32 for _, _, x in found)
    assert abs(of_huge - 400 * share) < 3.3 * (400 * share * (1 - share)) ** 0.5
    _, segmentation, _, _ = trainer.dataloader_train.data_loader._data.load_case("case_0")
    segmentation = segmentation[:][0]
    assert all(segmentation[centre] == 1 for centre in found)
    if sampling == "instance":
        assert len({centre[:2] for centre in found if centre[2] >= 32}) > 40  # of 16 times 4 lines


@pytest.mark.nnunet
def test_a_case_without_foreground_is_cropped_anywhere(huge):
    precompute(HUGE)
    trainer = ready(make(huge, HUGE))
    for loader in (trainer.dataloader_train, trainer.dataloader_val):  # case_2 validates
        case = loader.data_loader.indices[-1]
        assert case != "case_0" and len(set(centres(loader.data_loader, case, 50))) > 40


@pytest.mark.nnunet
@pytest.mark.parametrize("source", ["patch", "precomputed"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("dataset", [BOXES, CLASSES, REGIONS, IGNORE])
def test_centres_are_voxels_of_each_class_or_region_and_the_training_runs(boxes, dataset, configuration, source):
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    precompute(dataset, configuration)
    trainer = ready(make(boxes, dataset, configuration, nnUNetTrainerBlob, source=source))
    stock_dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder)
    classes = {REGIONS: {(1, 2): (1, 2), (2,): (2,)}, CLASSES: {1: (1,), 2: (2,)}}.get(dataset, {1: (1,)})
    for loader in (trainer.dataloader_train.data_loader, trainer.dataloader_val.data_loader):
        case = loader.indices[0]
        stock = stock_dataset.load_case(case)[3]["class_locations"]
        segmentation = stock_dataset.load_case(case)[1][:][0]
        for _ in range(20):
            locations = dict(loader._data.load_case(case)[3]["class_locations"])
            assert list(locations) == list(stock)
            for key, labels in classes.items():
                ((channel, *voxel),) = locations.pop(key)
                assert channel == 0 and segmentation[tuple(voxel)] in labels
            assert all((rows == stock[key]).all() for key, rows in locations.items())  # the annotated voxels
        assert (len(locations) == 1) == (dataset == IGNORE)
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


@pytest.mark.nnunet
def test_in_2d_the_patch_is_the_slice_of_the_voxel_and_shows_its_piece(boxes):
    precompute(BOXES, "2d")
    trainer = ready(make(boxes, BOXES, "2d"))
    loader = trainer.dataloader_train.data_loader
    loader.transforms, loader.oversample_foreground_percent = None, 1.0
    for _ in range(10):
        target = next(loader)["target"]
        assert (target > 0).flatten(1).any(1).all()
    slices = {centre[0] for centre in centres(loader, loader.indices[0], 100)}
    _, segmentation, _, _ = loader._data.load_case(loader.indices[0])
    assert len(slices) > 5 and (segmentation[0][sorted(slices)] > 0).any((1, 2)).all()


@pytest.mark.nnunet
def test_classes_without_instance_terms_are_drawn_by_voxel(boxes):
    precompute(CLASSES)
    trainer = ready(make(boxes, CLASSES, classes=["even"]))
    _, _, _, properties = trainer.dataloader_train.data_loader._data.load_case("case_0")
    assert len(properties["class_locations"][2]) == 1 < len(properties["class_locations"][1])


@pytest.mark.nnunet
def test_tables_lie_on_the_grid_that_nnunet_transposed_cropped_and_resampled(boxes):
    from nnunet_datasets import configuration, preprocess, write_plans

    folders, plans = boxes
    plan = configuration("3d_fullres", [24, 24, 24], [1.2, 0.9, 1.0])
    plans[CLASSES] = write_plans(folders, CLASSES, {"3d_fullres": plan}, transpose=[1, 2, 0])
    preprocess(folders, plans[CLASSES], "3d_fullres")
    precompute(CLASSES)
    dataset = ready(make(boxes, CLASSES)).dataloader_train.data_loader._data
    for case in dataset.identifiers:
        segmentation = dataset.load_case(case)[1][:][0]
        assert segmentation.shape == (33, 40, 26)  # (40, 36, 26 of 28) at 1 mm
        for _ in range(20):
            for label, ((_, *voxel),) in dataset.load_case(case)[3]["class_locations"].items():
                assert segmentation[tuple(voxel)] == label


@pytest.mark.nnunet
@pytest.mark.parametrize("source", ["patch", "precomputed"])
def test_the_second_stage_of_a_cascade_trains(boxes, source):
    import blosc2
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    _, plans = boxes
    configurations = plans[BOXES]["configurations"]
    second = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    configurations["3d_lowres"] = {**configurations["3d_fullres"], "next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = second
    precompute(BOXES)  # both share their data
    trainer = make(boxes, BOXES, "3d_cascade_fullres", nnUNetTrainerBlob, source=source)
    previous = Path(trainer.folder_with_segs_from_previous_stage)
    previous.mkdir(parents=True)
    for path in Path(trainer.preprocessed_dataset_folder).glob("*_seg.b2nd"):
        segmentation = blosc2.open(str(path))[:][0]
        nnUNetDatasetBlosc2.save_seg(segmentation, str(previous / path.name.removesuffix("_seg.b2nd")))
    ready(trainer)
    data, _, seen, properties = trainer.dataloader_train.data_loader._data.load_case("case_0")
    assert seen.shape == data.shape[1:] and len(properties["class_locations"][1]) == 1
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


@pytest.mark.nnunet
def test_no_voxel_of_an_image_or_a_map_is_read_for_it(boxes, monkeypatch):
    import blosc2

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    precompute(BOXES)
    trainer = ready(make(boxes, BOXES, trainer=nnUNetTrainerBlob))
    dataset = trainer.dataloader_train.data_loader._data

    def read(*_):
        raise AssertionError("an array was read")

    monkeypatch.setattr(blosc2.NDArray, "__getitem__", read)
    data, segmentation, _, properties = dataset.load_case("case_0")
    assert len(properties["class_locations"][1]) == 1
    for array in (data, segmentation):
        with pytest.raises(AssertionError, match="was read"):
            array[:]


@pytest.mark.nnunet
def test_only_a_patch_that_must_show_foreground_reads_the_table(boxes):
    precompute(BOXES)
    loader = ready(make(boxes, BOXES)).dataloader_train.data_loader
    (boxes[0].preprocessed / BOXES / "nnUNetPlans_3d_fullres_instances" / "case_0.npz").unlink()
    data, _, _, properties = loader._data.load_case("case_0")
    loader.get_bbox(data.shape[1:], False, properties["class_locations"])
    with pytest.raises(UserError, match="case 'case_0': cannot read the table"):
        loader.get_bbox(data.shape[1:], True, properties["class_locations"])


@pytest.mark.nnunet
def test_the_voxel_of_a_patch_is_drawn_once(boxes):
    precompute(CLASSES)
    _, _, _, properties = ready(make(boxes, CLASSES)).dataloader_train.data_loader._data.load_case("case_0")
    locations = properties["class_locations"]
    assert (
        len({tuple(map(tuple, locations[1])) for _ in range(20)}) == 1 and len(locations) == len(dict(locations)) == 2
    )


@pytest.mark.nnunet
def test_without_the_setting_the_dataset_is_nnunets_and_with_a_seed_draws_repeat(boxes):
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    precompute(BOXES)
    stock = ready(make(boxes, BOXES, sampling="voxel")).dataloader_train.data_loader
    assert type(stock._data) is nnUNetDatasetBlosc2
    found = [centres(ready(make(boxes, BOXES)).dataloader_train.data_loader, "case_0", 5) for _ in range(2)]
    assert found[0] == found[1] != centres(stock, "case_0", 5)


# --- tables that are not there or cannot be trusted -----------------------------------------------------------


def stopped_with(trainer) -> str:
    with pytest.raises(SystemExit) as stop:
        trainer.run_training()
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    assert not list(Path(trainer.output_folder).glob("*.pth"))
    return stop.value.code


COMMAND = "nnunet-instance precompute -d 901 -c 3d_fullres -p nnUNetPlans"


@pytest.mark.nnunet
@pytest.mark.parametrize("source", ["none", "patch"])
def test_tables_never_made_stop_the_training_and_precompute_mends_it(boxes, source):
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    settings = {} if source == "none" else {"trainer": nnUNetTrainerBlob, "source": source}
    line = stopped_with(make(boxes, BOXES, **settings))
    assert "setting 'sampling' needs the tables" in line and f"run '{COMMAND}'" in line
    precompute(BOXES)
    trainer = make(boxes, BOXES, **settings)
    trainer.run_training()
    assert trainer.instance_source == source


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.nnunet
@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda table, _: table.unlink(), "missing"),
        (lambda table, _: _flip_a_bit(table), "damaged"),
        (lambda _, segmentation: _flip_a_bit(segmentation), "older than its preprocessed segmentation"),
    ],
    ids=["missing", "damaged", "stale"],
)
def test_a_table_that_cannot_be_trusted_stops_the_training_and_precompute_mends_it(boxes, damage, says):
    precompute(BOXES)
    preprocessed = boxes[0].preprocessed / BOXES / "nnUNetPlans_3d_fullres"
    damage(preprocessed.with_name(f"{preprocessed.name}_instances") / "case_1.npz", preprocessed / "case_1_seg.b2nd")
    line = stopped_with(make(boxes, BOXES))
    assert "case 'case_1'" in line and says in line and f"run '{COMMAND}'" in line
    if says != "older than its preprocessed segmentation":
        precompute(BOXES)
        ready(make(boxes, BOXES))


@pytest.mark.nnunet
def test_tables_made_without_a_class_of_the_training_stop_it(boxes):
    from nnunet_datasets import write_plans

    folders, plans = boxes
    configurations = plans[CLASSES]["configurations"]
    configurations["3d_fullres"]["instance_training"] = {"classes": ["odd"]}
    write_plans(folders, CLASSES, configurations)
    precompute(CLASSES)
    assert "were made without class 2: run 'nnunet-instance precompute -d 902" in stopped_with(make(boxes, CLASSES))


@pytest.mark.nnunet
def test_the_old_numpy_format_is_refused(boxes):
    precompute(BOXES)
    folder = boxes[0].preprocessed / BOXES / "nnUNetPlans_3d_fullres"
    for path in folder.glob("*_seg.b2nd"):
        path.unlink()
    for path in folder.glob("*.b2nd"):
        path.rename(path.with_suffix(".npz"))
    assert "old numpy format" in stopped_with(make(boxes, BOXES))
