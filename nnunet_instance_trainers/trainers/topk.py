"""TopK Dice (Hosseini 2023)."""

from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = ["nnUNetTrainerTopKDice", "nnUNetTrainerTopKDice_k30"]


class nnUNetTrainerTopKDice(nnUNetTrainerInstanceBase):
    """Cross-entropy and Dice of the worst-predicted 50 % of the foreground; trades precision for sensitivity.

    Hosseini 2023, Eq. 2 to 7. Needs no instance ids.
    """

    pixel_loss = "nnunet_ce"
    weights = {"pixel": 1.0, "topk_dice": 1.0}


class nnUNetTrainerTopKDice_k30(nnUNetTrainerTopKDice):
    """The same with the worst-predicted 30 %."""

    k_percent = 30
