"""ICI loss (Rachmadi et al. 2023): instance segmentation and centre terms beside a global loss."""

from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = ["nnUNetTrainerDualICI", "nnUNetTrainerICI"]


class nnUNetTrainerICI(nnUNetTrainerInstanceBase):
    """ICI: 1/4 global + 1/2 instance (target side) + 1/4 centre; more sensitive, less precise on lesions.

    Rachmadi et al. 2023, Eq. 1 to 4, with the published weights, here over nnU-Net's own Dice and cross-entropy. Under
    nnU-Net's SGD the global part takes a quarter of its step: ``scale = "unit"`` gives it the whole step.
    """

    weights = {"pixel": 0.25, "instance_target": 0.5, "center": 0.25}


class nnUNetTrainerDualICI(nnUNetTrainerInstanceBase):
    """ICI with both sides: 1/4 each of global, instance of target and of prediction side, and centre.

    Rachmadi et al. 2024, Eq. 2 to 4, with the published weights.
    """

    weights = {"pixel": 0.25, "instance_target": 0.25, "instance_prediction": 0.25, "center": 0.25}
