"""Instance scores during training, and the checkpoint that they choose."""

from __future__ import annotations

import csv
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.nnunet

BOXES, CLASSES, REGIONS, IGNORE = "Dataset901_Boxes", "Dataset902_Classes", "Dataset903_Regions", "Dataset904_Ignore"
TINY = {"num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 2, "seed": 0}

# The moving averages are 50 54 53 49 and 20 24 27 28 per cent, so that each metric has a best epoch of its own.
DICE, F1 = [0.5, 0.9, 0.44, 0.13], [0.2, 0.6, 0.54, 0.37]
BEST = {"dice": 1, "mean": 2, "f1": 3}


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch, request):
    """Drawing three figures per epoch would take most of the time."""
    if "figure" not in request.node.name:
        from nnunetv2.training.logging.nnunet_logger import MetaLogger

        from nnunet_instance_trainers.training.loss_csv import LossRecord
        from nnunet_instance_trainers.training.scores_csv import ScoreRecord

        monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: None)
        monkeypatch.setattr(LossRecord, "_draw", lambda *_: None)
        monkeypatch.setattr(ScoreRecord, "_draw", lambda *_: None)


def make(boxes, dataset=BOXES, trainer=None, resume=False, **settings):
    from nnunet_datasets import make_trainer

    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob

    folders, plans = boxes
    plans[dataset]["configurations"]["3d_fullres"]["instance_training"] = {"source": "patch", **TINY, **settings}
    return make_trainer(trainer or nnUNetTrainerBlob, folders, plans[dataset], "3d_fullres", resume=resume)


def acting(trainer, dice, f1, stop_before=None):
    """The trainer with steps that leave the epoch's number in the network and give these scores.

    Its epochs are as many as there are scores; it is killed in the validation of epoch ``stop_before``.
    """

    def train_step(batch):
        for parameter in trainer.network.parameters():
            parameter.data.fill_(trainer.current_epoch)
        return {"loss": np.array(0.0)}

    def validation_step(batch):
        epoch = trainer.current_epoch
        if epoch == stop_before:
            raise KeyboardInterrupt
        overlap = np.array([0 if isnan(dice[epoch]) else 1000 * dice[epoch]])
        rest = np.array([0 if isnan(dice[epoch]) else 1000 * (1 - dice[epoch])])
        found = 0 if isnan(f1[epoch]) else round(100 * f1[epoch])
        n = 0 if isnan(f1[epoch]) else 100
        objects = np.array([[n, n, found, found, found, 50 * n, 50 * n, 25 * n]])
        return {"loss": np.array(0.0), "tp_hard": overlap, "fp_hard": rest, "fn_hard": rest, "objects": objects}

    trainer.num_epochs = len(dice)
    trainer.train_step, trainer.validation_step = train_step, validation_step
    return trainer


def checkpoint(trainer, name: str) -> dict:
    return torch.load(Path(trainer.output_folder) / f"checkpoint_{name}.pth", weights_only=False)


def epoch_of(saved: dict) -> int:
    """The epoch whose network is in a checkpoint."""
    values = {float(value) for weights in saved["network_weights"].values() for value in weights.unique()}
    assert len(values) == 1
    return int(values.pop())


def rows(trainer) -> list[dict[str, str]]:
    with open(Path(trainer.output_folder) / "instance_scores.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def log(trainer) -> str:
    return "".join(path.read_text() for path in sorted(Path(trainer.output_folder).glob("training_log*.txt")))


# --- the best epoch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", BEST)
@pytest.mark.parametrize("dice, f1, best_epoch", [(DICE, F1, BEST), (F1, DICE, {"dice": 3, "mean": 2, "f1": 1})])
def test_each_metric_picks_its_own_epoch_and_saves_it_whole(boxes, metric, dice, f1, best_epoch):
    trainer = acting(make(boxes, checkpoint_metric=metric), dice, f1)
    trainer.run_training()
    best, final = checkpoint(trainer, "best"), checkpoint(trainer, "final")
    assert epoch_of(best) == best_epoch[metric] and best["current_epoch"] == best_epoch[metric] + 1
    assert {len(values) for values in best["logging"].values()} == {
        best_epoch[metric] + 1
    }  # no value is missing in its log
    assert epoch_of(final) == 3 and final["current_epoch"] == 4 and trainer.current_epoch == 4
    assert [row["epoch"] for row in rows(trainer)] == ["0", "1", "2", "3"]
    assert max(int(row["epoch"]) for row in rows(trainer) if row["best"]) == best_epoch[metric]


@pytest.mark.parametrize("dice", [DICE, [0.5, nan, 0.9, 0.1], [nan, 0.5, 0.9, 0.1]])
def test_without_the_setting_checkpoints_and_log_are_the_stock_trainers(boxes, dice):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    ours = acting(make(boxes), dice, F1)
    stock = acting(make(boxes, trainer=nnUNetTrainer), dice, F1)
    stock.num_iterations_per_epoch, stock.num_val_iterations_per_epoch = 1, 2
    for trainer in (ours, stock):
        trainer.run_training()
    for name in ("best", "final"):
        a, b = checkpoint(ours, name), checkpoint(stock, name)
        assert list(a) == list(b) and (a["current_epoch"], epoch_of(a)) == (b["current_epoch"], epoch_of(b))
        np.testing.assert_equal(a["_best_ema"], b["_best_ema"])
        assert list(a["logging"]) == list(b["logging"])
        for key in ("mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region"):
            np.testing.assert_equal(a["logging"][key], b["logging"][key])
    marked = [int(row["epoch"]) for row in rows(ours) if row["best"]]
    assert max(marked) == epoch_of(checkpoint(stock, "best"))


@pytest.mark.parametrize("metric, best", [("f1", 4), ("mean", 4)])
@pytest.mark.parametrize("hole", [0, 2, 3])
def test_a_nan_epoch_spoils_nothing(boxes, metric, best, hole):
    dice, f1 = [0.2, 0.3, 0.2, 0.2, 0.9, 0.1], [0.2, 0.3, 0.2, 0.2, 0.9, 0.1]
    dice[hole] = f1[hole] = nan
    trainer = acting(make(boxes, checkpoint_metric=metric), dice, f1)
    trainer.run_training()
    saved = checkpoint(trainer, "best")
    assert (epoch_of(saved), saved["current_epoch"]) == (best, best + 1)
    assert rows(trainer)[hole]["f1"] == "" and rows(trainer)[-1]["f1_average"] and trainer.score_record.best > 0.2


@pytest.mark.parametrize("metric", ["f1", "mean"])
def test_a_resumed_training_keeps_best_value_average_and_rows(boxes, metric):
    dice, f1 = [0.5, 0.9, 0.1, 0.2, 0.3, 0.3], [0.3, 0.9, 0.1, 0.2, 0.3, 0.35]
    whole = acting(make(boxes, checkpoint_metric=metric), dice, f1)
    whole.run_training()
    expected, best = rows(whole), whole.score_record.best
    for path in Path(whole.output_folder).iterdir():
        path.unlink()
    killed = acting(make(boxes, checkpoint_metric=metric), dice, f1, stop_before=4)
    killed.save_every = 3
    with pytest.raises(KeyboardInterrupt):
        killed.run_training()
    assert len(rows(killed)) == 4 and checkpoint(killed, "latest")["current_epoch"] == 3
    resumed = acting(make(boxes, checkpoint_metric=metric, resume=True), dice, f1)
    resumed.load_checkpoint(str(Path(killed.output_folder) / "checkpoint_latest.pth"))
    resumed.run_training()
    assert rows(resumed) == expected and resumed.score_record.best == best
    # The best epoch lies before the break, so the resumed run must not have chosen one of its own.
    assert epoch_of(checkpoint(resumed, "best")) == 1 and "chosen anew" not in log(resumed)


def test_resumed_without_the_csv_the_log_says_that_the_best_is_chosen_anew(boxes):
    trainer = acting(make(boxes, checkpoint_metric="f1"), DICE, F1)
    trainer.run_training()
    (Path(trainer.output_folder) / "instance_scores.csv").unlink()
    resumed = acting(make(boxes, checkpoint_metric="f1", resume=True), [*DICE, 0.1], [*F1, 0.1])
    resumed.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    resumed.run_training()
    assert "checkpoint_best.pth is chosen anew" in log(resumed) and epoch_of(checkpoint(resumed, "best")) == 4


def test_the_stock_trainer_goes_on_from_our_checkpoint(boxes):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    ours = acting(make(boxes, checkpoint_metric="f1"), DICE, F1)
    ours.run_training()
    stock = acting(make(boxes, trainer=nnUNetTrainer, resume=True), [*DICE, 0.99], [*F1, 0.1])
    stock.num_iterations_per_epoch, stock.num_val_iterations_per_epoch = 1, 2
    stock.load_checkpoint(str(Path(ours.output_folder) / "checkpoint_best.pth"))
    assert stock.current_epoch == 4 and stock._best_ema == pytest.approx(0.54)
    stock.run_training()
    assert checkpoint(stock, "final")["current_epoch"] == 5


def test_disabled_checkpoints_stay_disabled(boxes):
    trainer = acting(make(boxes, checkpoint_metric="f1"), DICE, F1)
    trainer.disable_checkpointing = True
    trainer.run_training()
    assert not list(Path(trainer.output_folder).glob("*.pth")) and len(rows(trainer)) == 4


# --- what is counted --------------------------------------------------------------------------------------------


def ready(trainer):
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.eval()
    return trainer


def seen_by_nnunet(trainer, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Full-resolution output and target, got by another forward pass."""
    target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
    with torch.no_grad():
        output = trainer.network(batch["data"])
    return output[0] if isinstance(output, (list, tuple)) else output, target


@pytest.mark.parametrize("dataset", [BOXES, CLASSES, REGIONS, IGNORE])
@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("baseline", [False, True])
def test_a_validation_step_counts_what_the_network_says(boxes, dataset, scales, baseline):
    from nnunet_instance_trainers.evaluation import Counts, detect
    from nnunet_instance_trainers.instances import label_components
    from nnunet_instance_trainers.trainers import nnUNetTrainerBlob, nnUNetTrainerInstanceBaseline
    from nnunet_instance_trainers.training.patch_counts import as_counts

    trainer = make(boxes, dataset, nnUNetTrainerInstanceBaseline if baseline else nnUNetTrainerBlob)
    trainer.enable_deep_supervision = scales
    batch = next(ready(trainer).dataloader_val)
    output, target = seen_by_nnunet(trainer, batch)
    regions = dataset == REGIONS
    masks = target.bool() if regions else torch.stack([target[:, 0] == c for c in range(1, output.shape[1])], 1)
    winner = output.argmax(1)
    predicted = output > 0 if regions else torch.stack([winner == c for c in range(1, output.shape[1])], 1)
    valid = (target[:, 0] != 2).numpy() if dataset == IGNORE else [None] * len(output)
    forwards = []
    trainer.network.register_forward_hook(lambda *_: forwards.append(1))
    with torch.no_grad():
        counted = trainer.validation_step(batch)["objects"]
    assert len(forwards) == 1 and len(counted) == predicted.shape[1] and counted[:, 0].all()
    for channel, row in enumerate(counted):
        expected = Counts()
        for mask, image, where in zip(masks[:, channel].numpy(), predicted[:, channel].numpy(), valid):
            expected += detect(label_components(mask)[0].astype(np.int32), image, valid=where).counts
        got = as_counts(row)
        for name in ("instances", "components", "found", "hits", "f1_iou50", "target_voxels", "predicted_voxels"):
            np.testing.assert_equal(getattr(got, name), getattr(expected, name))


def test_the_instances_are_those_that_the_loss_gets(boxes):
    from nnunet_instance_trainers.data.precompute import precompute
    from nnunet_instance_trainers.instances import label_components

    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", 1)
    trainer = ready(make(boxes, source=None))
    batch = next(trainer.dataloader_val)
    labels, ids = batch["target"][0][:, 0].numpy(), batch["target"][0][:, 1].numpy()
    with torch.no_grad():
        (counts,) = trainer.validation_step(batch)["objects"]
    touching = sum(label_components(sample)[1] for sample in labels)
    assert counts[0] == sum(len(np.unique(sample[sample > 0])) for sample in ids) > touching


def test_counts_are_pooled_over_steps_and_processes(boxes, monkeypatch):
    """Two processes: the other one has nothing found among 300 instances, in 100 components."""
    trainer = acting(ready(make(boxes)), [0.5], [0.5])
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([{"loss": 0.0}])
    outputs = [trainer.validation_step(None), trainer.validation_step(None)]

    def gather(into, mine):
        other = mine
        if getattr(mine, "shape", None) == outputs[0]["objects"].shape:
            other = np.array([[300, 100, 0, 0, 0, 0, 0, 0]])
        into[:] = [mine, other]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    trainer.is_ddp = True
    trainer.on_validation_epoch_end(outputs)
    trainer.is_ddp = False
    assert (trainer.scores["instances"], trainer.scores["found"]) == ([500], [100])
    assert (trainer.scores["sensitivity"], trainer.scores["precision"]) == ([0.2], [1 / 3])


def test_classes_have_their_names_and_only_the_chosen_enter_the_mean(boxes):
    from nnunet_instance_trainers.trainers import nnUNetTrainerInstanceBaseline

    trainer = make(boxes, CLASSES, nnUNetTrainerInstanceBaseline, classes=["even"], num_epochs=1)
    trainer.run_training()
    (row,) = rows(trainer)
    assert int(row["odd_instances"]) > 0 and int(row["even_instances"]) > 0
    assert row["sensitivity"] == row["even_sensitivity"] and row["volume_ratio"] == row["even_volume_ratio"]


@pytest.mark.parametrize(
    "labels, regions, names",
    [
        ({"background": 0, "b": 2, "a": [1], "ignore": 3}, False, ["a", "b"]),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, True, ["whole", "core"]),
    ],
)
def test_the_order_of_classes_is_that_of_nnunets_scores(labels, regions, names):
    from types import SimpleNamespace

    from nnunet_instance_trainers.training.instance_scoring import nnUNetTrainerScored

    stand_in = SimpleNamespace(dataset_json={"labels": labels}, label_manager=SimpleNamespace(has_regions=regions))
    assert nnUNetTrainerScored._class_names(stand_in) == names


def test_scores_stand_in_the_log_beside_the_pseudo_dice_and_in_a_figure(boxes):
    trainer = acting(make(boxes, checkpoint_metric="f1"), DICE, F1)
    trainer.run_training()
    lines = [line.split(": ", 1)[1].strip() for line in log(trainer).splitlines() if ": " in line]
    (first, *_) = [line for line in lines if line.startswith("instance scores")]
    assert first == (
        "instance scores: f1 [0.2], sensitivity [0.2], precision [0.2], f1_iou50 [0.2], volume_ratio [1.0]"
    )
    assert lines[lines.index(first) + 3].startswith("Pseudo dice")
    assert sum(line.startswith("new best moving average (f1)") for line in lines) == 4
    assert (Path(trainer.output_folder) / "instance_scores.png").stat().st_size > 10000


# --- the final validation ---------------------------------------------------------------------------------------


@pytest.fixture
def validated(boxes, monkeypatch):
    """A trainer whose final validation finds predictions in place of making them: the truth, less one object."""
    import SimpleITK as sitk
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_instance_trainers.instances import label_components

    trainer = make(boxes)
    truth = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir()
    image = sitk.ReadImage(str(truth / "case_3.nii.gz"))
    labels = sitk.GetArrayFromImage(image)
    labels[label_components(labels)[0] == 1] = 0
    predicted = sitk.GetImageFromArray(labels)
    predicted.CopyInformation(image)

    def stock(self, save_probabilities=False):
        sitk.WriteImage(predicted, str(folder / "case_3.nii.gz"))
        (folder / "summary.json").write_text("nnU-Net's own")

    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", stock)
    return trainer, folder, sitk.GetArrayFromImage(image)


@pytest.mark.parametrize("annotated", [True, False])
def test_the_final_validation_writes_instance_scores_beside_nnunets_summary(boxes, validated, annotated):
    import shutil

    from nnunet_instance_trainers.evaluation.scoring.folder_scores import read_evaluation
    from nnunet_instance_trainers.instances import label_components

    trainer, folder, labels = validated
    if not annotated:
        shutil.rmtree(boxes[0].raw / BOXES / "instancesTr")
    told = {}
    trainer.logger.loggers.append(SimpleNamespace(log_summary=told.__setitem__))
    for _ in range(2):  # '--val' validates again
        trainer.perform_actual_validation()
    evaluation = read_evaluation(folder / "instance_scores")
    (case,) = evaluation.cases
    n_components = label_components(labels)[1]
    assert case["case"] == "case_3" and case["components"] == n_components - 1 and case["false"] == 0
    # All boxes have a twin that touches them; only the annotators' maps tell both apart.
    assert (case["instances"] > n_components) is annotated
    assert case["missed"] >= 1 and (folder / "summary.json").read_text() == "nnU-Net's own"
    assert "Instance scores of the validation" in log(trainer) and "volume_ratio" in log(trainer)
    for name in ("instances", "missed", "false", "f1", "precision"):
        assert told[f"instance_scores/final_val/{name}"] == pytest.approx(case[name])


def test_a_map_that_does_not_fit_costs_the_scores_but_not_the_validation(boxes, validated):
    trainer, folder, _ = validated
    (boxes[0].raw / BOXES / "instancesTr" / "case_3.nii.gz").unlink()
    trainer.perform_actual_validation()
    assert "no instance scores of the validation: the instance map of case 'case_3'" in log(trainer)
    assert (folder / "summary.json").is_file() and not (folder / "instance_scores").exists()


def test_a_class_without_ids_that_the_settings_name_away_is_scored_by_components(boxes, validated):
    from nnunet_instance_trainers.evaluation.scoring.folder_scores import read_evaluation

    trainer, folder, _ = validated
    trainer._chosen_names = lambda: []  # as with classes=... that leaves out the only one with ids
    trainer.perform_actual_validation()
    by_components = read_evaluation(folder / "instance_scores")
    assert by_components.cases[0]["instances"] == by_components.cases[0]["components"] + 1
    assert by_components.summary["settings"]["instance_classes"] == []


def test_the_classes_of_the_settings_are_those_that_have_ids(boxes):
    trainer = make(boxes, CLASSES, classes=["odd"])
    assert trainer._chosen_names() == ["odd"]
    assert make(boxes, REGIONS)._chosen_names() == make(boxes, REGIONS)._class_names()


def test_no_error_of_the_scores_ends_a_training_that_is_done(validated, monkeypatch):
    from nnunet_instance_trainers.training import instance_scoring

    def fail(*_, **__):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(instance_scoring, "evaluate", fail)
    trainer, _, _ = validated
    trainer.perform_actual_validation()
    assert "no instance scores of the validation: ZeroDivisionError: of ours" in log(trainer)


def test_only_one_process_scores_the_validation(validated):
    trainer, folder, _ = validated
    trainer.local_rank = 1
    trainer.perform_actual_validation()
    assert not (folder / "instance_scores").exists()
