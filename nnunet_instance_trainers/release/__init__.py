"""Trained models for those who have plain nnU-Net: ``nnunet-instance release``."""

from nnunet_instance_trainers.release.plain_copy import release
from nnunet_instance_trainers.release.trained_models import TrainedModel

__all__ = ["TrainedModel", "release"]
