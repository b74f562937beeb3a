"""Pixel losses of the papers that nnU-Net lacks: what their authors compared with."""

from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = ["nnUNetTrainerGeneralizedDiceFocal", "nnUNetTrainerTversky", "nnUNetTrainerWeightedCE"]


class nnUNetTrainerTversky(nnUNetTrainerInstanceBase):
    """Tversky loss (alpha 0.3 for false positives, beta 0.7 for false negatives), no instance term."""

    pixel_loss = "tversky"


class nnUNetTrainerGeneralizedDiceFocal(nnUNetTrainerInstanceBase):
    """Generalised Dice and focal loss, the pixel loss of the instance-loss and ICI papers, no instance term."""

    pixel_loss = "generalized_dice+focal"


class nnUNetTrainerWeightedCE(nnUNetTrainerInstanceBase):
    """Cross-entropy of which the foreground of a class has one half and the rest of the patch the other.

    The weighted cross-entropy that Shirokikh et al. 2020 compare with (Table 2) weighs the foreground by the predicted
    volume, (V - sum p) / sum p; here the true volume decides.
    """

    pixel_loss = "balanced_bce"
