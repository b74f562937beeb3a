"""What a trainer of this package does beside training: it scores objects, and lets the scores choose a checkpoint."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.paths import nnUNet_raw
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, distributed, nn

from nnunet_instance_trainers.configuration import Settings
from nnunet_instance_trainers.data.map_store import remove_unfinished, write_atomically
from nnunet_instance_trainers.data.raw_files import RawFiles
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate, format_table
from nnunet_instance_trainers.training.file_faults import GO_ON
from nnunet_instance_trainers.training.other_loggers import log_epoch, log_summary
from nnunet_instance_trainers.training.patch_counts import count_objects
from nnunet_instance_trainers.training.scores_csv import ScoreRecord

__all__ = ["nnUNetTrainerScored"]

_BEST = "checkpoint_best.pth"


class nnUNetTrainerScored(nnUNetTrainer):
    """nnU-Net's trainer with instance scores of the validation patches; base of this package's base.

    A subclass sets ``settings`` and ``instance_channels`` before nnU-Net's ``__init__``, and its loss has the ids
    of the batch in ``instances``.
    """

    settings: Settings
    instance_channels: list[int]
    _is_best = False

    # --- each step and epoch ------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.local_rank == 0:
            remove_unfinished(Path(self.output_folder))
        file = Path(self.output_folder) / "instance_scores.csv"
        first = 0 if self.label_manager.has_regions else 1
        chosen = [channel - first for channel in self.instance_channels]
        metric = self.settings.checkpoint_metric
        self.score_record = ScoreRecord(file, self._class_names(), chosen, metric, self.current_epoch)
        if self.current_epoch and metric != "dice" and np.isnan(self.score_record.best):
            self.print_to_log_file(f"no best epoch in {file}: {_BEST} is chosen anew from this epoch on")

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's, with the counts of objects beside its tp, fp and fn.

        The loss is where the output meets the target and the ids, and where the target is still whole: after
        it nnU-Net turns ignored voxels into background.
        """
        counts: list[np.ndarray] = []

        def count(loss: nn.Module, seen: tuple, _: Tensor) -> None:
            scales = (*seen, loss.instances)
            counts.append(self._count(*(scale[0] if isinstance(scale, (list, tuple)) else scale for scale in scales)))

        hook = self.loss.register_forward_hook(count)
        try:
            result = super().validation_step(batch)
        finally:
            hook.remove()
        return {**result, "objects": counts[0]}

    def _count(self, output: Tensor, target: Tensor, instances: Tensor | None) -> np.ndarray:
        labels = self.label_manager
        problem: dict[str, Any] = {"regions": labels.has_regions, "ignore_label": labels.ignore_label}
        return count_objects(output, target, instances, self.instance_channels, **problem)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        super().on_validation_epoch_end(val_outputs)
        counts = np.sum(self._of_all_processes(np.sum([step["objects"] for step in val_outputs], 0)), 0)
        average = self.logger.get_value("ema_fg_dice", step=-1)
        self.scores, self._is_best = self.score_record.end_epoch(
            self.current_epoch,
            counts,
            self.logger.get_value("mean_fg_dice", step=-1),
            best_dice=self._best_ema is None or average > self._best_ema,
            write=self.local_rank == 0,
        )
        names = self._class_names()
        values = {f"{score}/{name}": self.scores[score][i] for score in self.scores for i, name in enumerate(names)}
        values["f1_average"] = self.score_record.averages["f1"]
        log_epoch(self.logger, "instance_scores", values, self.current_epoch, self.print_to_log_file)

    def _of_all_processes(self, own: Any) -> list[Any]:
        """``own`` of each process, in the order of their ranks; every process must call this."""
        if not self.is_ddp:
            return [own]
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, own)
        return gathered

    def _class_names(self) -> list[str]:
        """The foreground classes or regions, in the order of nnU-Net's scores."""
        names = [name for name in self.dataset_json["labels"] if name not in ("background", "ignore")]
        if self.label_manager.has_regions:
            return names
        labels = {name: self.dataset_json["labels"][name] for name in names}
        return sorted(names, key=lambda name: int(np.atleast_1d(labels[name])[0]))

    def _chosen_names(self) -> list[str]:
        """The classes or regions that get the instance terms."""
        first = 0 if self.label_manager.has_regions else 1
        names = self._class_names()
        return [names[channel - first] for channel in self.instance_channels]

    # --- the best epoch -----------------------------------------------------------------------------------

    def on_epoch_end(self) -> None:
        lists = (f"{name} {[round(value, 4) for value in self.scores[name]]}" for name in ScoreRecord.ratios)
        self.print_to_log_file("instance scores:", ", ".join(lists))
        super().on_epoch_end()
        gc.collect()  # the figure of nnU-Net 2.8.1 is 65 MB in a reference cycle, and Python may let dozens lie
        # nnU-Net has counted on to the next epoch, and a checkpoint holds the one after the current.
        self.current_epoch -= 1
        self._save_best()
        self.current_epoch += 1

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's, written under a temporary name first, so that a kill or a full disk never costs the last one.

        nnU-Net's own choice of the best epoch is passed over where another metric chooses. That metric's best is
        saved before ``checkpoint_latest``: a training that is resumed from there takes its epoch for saved.
        """
        if self.settings.checkpoint_metric != "dice":
            if Path(filename).name == _BEST:
                return
            self._save_best()
        self._save(filename)

    def _save_best(self) -> None:
        """Save the epoch once if the setting's own metric calls it the best."""
        if self.settings.checkpoint_metric == "dice" or not self._is_best:
            return
        self._is_best = False
        self.print_to_log_file(
            f"new best moving average ({self.settings.checkpoint_metric}): {self.score_record.best:.4f}"
        )
        self._save(str(Path(self.output_folder) / _BEST))

    def _save(self, filename: str) -> None:
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with write_atomically(Path(filename), GO_ON) as temporary:
            super().save_checkpoint(str(temporary))

    # --- the final validation -----------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's, and what ``nnunet-instance evaluate`` writes, in a folder beside nnU-Net's summary.json."""
        super().perform_actual_validation(save_probabilities)
        if self.local_rank != 0:
            return
        validation = Path(self.output_folder) / "validation"
        try:
            evaluation = evaluate(
                validation,
                Path(self.preprocessed_dataset_folder_base) / "gt_segmentations",
                validation / "instance_scores",
                instances=self._raw_files.annotated,
                instance_classes=self._chosen_names(),
                subset=True,
                n_processes=default_num_processes,
            )
        except Exception as error:  # the training is done and nnU-Net's own scores are written
            reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.print_to_log_file(f"no instance scores of the validation: {reason}")
        else:
            self.print_to_log_file(f"Instance scores of the validation\n{format_table(evaluation)}")
            pooled = evaluation.summary["pooled"]["foreground"]
            values = {name: pooled[name] for name in (*ScoreRecord.numbers, *ScoreRecord.ratios)}
            log_summary(self.logger, "instance_scores/final_val", values, self.print_to_log_file)

    @property
    def _raw_files(self) -> RawFiles:
        """The labels and annotators' maps of the dataset, as far as they are on this machine."""
        kept = Path(self.preprocessed_dataset_folder_base) / "gt_segmentations"
        raw = Path(nnUNet_raw) / self.plans_manager.dataset_name if nnUNet_raw.is_set() else None
        return RawFiles(kept, raw, self.dataset_json)
