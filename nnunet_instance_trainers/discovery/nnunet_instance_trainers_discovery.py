"""Re-exports the trainers for nnU-Net's search."""

from nnunet_instance_trainers.trainers import *  # noqa: F403
