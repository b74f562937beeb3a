"""nnU-Net trainers; the class name is what ``nnUNetv2_train -tr`` takes."""

from nnunet_instance_trainers.trainers.baseline import nnUNetTrainerInstanceBaseline
from nnunet_instance_trainers.trainers.blob import nnUNetTrainerBlob, nnUNetTrainerBlobTversky

__all__ = ["nnUNetTrainerBlob", "nnUNetTrainerBlobTversky", "nnUNetTrainerInstanceBaseline"]
