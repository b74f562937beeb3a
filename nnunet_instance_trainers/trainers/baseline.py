"""What to compare the other trainers with."""

from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = ["nnUNetTrainerInstanceBaseline"]


class nnUNetTrainerInstanceBaseline(nnUNetTrainerInstanceBase):
    """nnU-Net's stock loss with this package's settings and monitoring, and no instance term."""
