"""The trainers are nnU-Net's with a better loss, and nothing of nnU-Net notices the ids."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import pkgutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.nnunet

BOXES, CLASSES, REGIONS, IGNORE = "Dataset901_Boxes", "Dataset902_Classes", "Dataset903_Regions", "Dataset904_Ignore"
TINY = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 0}


def make(boxes, dataset=BOXES, configuration="3d_fullres", trainer=None, resume=False, **settings):
    from nnunet_datasets import make_trainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    folders, plans = boxes
    plan = plans[dataset]["configurations"][configuration]
    plan["instance_training"] = {"source": "patch", **TINY, **settings}
    return make_trainer(trainer or nnUNetTrainerBlob, folders, plans[dataset], configuration, resume=resume)


def ready(trainer):
    """The trainer as run_training has it before the first step."""
    trainer.initialize()
    trainer.on_train_start()
    return trainer


def stopped_with(trainer) -> str:
    with pytest.raises(SystemExit) as stop:
        trainer.run_training()
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code  # a string means exit status 1
    return stop.value.code


# --- the class --------------------------------------------------------------------------------------------------


def test_names_signatures_and_docstrings_are_what_nnunet_needs():
    import nnunetv2.training.nnUNetTrainer as theirs
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_instance_trainers import trainers

    modules = {m.name.rpartition(".")[2] for m in pkgutil.walk_packages(theirs.__path__, theirs.__name__ + ".")}
    sources = "\n".join(path.read_text() for path in Path(theirs.__path__[0]).rglob("nnUNetTrainer*.py"))
    for name in trainers.__all__:
        ours = getattr(trainers, name)
        assert name not in modules and f"class {name}(" not in sources  # built-in names win
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(nnUNetTrainer).parameters)
        assert pickle.loads(pickle.dumps(ours)) is ours and ours.__module__.startswith("nnunet_instance_trainers.")
        assert ours.__doc__


def test_settings_reach_the_trainer(boxes):
    trainer = make(boxes, num_epochs=7, num_iterations_per_epoch=3, num_val_iterations_per_epoch=4, initial_lr=0.5)
    numbers = trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch
    assert (*numbers, trainer.initial_lr) == (7, 3, 4, 0.5)
    trainer.initialize()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5


def test_without_settings_nnunets_own_stay_also_those_of_another_variant(boxes):
    from nnunet_datasets import make_trainer
    from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    class Both(nnUNetTrainerBlob, nnUNetTrainer_5epochs):
        pass

    folders, plans = boxes
    assert make_trainer(nnUNetTrainerBlob, folders, plans[BOXES], "3d_fullres").num_epochs == 1000
    assert make_trainer(Both, folders, plans[BOXES], "3d_fullres").num_epochs == 5


@pytest.mark.parametrize(
    "settings, says",
    [
        (
            {"wieghts": {}},
            "unknown setting 'wieghts' in configuration '3d_fullres' of plans 'nnUNetPlans': allowed are weights",
        ),
        ({"source": "magic"}, "'source'.*must be null, 'patch' or 'precomputed', got 'magic'"),
        ({"classes": ["cat"]}, "'classes' names 'cat': the classes of dataset.json are box"),
    ],
)
def test_a_wrong_setting_stops_before_anything_is_written(boxes, settings, says):
    with pytest.raises(SystemExit, match=says):
        make(boxes, **settings)
    assert not list(boxes[0].results.iterdir())


# --- loss and metrics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset, configuration", [*product([BOXES, CLASSES, REGIONS, IGNORE], ["2d", "3d_fullres"]), (BOXES, "3d_flat")]
)
@pytest.mark.parametrize("scales", [True, False])
def test_a_step_of_training_and_validation(boxes, dataset, configuration, scales):
    """Finite loss that moves the weights, with nnU-Net's metrics equal to those of the stock trainer."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = make(boxes, dataset, configuration)
    trainer.enable_deep_supervision = scales
    ready(trainer)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert any((p != q).any() for p, q in zip(trainer.network.parameters(), before))
    assert trainer.loss.compound.values["blob"] > 0
    batch = next(trainer.dataloader_val)
    n_ids = 2 if dataset == REGIONS else 1
    targets = batch["target"] if scales else [batch["target"]]
    stripped = [target[:, :-n_ids].clone() for target in targets]
    stripped = [target.bool() for target in stripped] if dataset == REGIONS else stripped
    trainer.network.eval()
    with torch.no_grad():
        ours = trainer.validation_step(batch)
        weighted = trainer.loss
        trainer.loss = nnUNetTrainer._build_loss(trainer)
        stock = nnUNetTrainer.validation_step(trainer, {**batch, "target": stripped if scales else stripped[0]})
    for name in ("tp_hard", "fp_hard", "fn_hard"):
        assert (ours[name] == stock[name]).all()
    values = weighted.compound.values
    assert values["pixel"].item() == pytest.approx(stock["loss"], rel=1e-5)
    assert ours["loss"] == pytest.approx(2 * values["pixel"].item() + values["blob"].item(), rel=1e-5)


def test_the_spacing_of_the_plans_reaches_the_cells(boxes):
    """In mm, and at a coarser scale as much larger as it has fewer voxels along each axis."""
    from nnunet_instance_trainers.instances import cell_map
    from nnunet_instance_trainers.trainers import nnUNetTrainerBiCC

    boxes[1][BOXES]["configurations"]["3d_fullres"]["spacing"] = [5.0, 1.0, 2.0]
    trainer = make(boxes, trainer=nnUNetTrainerBiCC)
    trainer.initialize()
    scales = [torch.zeros(1, 1, *size, dtype=torch.int64) for size in ((8, 8, 8), (8, 4, 4))]
    for scale in scales:
        scale[0, 0, 0, 0, 0], scale[0, 0, -1, -1, -1] = 1, 2
    problems = trainer.loss.compound.problems
    target_side = problems.target_side([(scale > 0).long() for scale in scales], scales, 2)
    for scale, place, spacing in zip(scales, target_side.cells("full").places, ((5, 1, 2), (5, 2, 4))):
        own = cell_map(scale[:, 0], spacing=spacing)
        assert torch.equal(place - place.min() + 1, own) and not torch.equal(own, cell_map(scale[:, 0]))


def test_catmil_warms_up_over_fifty_epochs(boxes):
    from nnunet_instance_trainers.trainers import nnUNetTrainerCATMIL

    trainer = ready(make(boxes, trainer=nnUNetTrainerCATMIL, num_epochs=100))
    for epoch, weight in ((0, 0.0), (25, 0.05), (50, 0.1), (99, 0.1)):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        weights = trainer.loss.compound.weights
        assert weights == pytest.approx({"pixel": 1, "component_tversky": weight, "instance_mil": 0.2})
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert min(trainer.loss.compound.values[name] for name in trainer.settings.terms) > 0


def test_the_blob_term_is_that_of_each_scale_with_nnunets_weights(boxes):
    from nnunet_instance_trainers.losses import BlobLoss

    trainer = ready(make(boxes, scales=1))
    batch = next(trainer.dataloader_train)
    outputs = [torch.randn(2, 2, *target.shape[2:]) for target in batch["target"]]
    first, weight = batch["target"][0], trainer.loss.compound.pixel_loss.weight_factors[0]
    split = trainer._take_instances(batch)["target"]
    trainer.loss(outputs, split)
    alone = BlobLoss()(outputs[0], first[:, :1], first[:, 1:])
    assert trainer.loss.compound.values["blob"].item() == pytest.approx(weight * alone.item(), rel=1e-5)


def test_settings_of_the_loss_each_change_it(boxes):
    outputs = batch = None
    losses = {}
    for name, settings in {
        "published": {},
        "weights": {"weights": {"blob": 3.0}},
        "unit": {"scale": "unit"},
        "criterion": {"criterion": "tversky"},
        "pixel": {"pixel_loss": "generalized_dice+focal"},
    }.items():
        trainer = ready(make(boxes, **settings))
        if outputs is None:
            batch = next(trainer.dataloader_train)
            outputs = [torch.randn(2, 2, *target.shape[2:]) for target in batch["target"]]
        losses[name] = trainer.loss(outputs, trainer._take_instances(batch)["target"]).item()
    assert len(set(losses.values())) == len(losses)
    assert losses["unit"] == pytest.approx(losses["published"] / 2, rel=1e-6)


def every_trainer() -> list[str]:
    tree = ast.parse((Path(__file__).parents[2] / "nnunet_instance_trainers/trainers/__init__.py").read_text())
    (names,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    return ast.literal_eval(names)


@pytest.mark.parametrize("name", every_trainer())
@pytest.mark.parametrize("dataset, configuration", [(CLASSES, "3d_fullres"), (REGIONS, "2d"), (IGNORE, "3d_fullres")])
def test_every_trainer_does_a_step_of_training_and_validation(boxes, name, dataset, configuration):
    from nnunet_instance_trainers import trainers

    trainer = ready(make(boxes, dataset, configuration, trainer=getattr(trainers, name)))
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]  # the coarsest scale has none
    assert all(gradient.isfinite().all() for gradient in gradients) and any(gradient.any() for gradient in gradients)
    trainer.network.eval()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])
    assert list(trainer.loss.compound.values) == trainer.settings.parts


@pytest.mark.parametrize("dataset", [BOXES, REGIONS])
def test_one_half_of_nnunets_loss_can_be_taken(boxes, dataset):
    outputs = None
    values = {}
    for setting in ("nnunet", "nnunet_ce", "nnunet_dice"):
        trainer = ready(make(boxes, dataset, pixel_loss=setting))
        if outputs is None:
            batch = next(trainer.dataloader_train)
            outputs = [torch.randn(2, 2, *target.shape[2:]) for target in batch["target"]]
        trainer.loss(outputs, trainer._take_instances(batch)["target"])
        values[setting] = trainer.loss.compound.values["pixel"].item()
    assert values["nnunet"] == pytest.approx(values["nnunet_ce"] + values["nnunet_dice"], rel=1e-5)
    assert values["nnunet_dice"] < 0 < values["nnunet_ce"]  # nnU-Net's Dice is minus Dice


def test_a_trainer_that_needs_no_ids_asks_for_no_maps(boxes):
    from nnunet_instance_trainers.trainers import nnUNetTrainerTopKDice

    trainer = ready(make(boxes, trainer=nnUNetTrainerTopKDice, source=None))  # instancesTr, nothing precomputed
    assert trainer.instance_source == "none" and next(trainer.dataloader_train)["target"][0].shape[1] == 1


def test_the_published_form_of_proximity_warns(boxes):
    from nnunet_instance_trainers.trainers import nnUNetTrainerProximity

    with pytest.warns(UserWarning, match="pushes true positives down"):
        make(boxes, trainer=nnUNetTrainerProximity, proximity_form="mse").initialize()


def test_the_baseline_is_the_stock_loss_on_the_stock_pipeline(boxes):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerInstanceBaseline

    trainer = ready(make(boxes, trainer=nnUNetTrainerInstanceBaseline))
    batch = next(trainer.dataloader_train)
    assert batch["target"][0].shape[1] == 1
    outputs = [torch.randn(2, 2, *target.shape[2:]) for target in batch["target"]]
    assert trainer.loss(outputs, batch["target"]) == nnUNetTrainer._build_loss(trainer)(outputs, batch["target"])


# --- a training's course ----------------------------------------------------------------------------------------


def rows(trainer) -> list[list[str]]:
    return [line.split(",") for line in (Path(trainer.output_folder) / "instance_losses.csv").read_text().splitlines()]


def test_the_parts_of_the_loss_are_recorded_once_per_epoch_also_after_a_resume(boxes):
    trainer = make(boxes)
    trainer.run_training()
    header, *epochs = rows(trainer)
    assert header == ["epoch", "train_pixel", "train_blob", "val_pixel", "val_blob"]
    assert [row[0] for row in epochs] == ["0", "1"] and all(row[2] for row in epochs)
    assert (Path(trainer.output_folder) / "instance_losses.png").stat().st_size > 5000
    assert "loss parts: train_pixel" in "".join(p.read_text() for p in Path(trainer.output_folder).glob("*.txt"))
    resumed = make(boxes, resume=True, num_epochs=4)
    resumed.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    resumed.run_training()
    assert rows(resumed)[:3] == [header, *epochs] and [row[0] for row in rows(resumed)[1:]] == ["0", "1", "2", "3"]
    restarted = make(boxes)
    restarted.run_training()
    assert rows(restarted) == [header, *epochs]  # the seed makes a training repeatable, and old rows are gone


def test_a_resumed_training_keeps_its_source(boxes):
    from nnunet_instance_trainers.data.precompute import precompute

    folders, plans = boxes
    trainer = make(boxes)
    trainer.run_training()
    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    del plans[BOXES]["configurations"]["3d_fullres"]["instance_training"]["source"]
    from nnunet_datasets import make_trainer

    fresh = make_trainer(type(trainer), folders, plans[BOXES], "3d_fullres")
    resumed = make_trainer(type(trainer), folders, plans[BOXES], "3d_fullres", resume=True)
    assert fresh._choose_source() == "precomputed" and resumed._choose_source() == "patch"


def test_a_training_resumed_with_its_first_id_term_gets_ids(boxes):
    from nnunet_instance_trainers.trainers import nnUNetTrainerInstanceBaseline

    make(boxes, trainer=nnUNetTrainerInstanceBaseline).run_training()
    resumed = make(boxes, trainer=nnUNetTrainerInstanceBaseline, resume=True, weights={"blob": 1.0})
    assert resumed._choose_source() == "patch"


def test_without_maps_components_are_the_source_and_the_log_says_so(boxes):
    import shutil

    shutil.rmtree(boxes[0].raw / BOXES / "instancesTr")
    trainer = ready(make(boxes, source=None))
    assert trainer.instance_source == "patch"
    assert "instance ids: patch" in "".join(p.read_text() for p in Path(trainer.output_folder).glob("*.txt"))


# --- bad input --------------------------------------------------------------------------------------------------


def test_annotators_maps_without_precompute_stop_the_training(boxes):
    line = stopped_with(make(boxes, source=None))
    assert "nnunet-instance precompute -d 901 -c 3d_fullres -p nnUNetPlans" in line and '"source": "patch"' in line


def _truncate(folder, _):
    path = folder / "case_1.b2nd"
    path.write_bytes(path.read_bytes()[:60])


def _remove(folder, _):
    (folder / "case_1.b2nd").unlink()


def _preprocess_again(folder, preprocessed):
    path = preprocessed / "case_1_seg.b2nd"
    path.write_bytes((preprocessed / "case_0_seg.b2nd").read_bytes())


@pytest.mark.parametrize(
    "damage, says",
    [
        (_truncate, "is damaged"),
        (_remove, "is missing"),
        (_preprocess_again, "is older than its preprocessed segmentation"),
    ],
)
def test_a_map_that_cannot_be_trusted_stops_before_the_first_epoch_and_precompute_mends_it(boxes, damage, says):
    from nnunet_instance_trainers.data.precompute import precompute

    folders, _ = boxes
    preprocessed = folders.preprocessed / BOXES / "nnUNetPlans_3d_fullres"
    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    damage(preprocessed.with_name("nnUNetPlans_3d_fullres_instances"), preprocessed)
    trainer = make(boxes, source=None)
    line = stopped_with(trainer)
    assert "case 'case_1'" in line and says in line and "nnunet-instance precompute -d 901 -c 3d_fullres" in line
    assert trainer.current_epoch == 0 and not list(Path(trainer.output_folder).glob("*.pth"))
    if damage is not _preprocess_again:
        precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
        ready(make(boxes, source=None))


def test_ids_that_were_corrected_or_added_after_precompute_stop_the_training(boxes):
    from nnunet_instance_trainers.data.precompute import precompute

    raw = boxes[0].raw / BOXES
    hidden = (raw / "instancesTr").rename(raw / "hidden")
    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    ready(make(boxes, source=None))
    hidden.rename(raw / "instancesTr")
    line = stopped_with(make(boxes, source=None))
    assert "made from components" in line and "run 'nnunet-instance precompute -d 901 -c 3d_fullres" in line
    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    ready(make(boxes, source=None))
    corrected = raw / "instancesTr" / "case_2.nii.gz"
    corrected.write_bytes((raw / "instancesTr" / "case_1.nii.gz").read_bytes())
    assert f"case 'case_2': {corrected} changed after its instance map was made" in stopped_with(
        make(boxes, source=None)
    )


def test_maps_asked_for_but_never_made_stop_the_training(boxes):
    assert "no instance maps in" in stopped_with(make(boxes, source="precomputed"))


def test_the_old_numpy_format_is_refused(boxes):
    folder = boxes[0].preprocessed / BOXES / "nnUNetPlans_3d_fullres"
    for path in folder.glob("*_seg.b2nd"):
        path.unlink()
    for path in folder.glob("*.b2nd"):
        path.rename(path.with_suffix(".npz"))
    assert "old numpy format" in stopped_with(make(boxes))


def test_recorded_settings_are_json(boxes):
    trainer = ready(make(boxes))
    assert json.loads((Path(trainer.output_folder) / "instance_training.json").read_text())["source"] == "patch"
