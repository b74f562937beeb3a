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
from nnunet_instance_trainers.losses.functional import (
    blob_loss,
    false_instance_loss,
    instance_center_loss,
    instance_proximity_loss,
    instance_segmentation_loss,
    instance_terms,
    inverse_weighted_loss,
    inverse_weights,
    pixel_loss,
    topk_dice_loss,
)
from nnunet_instance_trainers.losses.modules import (
    BlobLoss,
    FalseInstanceLoss,
    InstanceCenterLoss,
    InstanceProximityLoss,
    InstanceSegmentationLoss,
    InverseWeightedLoss,
    PixelLoss,
    TopKDiceLoss,
)

__all__ = [
    "ASL",
    "BinaryCrossEntropy",
    "BlobLoss",
    "CompoundLoss",
    "Criterion",
    "Dice",
    "FalseInstanceLoss",
    "Focal",
    "GeneralizedDice",
    "InstanceCenterLoss",
    "InstanceProximityLoss",
    "InstanceSegmentationLoss",
    "InverseWeightedLoss",
    "PixelLoss",
    "TopKDiceLoss",
    "Tversky",
    "blob_loss",
    "false_instance_loss",
    "instance_center_loss",
    "instance_proximity_loss",
    "instance_segmentation_loss",
    "instance_terms",
    "inverse_weighted_loss",
    "inverse_weights",
    "pixel_loss",
    "topk_dice_loss",
]
