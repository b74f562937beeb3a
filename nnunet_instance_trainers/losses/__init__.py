"""Instance-aware losses for PyTorch; know nothing of nnU-Net."""

from nnunet_instance_trainers.losses.compound import CompoundLoss
from nnunet_instance_trainers.losses.criteria import (
    ASL,
    BinaryCrossEntropy,
    Criterion,
    Dice,
    Focal,
    GeneralizedDice,
    Tversky,
)
from nnunet_instance_trainers.losses.functional import blob_loss, pixel_loss
from nnunet_instance_trainers.losses.modules import BlobLoss, PixelLoss

__all__ = [
    "ASL",
    "BinaryCrossEntropy",
    "BlobLoss",
    "CompoundLoss",
    "Criterion",
    "Dice",
    "Focal",
    "GeneralizedDice",
    "PixelLoss",
    "Tversky",
    "blob_loss",
    "pixel_loss",
]
