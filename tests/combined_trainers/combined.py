"""Trainers as a user combines them, in a folder of their own beside this package's in ``nnUNet_extTrainer``."""

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)

from nnunet_instance_trainers.trainers import nnUNetTrainerBlob, nnUNetTrainerInstance


class nnUNetTrainerBlobNoDeepSupervision(nnUNetTrainerBlob, nnUNetTrainerNoDeepSupervision):
    pass


class nnUNetTrainerInstanceNoDeepSupervision(nnUNetTrainerInstance, nnUNetTrainerNoDeepSupervision):
    pass


class nnUNetTrainerBlobDA5(nnUNetTrainerBlob, nnUNetTrainerDA5):
    pass


class nnUNetTrainerBlobNoDA(nnUNetTrainerBlob, nnUNetTrainerNoDA):
    pass


class nnUNetTrainerBlobNoMirroring(nnUNetTrainerBlob, nnUNetTrainerNoMirroring):
    pass
