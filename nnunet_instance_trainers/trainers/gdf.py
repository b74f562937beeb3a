"""Instance losses over the pixel loss of their own papers, generalised Dice and focal, instead of nnU-Net's."""

from nnunet_instance_trainers.trainers.blob import nnUNetTrainerBlob
from nnunet_instance_trainers.trainers.ici import nnUNetTrainerICI
from nnunet_instance_trainers.trainers.instance import nnUNetTrainerFalseInstance, nnUNetTrainerProximity

__all__ = [
    "nnUNetTrainerBlobGDF",
    "nnUNetTrainerFalseInstanceGDF",
    "nnUNetTrainerICIGDF",
    "nnUNetTrainerProximityGDF",
]


class nnUNetTrainerBlobGDF(nnUNetTrainerBlob):
    """Blob Dice over generalised Dice and focal loss: the best row of Rachmadi et al. 2024, Table 1."""

    pixel_loss = "generalized_dice+focal"


class nnUNetTrainerICIGDF(nnUNetTrainerICI):
    """ICI over generalised Dice and focal loss, as Rachmadi et al. 2023 and 2024 trained it."""

    pixel_loss = "generalized_dice+focal"


class nnUNetTrainerFalseInstanceGDF(nnUNetTrainerFalseInstance):
    """Missed and false rate over generalised Dice and focal loss, as Rachmadi et al. 2024 trained them."""

    pixel_loss = "generalized_dice+focal"


class nnUNetTrainerProximityGDF(nnUNetTrainerProximity):
    """Proximity over generalised Dice and focal loss, as Rachmadi et al. 2024 trained it."""

    pixel_loss = "generalized_dice+focal"
