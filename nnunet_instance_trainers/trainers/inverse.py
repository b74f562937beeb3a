"""Inverse weighting (Shirokikh et al. 2020)."""

from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = [
    "nnUNetTrainerInverseWeighted",
    "nnUNetTrainerInverseWeightedASL",
    "nnUNetTrainerInverseWeightedDice",
    "nnUNetTrainerInverseWeightedFocal",
]


class nnUNetTrainerInverseWeighted(nnUNetTrainerInstanceBase):
    """nnU-Net's Dice and a cross-entropy in which every object weighs the same; trades precision for sensitivity.

    Shirokikh et al. 2020, Eq. 1. The cross-entropy is binary, per class, and replaces nnU-Net's.
    """

    pixel_loss = "nnunet_dice"
    weights = {"pixel": 1.0, "inverse_weighted": 1.0}


class nnUNetTrainerInverseWeightedFocal(nnUNetTrainerInstanceBase):
    """Inverse-weighted focal loss alone (gamma 2, alpha 0.75), Shirokikh et al. 2020, Table 1."""

    weights = {"pixel": 0.0, "inverse_weighted": 1.0}
    weighted_criterion = "focal"


class nnUNetTrainerInverseWeightedASL(nnUNetTrainerInverseWeightedFocal):
    """Inverse-weighted asymmetric similarity loss alone (beta 1.5), Shirokikh et al. 2020, Table 1."""

    weighted_criterion = "asl"


class nnUNetTrainerInverseWeightedDice(nnUNetTrainerInverseWeightedFocal):
    """Inverse-weighted Dice loss alone, Shirokikh et al. 2020, Table 1."""

    weighted_criterion = "dice"
