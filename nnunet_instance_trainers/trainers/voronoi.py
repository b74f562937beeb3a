"""Losses over Voronoi cells (2025 and later)."""

from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = ["nnUNetTrainerBalancedCells", "nnUNetTrainerBiCC", "nnUNetTrainerCCDiceCE"]


class nnUNetTrainerCCDiceCE(nnUNetTrainerInstanceBase):
    """CC-DiceCE: Dice and cross-entropy in the cell of every instance, beside nnU-Net's own (1, 1).

    arXiv 2511.17146. Finds more and loses precision; the same as BiCC with alpha 0.
    """

    weights = {"pixel": 1.0, "voronoi_target": 1.0}
    cell_criterion = {"dice": {"smooth": 0}, "bce": {}}


class nnUNetTrainerBiCC(nnUNetTrainerCCDiceCE):
    """BiCC: Dice and cross-entropy in the cells of instances and in those of components, beside nnU-Net's own.

    arXiv 2609.30223 with alpha 0.5: alpha weighs ``voronoi_prediction``, 1 - alpha ``voronoi_target``.
    """

    weights = {"pixel": 1.0, "voronoi_target": 0.5, "voronoi_prediction": 0.5}


class nnUNetTrainerBalancedCells(nnUNetTrainerInstanceBase):
    """Dice and a cross-entropy of which object and rest of its cell have one half each, beside nnU-Net's own (1, 1).

    Pulls on missed instances however far they are from being found.
    """

    weights = {"pixel": 1.0, "voronoi_target": 1.0}
    cell_criterion = "balanced_bce+dice"
