"""Blob loss (Kofler et al. 2023)."""

from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = ["nnUNetTrainerBlob", "nnUNetTrainerBlobTversky"]


class nnUNetTrainerBlob(nnUNetTrainerInstanceBase):
    """Blob Dice over nnU-Net's own Dice and cross-entropy: every instance is compared as if it were alone.

    Kofler et al., "blob loss", IPMI 2023, Eq. 4 with alpha 2 (global) and beta 1 (blob), the values of the
    paper's text and ablation; the caption of its Table 1 has them the other way round.
    """

    weights = {"pixel": 2.0, "blob": 1.0}


class nnUNetTrainerBlobTversky(nnUNetTrainerBlob):
    """Blob Tversky (alpha 0.3, beta 0.7) over nnU-Net's own loss: missed voxels cost more than invented ones."""

    criterion = "tversky"
