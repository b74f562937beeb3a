"""Trained models for those who have plain nnU-Net: ``nnunet-instance release``."""

from nnunet_instance_trainers.release.copying import release
from nnunet_instance_trainers.release.trained_models import TrainedModel

__all__ = ["TrainedModel", "release"]
